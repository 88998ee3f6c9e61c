//! Asking the store for permission to make one call, when the cache does not know.
//!
//! Owns the single flight and its time limit. Invariant: a permit granted by the store is used in
//! time or given back, whatever happens to the caller that asked.

use std::{
    sync::{Arc, atomic::Ordering, mpsc},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use super::{
    Rejection,
    gate::NotAdmitted,
    inner::{CircuitInner, Fetched, Ticket},
    shared::stopped,
};
use crate::{
    model::{Acquire, Grant, OnStoreFailure, Permission, Reason, Release},
    store::StoreError,
};

type Answer = Result<Fetched, Rejection>;

/// The minimum time between two looks at a permit that was fetched ahead, ms.
const SPARE_LOOKS_MS: u64 = 100;

impl CircuitInner {
    /// How long a permit that was fetched ahead waits for its caller: half of its lease, so that
    /// the call has the other half.
    pub(super) fn spare_keeps(&self) -> Duration {
        Duration::from_millis(self.policy.load().rules.probe_lease_ms) / 2
    }

    /// Permission to make one call, or a rejection, without waiting. Uses the cached decision even
    /// if it is stale, and renews it in the background. Fetches a probe's permit for the next
    /// caller.
    pub(super) fn enter_at_once(self: &Arc<Self>) -> Result<Ticket, Rejection> {
        let not_admitted = match self.enter() {
            Ok(ticket) => return Ok(ticket),
            Err(not_admitted) => not_admitted,
        };
        if let Some(ticket) = self.claim_spare() {
            return Ok(ticket);
        }
        if let NotAdmitted::Reject(rejection) = not_admitted {
            return Err(self.reject(rejection));
        }
        if self.asks_own() {
            let ticket = self.ask_locally().map_or_else(|| self.by_cache(), Ok);
            return ticket.map_err(|rejection| self.reject(rejection));
        }
        if self.shared.store.is_immediate() {
            return self.ask_here().map_err(|rejection| self.reject(rejection));
        }
        let now = self.now();
        if !self.gate.is_fresh(now) {
            self.renew();
        }
        if matches!(self.gate.decide(now), Err(NotAdmitted::AskAlone)) {
            self.fetch_spare();
        }
        self.unasked().map_err(|rejection| self.reject(rejection))
    }

    /// Permission to make one call, or a rejection, without asking the store.
    fn unasked(&self) -> Result<Ticket, Rejection> {
        match self.gate.decide(self.now()) {
            Ok(tag) => Ok(self.ticket(tag)),
            Err(NotAdmitted::Reject(rejection)) => Err(rejection),
            Err(NotAdmitted::AskAlone) => Err(self.requested()),
            // Nothing is known yet, or an override that admitted every call has ended.
            Err(NotAdmitted::Ask) => match self.policy.load().on_store_failure {
                OnStoreFailure::Reject if !self.is_confirmed() => Err(Rejection {
                    reason: Reason::AwaitingStore,
                    ..self.requested()
                }),
                _ => Ok(self.present_ticket()),
            },
        }
    }

    fn fetch_spare(self: &Arc<Self>) {
        let Some(turn) = Turn::take(self) else {
            return;
        };
        let inner = Arc::clone(self);
        let mut stop = self.shared.stop.subscribe();
        self.shared.spawn(async move {
            let fetched = inner.ask_store().await.ok().filter(Fetched::is_probe);
            drop(turn);
            let Some(fetched) = fetched else { return };
            let asked_at = fetched.asked_at;
            *inner.spare.lock() = Some(fetched);
            let same = |spare: &mut Fetched| spare.asked_at == asked_at;
            while asked_at.elapsed() < inner.spare_keeps() {
                let ttl = inner
                    .policy
                    .load()
                    .rules
                    .decision_ttl_ms
                    .max(SPARE_LOOKS_MS);
                tokio::select! {
                    () = sleep(Duration::from_millis(ttl).min(inner.spare_keeps())) => {}
                    () = stopped(&mut stop) => break,
                }
                if !inner.spare.lock().as_mut().is_some_and(same) {
                    return;
                }
                if !inner.followed.load(Ordering::Relaxed) {
                    // Nothing tells this process when the circuit changes.
                    inner.renew();
                }
            }
            let unclaimed = inner.spare.lock().take_if(same);
            drop(unclaimed);
        });
    }

    fn claim_spare(&self) -> Option<Ticket> {
        let spare = self.spare.lock().take();
        spare.and_then(Fetched::claim)
    }

    /// Permission to make one call, or a rejection, once it is known.
    pub(super) async fn enter_or_ask(self: &Arc<Self>) -> Result<Ticket, Rejection> {
        let entered = self.enter_or_ask_uncounted().await;
        entered.map_err(|rejection| self.reject(rejection))
    }

    /// [`enter_or_ask`](Self::enter_or_ask) for a call that no user made: a rejection is not
    /// counted.
    pub(super) async fn enter_or_ask_uncounted(self: &Arc<Self>) -> Result<Ticket, Rejection> {
        match self.enter() {
            Ok(ticket) => Ok(ticket),
            Err(not_admitted) => match (self.claim_spare(), not_admitted) {
                (Some(ticket), _) => Ok(ticket),
                (None, NotAdmitted::Reject(rejection)) => Err(rejection),
                (None, _) => self.ask().await,
            },
        }
    }

    /// [`enter_or_ask`](Self::enter_or_ask) that blocks the thread, for at most `store_timeout`.
    pub(super) fn enter_blocking(self: &Arc<Self>) -> Result<Ticket, Rejection> {
        match self.enter() {
            Ok(ticket) => return Ok(ticket),
            Err(NotAdmitted::Reject(rejection)) => return Err(self.reject(rejection)),
            Err(_) if self.asks_own() || self.shared.store.is_immediate() => {
                return self.enter_at_once();
            }
            Err(_) => {}
        }
        let (to, from) = mpsc::sync_channel(1);
        let inner = Arc::clone(self);
        self.shared.spawn(async move {
            let asked_at = Instant::now();
            let answer = inner.enter_or_ask().await;
            // If nobody waits any more, the permit is dropped here, and so put back.
            let _ = to.send(answer.map(|ticket| Fetched::new(inner, ticket, asked_at)));
        });
        match from.recv_timeout(self.shared.store_timeout) {
            Ok(Ok(fetched)) => {
                let ticket = fetched.claim().map_or_else(|| self.by_cache(), Ok);
                ticket.map_err(|rejection| self.reject(rejection))
            }
            // Already counted when it was rejected.
            Ok(Err(rejection)) => Err(rejection),
            Err(_) => self.enter_at_once(),
        }
    }

    /// Permission to make one call, if the cache has no decision or only a stale one.
    async fn ask(self: &Arc<Self>) -> Result<Ticket, Rejection> {
        let answer = self.ask_store_or_own().await;
        answer.or_else(|rejection| match self.enter() {
            // Breaking was switched off in the meantime.
            Ok(ticket) if self.is_off() => Ok(ticket),
            _ => Err(rejection),
        })
    }

    async fn ask_store_or_own(self: &Arc<Self>) -> Result<Ticket, Rejection> {
        if self.asks_own() {
            return self.ask_locally().map_or_else(|| self.by_cache(), Ok);
        }
        if self.shared.store.is_immediate() {
            return self.ask_here();
        }
        let strict = self.policy.load().rules.decision_ttl_ms == 0;
        let answer = match self.gate.decide(self.now()) {
            _ if strict => self.ask_detached(None).await,
            Err(NotAdmitted::AskAlone) => match Turn::take(self) {
                Some(turn) => self.ask_detached(Some(turn)).await,
                None => return Err(self.requested()),
            },
            Err(NotAdmitted::Ask) => {
                let _turn = self.ask_turn.lock().await;
                // The previous holder of the turn may have brought the answer.
                match self.enter() {
                    Ok(ticket) => return Ok(ticket),
                    Err(NotAdmitted::Reject(rejection)) => return Err(rejection),
                    Err(_) => self.ask_detached(None).await,
                }
            }
            // One call of this process at a time renews a stale decision, and the others use it in
            // the meantime. So a store that hangs holds up only one of them.
            Ok(tag) => match self.shared.renewing.try_lock() {
                Ok(_turn) => self.ask_detached(None).await,
                Err(_) => return Ok(self.ticket(tag)),
            },
            Err(NotAdmitted::Reject(rejection)) => match self.shared.renewing.try_lock() {
                Ok(_turn) => self.ask_detached(None).await,
                Err(_) => return Err(rejection),
            },
        };
        answer?.claim().map_or_else(|| self.by_cache(), Ok)
    }

    /// Asks in a task of its own, so that no permit is lost when a caller gives up.
    async fn ask_detached(self: &Arc<Self>, turn: Option<Turn>) -> Answer {
        let (to, from) = oneshot::channel();
        let inner = Arc::clone(self);
        self.shared.spawn(async move {
            let answer = inner.ask_store().await;
            drop(turn);
            // If nobody waits any more, the permit is dropped here, and so put back.
            let _ = to.send(answer);
        });
        from.await.unwrap_or_else(|_| {
            // The registry's runtime is gone, or about to go.
            let ticket = self.ask_locally().map_or_else(|| self.by_cache(), Ok);
            ticket.map(|ticket| Fetched::new(Arc::clone(self), ticket, Instant::now()))
        })
    }

    async fn ask_store(self: &Arc<Self>) -> Answer {
        // However many circuits ask at once, each answer must come in time.
        let turn = self.shared.asking.acquire();
        let turn = tokio::time::timeout(self.shared.store_timeout / 2, turn).await;
        let Ok(Ok(_turn)) = turn else {
            let ticket = self.unasked()?;
            return Ok(Fetched::new(Arc::clone(self), ticket, Instant::now()));
        };
        if self.is_strict() {
            self.file_first().await;
        }
        let request = self.request();
        let asked_at = Instant::now();
        let asked = self.shared.store.acquire(&self.name, &request);
        match self.shared.in_time(asked).await {
            Ok(grant)
                if grant.permission == Permission::Probe
                    && asked_at.elapsed() > self.shared.store_timeout =>
            {
                // This process was suspended: the permit may belong to another caller by now.
                self.take_shared(&grant.snapshot, asked_at);
                self.give_back(request.token);
                Err(self.requested())
            }
            Ok(grant) if grant.permission == Permission::Probe && self.shared.is_ending() => {
                // Nothing may be left to settle it, or to give it back.
                let Acquire { head, token } = request;
                let release = Release { head, token };
                let released = self.shared.store.release(&self.name, &release);
                let _ = self.shared.in_time(released).await;
                self.by_cache()
                    .map(|ticket| Fetched::new(Arc::clone(self), ticket, asked_at))
            }
            answer => self.take_grant(answer, request, asked_at),
        }
    }

    /// Whether this circuit asks at every call and reports at once. Then an answer takes into
    /// account everything that this process has seen.
    fn is_strict(&self) -> bool {
        let rules = self.policy.load().rules;
        rules.decision_ttl_ms == 0 && rules.report_interval_ms == 0
    }

    /// Asks a store in this process.
    fn ask_here(self: &Arc<Self>) -> Result<Ticket, Rejection> {
        if self.is_strict() {
            self.file_here();
        }
        let request = self.request();
        let asked_at = Instant::now();
        let answer = self.shared.store.acquire(&self.name, &request);
        let Some(answer) = answer.now_or_never() else {
            return Err(self.requested());
        };
        let fetched = self.take_grant(answer, request, asked_at)?;
        fetched.claim().map_or_else(|| self.by_cache(), Ok)
    }

    fn take_grant(
        self: &Arc<Self>,
        answer: Result<Grant, StoreError>,
        request: Acquire,
        asked_at: Instant,
    ) -> Answer {
        let fetched = |ticket| Fetched::new(Arc::clone(self), ticket, asked_at);
        match answer {
            Ok(grant) => {
                self.take_shared(&grant.snapshot, asked_at);
                let ticket = self.granted(grant.permission, request.token, &grant.snapshot, false);
                let ticket = ticket.map_or_else(|| self.by_cache(), Ok);
                ticket.map(fetched)
            }
            Err(error) => {
                // The grant may have been made and its answer lost.
                self.give_back(request.token);
                self.shared.store_failed(&[(self, error)]);
                match self.enter() {
                    Ok(ticket) => Ok(fetched(ticket)),
                    Err(NotAdmitted::Reject(rejection)) => Err(rejection),
                    Err(NotAdmitted::Ask | NotAdmitted::AskAlone) => {
                        let ticket = self.ask_locally().map_or_else(|| self.by_cache(), Ok);
                        ticket.map(fetched)
                    }
                }
            }
        }
    }

    /// The cached decision, for when the store's answer could not be used: it is just as new.
    fn by_cache(&self) -> Result<Ticket, Rejection> {
        match self.gate.decide(self.now()) {
            Ok(tag) => Ok(self.ticket(tag)),
            Err(NotAdmitted::Reject(rejection)) => Err(rejection),
            Err(NotAdmitted::Ask | NotAdmitted::AskAlone) => Err(self.requested()),
        }
    }

    /// The rejection of a caller while another one asks.
    fn requested(&self) -> Rejection {
        Rejection {
            reason: Reason::ProbeRequested,
            retry_after: Some(self.shared.store_timeout),
            ..self.rejection()
        }
    }
}

/// The right to be the one caller that asks; ends on drop.
struct Turn(Arc<CircuitInner>);

impl Turn {
    fn take(inner: &Arc<CircuitInner>) -> Option<Self> {
        let free = !inner.asking.swap(true, Ordering::SeqCst);
        free.then(|| Self(Arc::clone(inner)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.asking.store(false, Ordering::SeqCst);
    }
}
