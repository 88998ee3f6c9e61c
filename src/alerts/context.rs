//! What an alert is checked and sent with: the registry, and the user's settings.

use std::sync::Arc;

use super::AlertSettings;
use crate::breaker::Watch;

#[derive(Clone)]
pub(super) struct Context {
    pub(super) watch: Watch,
    pub(super) settings: Arc<AlertSettings>,
}
