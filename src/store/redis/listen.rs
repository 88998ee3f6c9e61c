//! Receives changes on one connection, subscribed to the channels of the followed circuits.
//!
//! Owns one connection's life. The caller decides when to reconnect; the next connection goes to
//! the current master, or to another node of the Cluster. A stopped server is silent, so a
//! heartbeat checks that it answers.

use std::{collections::BTreeSet, time::Duration};

use futures_util::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{Notice, StoreError, endpoint::Endpoint, keys::Prefix, wire};
use crate::model::{Name, Snapshot};

const HEARTBEAT: Duration = Duration::from_secs(1);
/// The minimum timeout of a heartbeat: a busy moment is no reason to reconnect.
const PATIENCE: Duration = Duration::from_millis(500);

pub(super) async fn run(
    endpoint: &Endpoint,
    prefix: &Prefix,
    wait: Duration,
    mut followed: watch::Receiver<BTreeSet<Name>>,
    notices: mpsc::UnboundedSender<Notice>,
) -> Result<(), StoreError> {
    let wait = wait.max(PATIENCE);
    let late = |_| StoreError::Timeout(wait);
    let connecting = timeout(wait, endpoint.subscriber()).await;
    let (mut connection, mut messages) = connecting.map_err(late)??.split();
    let mut subscribed = BTreeSet::new();
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // `changed` alone would wait for the next change: subscribe to the current circuits now.
    followed.mark_changed();
    loop {
        tokio::select! {
            changed = followed.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let wanted = followed.borrow_and_update().clone();
                let channels = |from: &BTreeSet<Name>, but: &BTreeSet<Name>| -> Vec<_> {
                    from.difference(but).map(|name| prefix.circuit(name)).collect()
                };
                let (gone, new) = (channels(&subscribed, &wanted), channels(&wanted, &subscribed));
                if !gone.is_empty() {
                    let done = timeout(wait, connection.unsubscribe(&gone)).await;
                    done.map_err(late)?.map_err(wire::error)?;
                }
                if !new.is_empty() {
                    let done = timeout(wait, connection.subscribe(&new)).await;
                    done.map_err(late)?.map_err(wire::error)?;
                }
                subscribed = wanted;
                if notices.send(Notice::Listening(subscribed.clone())).is_err() {
                    return Ok(());
                }
            }
            () = notices.closed() => return Ok(()),
            message = messages.next() => match message {
                None => return Err(StoreError::unreachable("the connection that hears of changes was closed")),
                Some(message) => {
                    if let Some((name, snapshot)) = change(prefix, &message) {
                        let _ = notices.send(Notice::Changed(name, Box::new(snapshot)));
                    }
                }
            },
            _ = heartbeat.tick() => {
                let answer = timeout(wait, connection.ping::<redis::Value>()).await;
                answer.map_err(late)?.map_err(wire::error)?;
            }
        }
    }
}

fn change(prefix: &Prefix, message: &redis::Msg) -> Option<(Name, Snapshot)> {
    let name = prefix.name_of(message.get_channel_name())?;
    Some((name, wire::decode_publication(message.get_payload_bytes())?))
}
