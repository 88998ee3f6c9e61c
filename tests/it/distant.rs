//! A store in this process whose answers are asynchronous, like those of a remote store.

use std::collections::BTreeSet;

use commontrip::{
    MemoryStore, Name, Store, StoreError,
    store::{Answer, Notice},
};
use tokio::sync::{mpsc, watch};

use crate::delegate::to_inner;

#[derive(Clone, Debug, Default)]
pub struct Distant {
    pub inner: MemoryStore,
    /// Does not push changes.
    pub mute: bool,
}

impl Store for Distant {
    to_inner! { acquire release control snapshot events circuits ping report }

    fn listen(
        &self,
        followed: watch::Receiver<BTreeSet<Name>>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Answer<'_, ()> {
        match self.mute {
            true => Box::pin(std::future::ready(Err(StoreError::Refused("mute".into())))),
            false => self.inner.listen(followed, notices),
        }
    }
}
