//! Asking the store for leave to make one call, when the cache does not know.
//!
//! Owns the single flight and its time limit. Invariant: a permit that the store gave is held by
//! somebody or given back, whatever becomes of the caller that asked.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    Rejection,
    cell::{Cell, Ticket},
    gate::Hold,
    permit::Held,
};

type Answer = Result<Held<Arc<Cell>>, Rejection>;

/// How long a permit that was fetched ahead waits for its caller.
const SPARE_KEEPS: Duration = Duration::from_secs(1);

impl Cell {
    /// Leave to make one call, or why not, without waiting: where the cache does not know, the
    /// answer is fetched for the next caller and this one is rejected.
    pub(super) fn enter_at_once(self: &Arc<Self>) -> Result<Ticket, Rejection> {
        let hold = match self.enter() {
            Ok(ticket) => return Ok(ticket),
            Err(hold) => hold,
        };
        if let Some(ticket) = self.spare.lock().take().and_then(Held::into_ticket) {
            return Ok(ticket);
        }
        if let Hold::Reject(rejection) = hold {
            return Err(self.reject(rejection));
        }
        if self.asks_own() {
            return self
                .ask_locally()
                .ok_or_else(|| self.reject(self.rejection()));
        }
        if let Some(turn) = Turn::take(self) {
            let cell = Arc::clone(self);
            self.shared.spawn(async move {
                let answer = cell.ask_store().await;
                drop(turn);
                *cell.spare.lock() = answer.ok();
                tokio::time::sleep(SPARE_KEEPS).await;
                let unclaimed = cell.spare.lock().take();
                drop(unclaimed);
            });
        }
        Err(self.reject(self.busy()))
    }

    /// Leave to make one call, or why not, once it is known.
    pub(super) async fn enter_or_ask(self: &Arc<Self>) -> Result<Ticket, Rejection> {
        match self.enter() {
            Ok(ticket) => Ok(ticket),
            Err(Hold::Reject(rejection)) => Err(self.reject(rejection)),
            Err(_) => self.ask().await,
        }
    }

    /// Leave to make one call where the cache does not know, or knows only what is stale.
    async fn ask(self: &Arc<Self>) -> Result<Ticket, Rejection> {
        let answer = self.ask_store_or_own().await;
        answer.or_else(|rejection| match self.enter() {
            // Breaking was switched off meanwhile.
            Ok(ticket) if self.shared.is_off() => Ok(ticket),
            _ => Err(self.reject(rejection)),
        })
    }

    async fn ask_store_or_own(self: &Arc<Self>) -> Result<Ticket, Rejection> {
        if self.asks_own() {
            return self.ask_locally().ok_or_else(|| self.rejection());
        }
        let strict = self.policy.load().rules.decision_ttl_ms == 0;
        let answer = match self.gate.decide(self.now()) {
            _ if strict => self.ask_detached(None).await,
            Err(Hold::AskAlone) => match Turn::take(self) {
                Some(turn) => self.ask_detached(Some(turn)).await,
                None => return Err(self.busy()),
            },
            Err(Hold::Ask) => {
                let _turn = self.ask_turn.lock().await;
                // Whoever had the turn before may have brought the answer.
                match self.enter() {
                    Ok(ticket) => return Ok(ticket),
                    Err(Hold::Reject(rejection)) => return Err(rejection),
                    Err(_) => self.ask_detached(None).await,
                }
            }
            // A stale decision is renewed by one call of this process at a time, and the others go
            // by it meanwhile: so a store that hangs holds up one of them.
            Ok(tag) => match self.shared.renewing.try_lock() {
                Ok(_turn) => self.ask_detached(None).await,
                Err(_) => return Ok(self.ticket(tag)),
            },
            Err(Hold::Reject(rejection)) => match self.shared.renewing.try_lock() {
                Ok(_turn) => self.ask_detached(None).await,
                Err(_) => return Err(rejection),
            },
        };
        let held = answer?;
        held.into_ticket().ok_or_else(|| self.rejection())
    }

    /// Asks in a task of its own, so that a caller that goes away loses no permit.
    async fn ask_detached(self: &Arc<Self>, turn: Option<Turn>) -> Answer {
        let (to, from) = oneshot::channel();
        let cell = Arc::clone(self);
        self.shared.spawn(async move {
            let answer = cell.ask_store().await;
            drop(turn);
            // If nobody waits any more the permit is dropped here, and so given back.
            let _ = to.send(answer);
        });
        from.await.unwrap_or_else(|_| Err(self.busy()))
    }

    async fn ask_store(self: &Arc<Self>) -> Answer {
        let request = self.request();
        let asked = self.shared.store.acquire(&self.name, &request);
        match self.shared.in_time(asked).await {
            Ok(grant) => {
                self.take_shared(&grant.snapshot);
                let ticket = self.granted(grant.permission, request.token, &grant.snapshot, false);
                match ticket {
                    Some(ticket) => Ok(Held::new(Arc::clone(self), ticket)),
                    None => Err(self.rejection()),
                }
            }
            Err(error) => {
                // The grant may have been made and its answer lost.
                self.give_back(request.token);
                self.shared.store_failed(self, &error);
                match self.enter() {
                    Ok(ticket) => Ok(Held::new(Arc::clone(self), ticket)),
                    Err(Hold::Reject(rejection)) => Err(rejection),
                    Err(Hold::Ask | Hold::AskAlone) => match self.ask_locally() {
                        Some(ticket) => Ok(Held::new(Arc::clone(self), ticket)),
                        None => Err(self.rejection()),
                    },
                }
            }
        }
    }

    /// What to tell a caller while another asks.
    fn busy(&self) -> Rejection {
        let retry_after = Some(self.shared.store_timeout);
        Rejection {
            reason: crate::model::Reason::ProbesOut,
            retry_after,
            ..self.rejection()
        }
    }
}

/// The right to be the one that asks; ends on drop.
struct Turn(Arc<Cell>);

impl Turn {
    fn take(cell: &Arc<Cell>) -> Option<Self> {
        let free = !cell.asking.swap(true, Ordering::SeqCst);
        free.then(|| Self(Arc::clone(cell)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.asking.store(false, Ordering::SeqCst);
    }
}
