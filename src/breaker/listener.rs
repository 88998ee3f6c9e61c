//! The task that hears of changes.
//!
//! Owns the connection's return after a break; while it is away every decision is good for
//! `decision_ttl` only.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::registry::{Shared, stopped};
use crate::{
    model::Name,
    store::{Notice, StoreError},
};

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A store that cannot push, or gives this user no leave to listen, will not learn it soon.
const REFUSED_WAIT: Duration = Duration::from_secs(10);
/// How long further circuits wait to be followed, for each that is: telling all of them takes
/// longer the more there are.
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
            for cell in shared.cells() {
                cell.follow(false);
            }
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

impl Shared {
    /// The names of all circuits.
    fn names(&self) -> BTreeSet<Name> {
        self.circuits.lock().keys().cloned().collect()
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
