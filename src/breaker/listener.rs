//! The task that hears of changes.
//!
//! Owns the connection's return after a break; while it is away every decision is good for
//! `decision_ttl` only.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use super::registry::{Shared, stopped};
use crate::{
    model::Name,
    store::{Notice, StoreError},
};

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A store that cannot push, or gives this user no leave to listen, will not learn it soon.
const REFUSED_WAIT: Duration = Duration::from_secs(10);

pub(super) async fn run(
    shared: Arc<Shared>,
    followed: watch::Receiver<BTreeSet<Name>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut wait = FIRST_WAIT;
    let mut warned = false;
    loop {
        let (sender, mut notices) = mpsc::unbounded_channel();
        let mut listening = shared.store.listen(followed.clone(), sender);
        let ended = loop {
            tokio::select! {
                // Notices first: however many come, they do not pile up.
                biased;
                () = stopped(&mut stop) => return,
                Some(notice) = notices.recv() => {
                    (wait, warned) = (FIRST_WAIT, false);
                    hear(&shared, notice);
                }
                ended = &mut listening => break ended,
            }
        };
        drop(listening);
        for cell in shared.cells() {
            cell.follow(false);
        }
        let pause = match ended {
            Ok(()) => return,
            Err(error @ (StoreError::Refused(_) | StoreError::Unable(_))) => {
                // Others have their line when the store goes away.
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(%error, "changes of circuits are not pushed; decisions are good for decision_ttl only");
                }
                match error {
                    StoreError::Refused(_) => REFUSED_WAIT,
                    _ => wait,
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the connection that hears of changes broke");
                wait.min(LONGEST_WAIT)
            }
        };
        wait = (wait * 2).min(REFUSED_WAIT);
        tokio::select! {
            () = tokio::time::sleep(pause.mul_f64(fastrand::f64().mul_add(0.5, 1.0))) => {}
            () = stopped(&mut stop) => return,
        }
    }
}

fn hear(shared: &Arc<Shared>, notice: Notice) {
    match notice {
        Notice::Listening(names) => {
            for cell in shared.cells() {
                cell.follow(names.contains(&cell.name));
            }
        }
        Notice::Changed(name, snapshot) => {
            if let Some(cell) = shared.cell(&name) {
                cell.take_pushed(&snapshot);
            }
        }
    }
}
