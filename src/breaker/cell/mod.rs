//! One circuit in this process: the gate in front, the tally behind, and what is known of the
//! shared circuit between them.
//!
//! Owns the view (the newest snapshot taken over) and the outbox (what the next report will
//! carry). Invariants: a snapshot of an older generation is never taken over while the store is
//! there; outcomes are filed under the generation that permitted them.
//! Locks are taken in the order view, outbox, tally, own, noted.

mod abandoned;
mod evidence;
mod hint;
mod idle;
mod news;
mod outcomes;
mod own;
mod reports;
mod streams;

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

pub(super) use self::idle::{IDLE_TIMEOUT, YEAR};
use self::{abandoned::Usual, evidence::Foreseen, hint::Hint};
use super::{
    Rejection,
    ask::Fetched,
    gate::{Gate, Glance, Hold, Source},
    outbox::Outbox,
    registry::Shared,
    stats::Noted,
    tally::Tally,
};
use crate::model::{
    Acquire, Circuit, Kind, Name, Permission, Policy, Settled, Snapshot, State, Sums,
};

/// Whether, and why, a circuit goes on without the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Away {
    No,
    /// The store serves nobody, or nobody of the circuit's shard.
    Store,
    /// The store refuses this circuit's requests.
    Refused,
    /// Nobody reports any more: for good.
    Ended,
}

pub(super) struct Cell {
    pub(super) name: Name,
    pub(super) shared: Arc<Shared>,
    pub(super) gate: Gate,
    pub(super) tally: Tally,
    /// The policy in force: the code's, with what is stored with the circuit.
    pub(super) policy: ArcSwap<Policy>,
    /// The reporter does not look after this circuit until it is woken.
    pub(super) parked: AtomicBool,
    /// The reporter is asked to look at this circuit.
    pub(super) asked: AtomicBool,
    /// The reporter's own: it looks this circuit through; what it said is under way.
    pub(super) listed: AtomicBool,
    pub(super) aboard: AtomicBool,
    /// When this circuit was last seen in use, coarse ms; off the way of a call.
    pub(super) used_at: AtomicU64,
    /// Something must leave at once.
    pub(super) urgent: AtomicBool,
    /// The decision wants renewing.
    pub(super) stale: AtomicBool,
    /// An [`Away`]. While it is not `No` only the link's task asks the store for this circuit.
    away: AtomicU8,
    /// This replica is open for itself, for want of a quorum.
    alone: AtomicBool,
    /// Whether it was logged that the circuit is taken with two policies.
    told_of_another: AtomicBool,
    /// This replica's own circuit.
    own: Mutex<Circuit>,
    /// One caller asks for a probe permit; the others do not.
    pub(super) asking: AtomicBool,
    /// Callers that wait for one answer take turns.
    pub(super) ask_turn: tokio::sync::Mutex<()>,
    /// Changes of this circuit are pushed to this process.
    pub(super) followed: AtomicBool,
    pub(super) view: Mutex<View>,
    pub(super) outbox: Mutex<Outbox>,
    /// The newest generation of the shared circuit, for those who wait for events.
    pub(super) generation: watch::Sender<u64>,
    /// A probe permit fetched for a caller that could not wait.
    pub(super) spare: Mutex<Option<Fetched>>,
    /// How long calls usually take.
    usual: Mutex<Usual>,
    /// For the statistics, which nothing here reads.
    pub(super) noted: Mutex<Noted>,
    /// Calls dropped after `call_timeout`; each is counted here before its failure is.
    pub(super) timeouts: AtomicU64,
}

/// What this process knows of the circuit.
pub(super) struct View {
    /// The policy in code.
    pub(super) code: Policy,
    /// What the gate shows.
    pub(super) seen: Snapshot,
    /// The shared circuit as the store last answered.
    pub(super) shared: Snapshot,
    /// When that was, coarse ms; `None` before the first answer.
    confirmed: Option<u64>,
    /// Since when its generation is known.
    shared_since: Instant,
    /// What was pushed since, and until when that is not gone by.
    hint: Option<Hint>,
    distrusts: Option<Instant>,
    pub(super) source: Source,
    /// What this process has seen opens the circuit, and the store has not confirmed it yet.
    pub(super) foreseen: Option<Foreseen>,
    tag: u32,
    /// What is in the window of this replica's own circuit, and its run of failures; kept where a
    /// quorum is asked for.
    own: Sums,
    own_run: u64,
}

/// Leave to make one call.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) pass: Pass,
    pub(super) probe: Option<Box<Probe>>,
}

/// What a call carries from its permit to its end; for most there is no more to a ticket.
///
/// Two words, also in an `Option`, so that it goes in registers: a larger one goes through memory
/// several times, which costs more than all else on the way of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    /// From the highest bit: the tag 32, for how many calls it stands among those in flight, and in
    /// sampled latencies, 30 (0 = for none), whether `started` is in ticks, and a one, so that it
    /// is not zero.
    word: NonZeroU64,
    /// By the clock's ticks where the call is timed, else coarse ms.
    started: u64,
}

impl Pass {
    const IN_TICKS: u64 = 1 << 1;

    /// Of a call that is timed, for as many as `weight`.
    #[inline]
    fn timed(tag: u32, weight: u32, ticks: u64) -> Self {
        let weight = weight.min(u32::MAX >> 2);
        let word = Self::IN_TICKS | u64::from(weight) << 2 | u64::from(tag) << 32;
        Self {
            word: NonZeroU64::MIN | word,
            started: ticks,
        }
    }

    /// The same call under another tag.
    fn under(self, tag: u32) -> Self {
        let rest = self.word.get() & u64::from(u32::MAX);
        let word = NonZeroU64::MIN | rest | u64::from(tag) << 32;
        Self { word, ..self }
    }

    /// Of a call that is not.
    #[inline]
    fn plain(tag: u32, now: u64) -> Self {
        Self {
            word: NonZeroU64::MIN | u64::from(tag) << 32,
            started: now,
        }
    }

    #[inline]
    const fn is_timed(self) -> bool {
        self.word.get() & Self::IN_TICKS != 0
    }

    #[inline]
    const fn tag(self) -> u32 {
        (self.word.get() >> 32) as u32
    }

    #[inline]
    const fn weight(self) -> u32 {
        self.word.get() as u32 >> 2
    }
}

#[derive(Debug)]
pub(super) struct Probe {
    token: String,
    generation: u64,
    local: bool,
}

impl From<Pass> for Ticket {
    fn from(pass: Pass) -> Self {
        Self { pass, probe: None }
    }
}

impl Cell {
    pub(super) fn new(name: Name, policy: Policy, shared: Arc<Shared>) -> Self {
        Self {
            name,
            gate: Gate::new(),
            tally: Tally::new(),
            policy: ArcSwap::from_pointee(policy.clone()),
            parked: AtomicBool::new(true),
            asked: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            aboard: AtomicBool::new(false),
            used_at: AtomicU64::new(shared.clock.coarse_ms()),
            urgent: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            away: AtomicU8::new(Away::No as u8),
            alone: AtomicBool::new(false),
            told_of_another: AtomicBool::new(false),
            own: Mutex::default(),
            asking: AtomicBool::new(false),
            ask_turn: tokio::sync::Mutex::default(),
            followed: AtomicBool::new(false),
            view: Mutex::new(View {
                code: policy,
                seen: Snapshot::default(),
                shared: Snapshot::default(),
                confirmed: None,
                shared_since: Instant::now(),
                hint: None,
                distrusts: None,
                source: Source::Shared,
                foreseen: None,
                tag: 0,
                own: [0; 4],
                own_run: 0,
            }),
            outbox: Mutex::default(),
            generation: watch::channel(0).0,
            spare: Mutex::default(),
            usual: Mutex::default(),
            noted: Mutex::default(),
            timeouts: AtomicU64::new(0),
            shared,
        }
    }

    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.shared.clock.coarse_ms()
    }

    /// Leave to make one call, where a look at the cache and at a clock gives it.
    #[inline(always)]
    pub(super) fn pass(&self) -> Option<Pass> {
        let glance = self.gate.glance();
        let tag = glance.admits()?;
        if glance.is_timed() {
            let started = self.shared.clock.ticks();
            let fresh = self.gate.is_fresh_at(started);
            return fresh.then(|| Pass::timed(tag, self.tally.sample(), started));
        }
        let now = self.now();
        let fresh = self.gate.is_fresh(now);
        fresh.then(|| self.begin(glance, tag, now))
    }

    /// The beginning of a call that is timed only if its latency is sampled.
    #[inline]
    fn begin(&self, glance: Glance, tag: u32, now: u64) -> Pass {
        let weight = match glance.is_recorded() {
            true => self.tally.sample(),
            false => 0,
        };
        match weight {
            0 => Pass::plain(tag, now),
            _ => Pass::timed(tag, weight, self.shared.clock.ticks()),
        }
    }

    /// Rejects a call, where a look at the cache and at a clock says so.
    #[inline(always)]
    pub(super) fn refuse(self: &Arc<Self>) -> Option<Rejection> {
        if !self.gate.glance().rejects() {
            return None;
        }
        let now = self.now();
        let refused = self.gate.is_fresh(now) && self.gate.is_shut(now);
        refused.then(|| self.reject(self.gate.rejection(now)))
    }

    /// Leave to make one call, from the cache.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Ticket, Hold> {
        self.pass()
            .map_or_else(|| self.enter_slowly(), |pass| Ok(pass.into()))
    }

    #[inline(never)]
    fn enter_slowly(self: &Arc<Self>) -> Result<Ticket, Hold> {
        let now = self.now();
        let decision = self.gate.decide(now).map(|tag| self.ticket(tag));
        if self.gate.is_fresh(now) || self.asks_own() {
            return decision;
        }
        if self.policy.load().rules.decision_ttl_ms == 0 {
            return Err(Hold::Ask);
        }
        if self.followed.load(Ordering::Relaxed) {
            // A change would have been pushed: go on, and renew in the background.
            self.renew();
            return decision;
        }
        Err(match decision {
            Ok(_) => Hold::Ask,
            Err(Hold::Reject(_)) => Hold::AskAlone,
            Err(asks) => asks,
        })
    }

    /// Leave to make one call under a tag.
    pub(super) fn ticket(&self, tag: u32) -> Ticket {
        let glance = self.gate.glance();
        let pass = match glance.is_timed() {
            true => Pass::timed(tag, self.tally.sample(), self.shared.clock.ticks()),
            false => self.begin(glance, tag, self.now()),
        };
        pass.into()
    }

    /// [`ticket`](Self::ticket) under the present tag.
    pub(super) fn present_ticket(&self) -> Ticket {
        let tag = self.view.lock().tag;
        self.ticket(tag)
    }

    /// Whether the store has ever answered.
    pub(super) fn is_confirmed(&self) -> bool {
        self.view.lock().confirmed.is_some()
    }

    /// How long a call may take.
    #[inline]
    pub(super) fn call_timeout(&self) -> Option<Duration> {
        if self.gate.glance().is_limited() {
            self.policy.load().call_timeout()
        } else {
            None
        }
    }

    /// Counts a rejected call and says why it was rejected.
    #[inline]
    pub(super) fn reject(self: &Arc<Self>, rejection: Rejection) -> Rejection {
        self.tally.reject();
        self.wake_if_parked();
        rejection
    }

    /// What the gate would tell a rejected call now.
    pub(super) fn rejection(&self) -> Rejection {
        self.gate.rejection(self.now())
    }

    /// The request for a permit.
    pub(super) fn request(&self) -> Acquire {
        Acquire {
            head: self.head(),
            token: self.shared.next_token(),
        }
    }

    /// Takes back a permit under which no call was made.
    pub(super) fn put_back(self: &Arc<Self>, ticket: Ticket) {
        self.tally.end(ticket.pass.weight());
        let Some(probe) = ticket.probe else { return };
        if !probe.local {
            return self.give_back(probe.token);
        }
        let unused = Settled {
            token: probe.token,
            generation: probe.generation,
            kind: Kind::Ignored,
            retry_after_ms: 0,
        };
        self.outbox.lock().settled_locally.push(unused);
        self.hurry();
    }

    /// Whether a probe's permit may still be used: nothing has changed since it was given.
    pub(super) fn is_current(&self, ticket: &Ticket) -> bool {
        let view = self.view.lock();
        ticket.probe.as_ref().is_none_or(|probe| {
            probe.generation == view.seen.generation && view.seen.state == State::HalfOpen
        })
    }

    /// Turns the store's grant into a ticket.
    pub(super) fn granted(
        self: &Arc<Self>,
        permission: Permission,
        token: String,
        seen: &Snapshot,
        local: bool,
    ) -> Option<Ticket> {
        let probe = match permission {
            Permission::Rejected => return None,
            Permission::Permitted => None,
            Permission::Probe => Some(Box::new(Probe {
                token,
                generation: seen.generation,
                local,
            })),
        };
        let view = self.view.lock();
        let newer = if local {
            view.seen.generation
        } else {
            view.generation()
        };
        // What was asked of the own circuit while the news of the store came in: those win.
        let overtaken = local && probe.is_some() && view.source == Source::Shared;
        let foreseen = !local && probe.is_none() && view.foreseen.is_some();
        if overtaken || foreseen || seen.generation < newer {
            // The circuit has moved on since this was granted.
            drop(view);
            if let (Some(probe), false) = (probe, local) {
                self.give_back(probe.token);
            }
            return None;
        }
        let ticket = self.ticket(view.tag);
        Some(Ticket { probe, ..ticket })
    }

    /// What the gate shows, and how long ago the store last confirmed what is known.
    pub(super) fn seen_and_age(&self) -> (Snapshot, Option<Duration>) {
        let view = self.view.lock();
        let age_ms = view.confirmed.map(|at| self.now().saturating_sub(at));
        (view.seen.clone(), age_ms.map(Duration::from_millis))
    }

    pub(super) fn away(&self) -> Away {
        match self.away.load(Ordering::SeqCst) {
            away if away == Away::Store as u8 => Away::Store,
            away if away == Away::Refused as u8 => Away::Refused,
            away if away == Away::Ended as u8 => Away::Ended,
            _ => Away::No,
        }
    }

    pub(super) fn is_away(&self) -> bool {
        self.away() != Away::No
    }
}
