//! Hearing of changes: one RESP3 connection subscribed to the channels of the followed circuits.
//!
//! Owns one connection's life; the caller decides when to try again. A stopped server says
//! nothing, so a heartbeat asks.

use std::{collections::BTreeSet, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, Value,
};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{Notice, StoreError, keys::Prefix, wire};
use crate::model::{Name, Snapshot};

const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a heartbeat's answer may take at least: a busy moment is no reason to reconnect.
const PATIENCE: Duration = Duration::from_millis(500);

pub(super) async fn run(
    client: &Client,
    prefix: &Prefix,
    wait: Duration,
    mut followed: watch::Receiver<BTreeSet<Name>>,
    notices: mpsc::UnboundedSender<Notice>,
) -> Result<(), StoreError> {
    let wait = wait.max(PATIENCE);
    let info = client.get_connection_info().clone();
    let resp3 = info
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3);
    let client = info
        .set_redis_settings(resp3)
        .into_connection_info()
        .and_then(Client::open);
    let (sender, mut pushes) = mpsc::unbounded_channel();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(wait))
        .set_response_timeout(Some(wait))
        .set_push_sender(sender);
    let client = client.map_err(wire::error)?;
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    let connecting = timeout(wait, connecting).await;
    let mut connection = connecting
        .map_err(|_| StoreError::Timeout(wait))?
        .map_err(wire::error)?;
    let mut subscribed = BTreeSet::new();
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // `interval` ticks at once, and `changed` would wait: follow what there is now.
    followed.mark_changed();
    loop {
        tokio::select! {
            changed = followed.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let wanted = followed.borrow_and_update().clone();
                let gone: Vec<_> = subscribed.difference(&wanted).map(|n| prefix.circuit(n)).collect();
                let new: Vec<_> = wanted.difference(&subscribed).map(|n| prefix.circuit(n)).collect();
                if !gone.is_empty() {
                    connection.unsubscribe(&gone).await.map_err(wire::error)?;
                }
                if !new.is_empty() {
                    connection.subscribe(&new).await.map_err(wire::error)?;
                }
                subscribed = wanted;
                if notices.send(Notice::Listening(subscribed.clone())).is_err() {
                    return Ok(());
                }
            }
            () = notices.closed() => return Ok(()),
            push = pushes.recv() => match push {
                Some(push) if push.kind == PushKind::Disconnection => return Err(lost()),
                None => return Err(lost()),
                Some(push) => {
                    if let Some((name, snapshot)) = change(prefix, &push) {
                        let _ = notices.send(Notice::Changed(name, Box::new(snapshot)));
                    }
                }
            },
            _ = heartbeat.tick() => {
                let ping = redis::cmd("PING");
                let answer = timeout(wait, ping.query_async::<()>(&mut connection)).await;
                answer.map_err(|_| StoreError::Timeout(wait))?.map_err(wire::error)?;
            }
        }
    }
}

fn lost() -> StoreError {
    StoreError::Unreachable("the connection that hears of changes was closed".into())
}

fn change(prefix: &Prefix, push: &PushInfo) -> Option<(Name, Snapshot)> {
    let (PushKind::Message, [Value::BulkString(channel), Value::BulkString(message)]) =
        (&push.kind, push.data.as_slice())
    else {
        return None;
    };
    let name = prefix.name_of(std::str::from_utf8(channel).ok()?)?;
    Some((name, wire::decode_publication(message)?))
}
