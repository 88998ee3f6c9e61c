//! The task that receives changes.
//!
//! Owns reconnecting after a break. While the connection is down, every decision is valid for
//! `decision_ttl` only.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::shared::{Shared, stopped};
use crate::{
    model::Name,
    store::{Notice, StoreError},
};

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A store that cannot push, or denies this user the right to listen, is not likely to change soon.
const REFUSED_WAIT: Duration = Duration::from_secs(10);
/// How long a new circuit waits to be followed, for each circuit that already is: an update names
/// all of them, and takes longer the more there are.
const EACH: Duration = Duration::from_micros(10);

pub(super) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let (names, followed) = watch::channel(shared.names());
    let mut change = None;
    let mut wait = FIRST_WAIT;
    let mut warned = false;
    loop {
        let (sender, mut notices) = mpsc::unbounded_channel();
        let mut listening = shared.store.listen(followed.clone(), sender);
        let mut heard = false;
        let ended = loop {
            tokio::select! {
                // Notices first: however many come, they do not pile up.
                biased;
                () = stopped(&mut stop) => return,
                Some(notice) = notices.recv() => {
                    (wait, warned, heard) = (FIRST_WAIT, false, true);
                    hear(&shared, notice);
                }
                ended = &mut listening => break ended,
                () = shared.others.notified() => {
                    let some = EACH * u32::try_from(names.borrow().len()).unwrap_or(u32::MAX);
                    change.get_or_insert(Instant::now() + some);
                }
                () = sleep_until(change.unwrap_or_else(Instant::now)), if change.is_some() => {
                    change = None;
                    names.send_replace(shared.names());
                }
            }
        };
        drop(listening);
        if heard {
            for inner in shared.inners() {
                inner.follow(false);
            }
        }
        let pause = match ended {
            Ok(()) => return,
            Err(
                error @ (StoreError::Refused(_)
                | StoreError::Unsupported(_)
                | StoreError::Unable(_)),
            ) => {
                // Other errors are logged when the store becomes unavailable.
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(target: "commontrip::store", %error, "changes of circuits are not pushed; decisions are valid for decision_ttl only");
                }
                match error {
                    StoreError::Refused(_) | StoreError::Unsupported(_) => REFUSED_WAIT,
                    _ => wait,
                }
            }
            Err(error) => {
                tracing::debug!(target: "commontrip::store", %error, "the connection that receives changes broke");
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

impl Shared {
    /// The names of all circuits.
    pub(super) fn names(&self) -> BTreeSet<Name> {
        self.circuits.lock().keys().cloned().collect()
    }
}

fn hear(shared: &Arc<Shared>, notice: Notice) {
    match notice {
        Notice::Listening(names) => {
            for inner in shared.inners() {
                inner.follow(names.contains(&inner.name));
            }
        }
        Notice::Changed(name, snapshot) => {
            if let Some(inner) = shared.inner(&name) {
                inner.take_pushed(&snapshot);
            }
        }
    }
}
