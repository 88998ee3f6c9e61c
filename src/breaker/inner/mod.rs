//! One circuit in this process: the gate in front, the tally behind, and between them what is known
//! of the shared circuit.
//!
//! Owns the view (the newest snapshot taken over) and the outbox (the contents of the next report).
//! Invariants: while the store is available, a snapshot of an older generation is taken over only
//! if it answers a later request; outcomes are filed under the generation that permitted them.
//! Lock order: view, outbox, tally, own, noted.

mod abandoned;
mod evidence;
mod fetched;
mod hint;
mod idle;
mod local;
mod news;
mod outcomes;
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

pub(super) use self::fetched::Fetched;
pub(super) use self::idle::{IDLE_TIMEOUT, YEAR};
use self::{abandoned::Usual, evidence::Foreseen, hint::Hint};
use super::{
    Rejection,
    answered::Answered,
    gate::{Gate, GateWord, NotAdmitted, Source},
    outbox::Outbox,
    own_stats::OwnStats,
    shared::Shared,
    tally::Tally,
};
use crate::model::{
    Acquire, Circuit, Kind, Name, Outcome, Permission, Policy, Settled, Snapshot, State, Sums,
    TimedOutCalls,
};

/// Whether, and why, a circuit continues without the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Unavailable {
    No,
    /// The store serves no circuit, or none of the circuit's shard.
    Store,
    /// The store refuses this circuit's requests.
    Refused,
    /// Reporting has ended, for good.
    Ended,
}

pub(super) struct CircuitInner {
    pub(super) name: Name,
    pub(super) shared: Arc<Shared>,
    pub(super) gate: Gate,
    pub(super) tally: Tally,
    /// The policy in force: the one in code, overridden by the settings stored with the circuit.
    pub(super) policy: ArcSwap<Policy>,
    /// The reporter ignores this circuit until it is woken.
    pub(super) parked: AtomicBool,
    /// The reporter was asked to look at this circuit.
    pub(super) asked: AtomicBool,
    /// For the reporter only: the circuit is in its list; the circuit's report is in flight.
    pub(super) listed: AtomicBool,
    pub(super) aboard: AtomicBool,
    /// When this circuit was last seen in use, coarse ms; set off the path of a call.
    pub(super) used_at: AtomicU64,
    /// Something must be sent at once.
    pub(super) urgent: AtomicBool,
    /// The decision must be renewed.
    pub(super) stale: AtomicBool,
    /// An [`Unavailable`]. Unless it is `No`, only one task asks the store about this circuit.
    unavailable: AtomicU8,
    /// Only this replica's circuit is open, because a quorum is missing.
    alone: AtomicBool,
    /// Whether it was logged that the circuit was taken with two policies.
    told_of_another: AtomicBool,
    /// This replica's local circuit.
    own: Mutex<Circuit>,
    /// One caller is asking for a probe permit; the others do not.
    pub(super) asking: AtomicBool,
    /// Callers that wait for the same answer take turns.
    pub(super) ask_turn: tokio::sync::Mutex<()>,
    /// Changes of this circuit are pushed to this process.
    pub(super) followed: AtomicBool,
    pub(super) view: Mutex<View>,
    pub(super) outbox: Mutex<Outbox>,
    /// The newest generation of the shared circuit, for readers of events.
    pub(super) generation: watch::Sender<u64>,
    /// A probe permit fetched for a caller that could not wait.
    pub(super) spare: Mutex<Option<Fetched>>,
    /// How long calls usually take.
    usual: Mutex<Usual>,
    /// For the statistics; nothing here reads it.
    pub(super) noted: Mutex<OwnStats>,
    /// Calls dropped after `call_timeout`; each is counted here before its failure is counted.
    pub(super) timeouts: AtomicU64,
    /// Calls that fallbacks answered.
    pub(super) answered: Answered,
    /// This process admits every call of this circuit.
    pub(super) off: AtomicBool,
}

/// What this process knows of the circuit.
pub(super) struct View {
    /// The policy in code.
    pub(super) code: Policy,
    /// The snapshot that the gate shows.
    pub(super) seen: Snapshot,
    /// The shared circuit in the store's last answer.
    pub(super) shared: Snapshot,
    /// When that answer came, coarse ms; `None` before the first one.
    confirmed: Option<u64>,
    /// Since when this process knows that generation.
    shared_since: Instant,
    /// The change pushed since then, and until when pushed changes are not shown.
    hint: Option<Hint>,
    distrusts: Option<Instant>,
    pub(super) source: Source,
    /// Set if this process' own evidence opens the circuit and the store has not confirmed that
    /// yet.
    pub(super) foreseen: Option<Foreseen>,
    tag: u32,
    /// The window of this replica's local circuit and its run of failures; kept if a quorum is
    /// required.
    own: Sums,
    own_run: u64,
}

/// Permission to make one call.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) plain: PlainTicket,
    pub(super) probe: Option<Box<Probe>>,
}

/// What a call carries from its permit to its end; most tickets hold nothing more.
///
/// Two words, even in an `Option`, so that it is passed in registers. A larger one would go through
/// memory several times, which costs more than the rest of the path of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlainTicket {
    /// From the highest bit: the tag (32 bits); the number of calls that this one represents among
    /// those in flight and in sampled latencies (30 bits, 0 = none); whether `started` is in ticks;
    /// and a one, so that the word is not zero.
    word: NonZeroU64,
    /// In the clock's ticks if the call is timed, otherwise in coarse ms.
    started: u64,
}

impl PlainTicket {
    const IN_TICKS: u64 = 1 << 1;

    /// A timed call that represents `weight` calls.
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

    /// A call that is not timed.
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

impl From<PlainTicket> for Ticket {
    fn from(plain: PlainTicket) -> Self {
        Self { plain, probe: None }
    }
}

impl CircuitInner {
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
            unavailable: AtomicU8::new(Unavailable::No as u8),
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
            answered: Answered::default(),
            off: AtomicBool::new(false),
            shared,
        }
    }

    /// Whether every call passes, because this circuit or all of the process are switched off.
    pub(super) fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst) || self.shared.is_off()
    }

    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.shared.clock.coarse_ms()
    }

    /// Permission to make one call, if a look at the cache and at a clock suffices to grant it.
    #[inline(always)]
    pub(super) fn admit(&self) -> Option<PlainTicket> {
        let word = self.gate.word();
        let tag = word.admits()?;
        if word.is_timed() {
            let started = self.shared.clock.ticks();
            let fresh = self.gate.is_fresh_at(started);
            return fresh.then(|| PlainTicket::timed(tag, self.tally.sample(), started));
        }
        let now = self.now();
        let fresh = self.gate.is_fresh(now);
        fresh.then(|| self.begin(word, tag, now))
    }

    /// Begins a call that is timed only if its latency is sampled.
    #[inline]
    fn begin(&self, word: GateWord, tag: u32, now: u64) -> PlainTicket {
        let weight = match word.is_recorded() {
            true => self.tally.sample(),
            false => 0,
        };
        match weight {
            0 => PlainTicket::plain(tag, now),
            _ => PlainTicket::timed(tag, weight, self.shared.clock.ticks()),
        }
    }

    /// Rejects a call, if a look at the cache and at a clock suffices to do so.
    #[inline(always)]
    pub(super) fn refuse(self: &Arc<Self>) -> Option<Rejection> {
        if !self.gate.word().rejects() {
            return None;
        }
        let now = self.now();
        let refused = self.gate.is_fresh(now) && self.gate.is_shut(now);
        refused.then(|| self.reject(self.gate.rejection(now)))
    }

    /// Permission to make one call, from the cache.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Ticket, NotAdmitted> {
        self.admit()
            .map_or_else(|| self.enter_slowly(), |plain| Ok(plain.into()))
    }

    #[inline(never)]
    fn enter_slowly(self: &Arc<Self>) -> Result<Ticket, NotAdmitted> {
        let now = self.now();
        let decision = self.gate.decide(now).map(|tag| self.ticket(tag));
        if self.gate.is_fresh(now) || self.asks_own() {
            return decision;
        }
        if self.policy.load().rules.decision_ttl_ms == 0 {
            return Err(NotAdmitted::Ask);
        }
        if self.followed.load(Ordering::Relaxed) {
            // A change would have been pushed: continue, and renew in the background.
            self.renew();
            return decision;
        }
        Err(match decision {
            Ok(_) => NotAdmitted::Ask,
            Err(NotAdmitted::Reject(_)) => NotAdmitted::AskAlone,
            Err(asks) => asks,
        })
    }

    /// Permission to make one call under a tag.
    pub(super) fn ticket(&self, tag: u32) -> Ticket {
        let word = self.gate.word();
        let plain = match word.is_timed() {
            true => PlainTicket::timed(tag, self.tally.sample(), self.shared.clock.ticks()),
            false => self.begin(word, tag, self.now()),
        };
        plain.into()
    }

    /// [`ticket`](Self::ticket) under the current tag.
    pub(super) fn present_ticket(&self) -> Ticket {
        let tag = self.view.lock().tag;
        self.ticket(tag)
    }

    /// Whether the store has ever answered.
    pub(super) fn is_confirmed(&self) -> bool {
        self.view.lock().confirmed.is_some()
    }

    /// The generation that the store last answered with, if it ever did.
    pub(super) fn confirmed_generation(&self) -> Option<u64> {
        let view = self.view.lock();
        view.confirmed.map(|_| view.shared.generation)
    }

    /// How long a call may take.
    #[inline]
    pub(super) fn call_timeout(&self) -> Option<Duration> {
        if self.gate.word().is_limited() {
            self.policy.load().call_timeout()
        } else {
            None
        }
    }

    /// Counts a call that took longer than `call_timeout` and returns the outcome that the policy
    /// gives it.
    pub(super) fn timed_out(&self) -> Outcome {
        let outcome = match self.policy.load().timed_out_calls() {
            TimedOutCalls::Counted => Outcome::failure_of("timeout"),
            TimedOutCalls::Ignored => Outcome::Ignored,
        };
        self.note_timeout(&outcome);
        outcome
    }

    /// Counts a timeout if its outcome is a failure.
    pub(super) fn note_timeout(&self, outcome: &Outcome) {
        if matches!(outcome, Outcome::Failure { .. } | Outcome::Trip { .. }) {
            self.timeouts.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Counts a rejected call and returns the rejection.
    #[inline]
    pub(super) fn reject(self: &Arc<Self>, rejection: Rejection) -> Rejection {
        self.tally.reject();
        self.wake_if_parked();
        rejection
    }

    /// The rejection that a call would receive from the gate now.
    pub(super) fn rejection(&self) -> Rejection {
        self.gate.rejection(self.now())
    }

    /// A request for a permit.
    pub(super) fn request(&self) -> Acquire {
        Acquire {
            head: self.head(),
            token: self.shared.next_token(),
        }
    }

    /// Takes back a permit with which no call was made.
    pub(super) fn put_back(self: &Arc<Self>, ticket: Ticket) {
        self.tally.end(ticket.plain.weight());
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

    /// Whether a probe's permit may still be used: nothing has changed since it was granted.
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
        // The store's news came in while the local circuit was asked: the news wins.
        let overtaken = local && probe.is_some() && view.source == Source::Shared;
        let foreseen = !local && probe.is_none() && view.foreseen.is_some();
        if overtaken || foreseen || seen.generation < newer {
            // The circuit has changed since this was granted.
            drop(view);
            if let (Some(probe), false) = (probe, local) {
                self.give_back(probe.token);
            }
            return None;
        }
        let ticket = self.ticket(view.tag);
        Some(Ticket { probe, ..ticket })
    }

    pub(super) fn unavailable(&self) -> Unavailable {
        match self.unavailable.load(Ordering::SeqCst) {
            unavailable if unavailable == Unavailable::Store as u8 => Unavailable::Store,
            unavailable if unavailable == Unavailable::Refused as u8 => Unavailable::Refused,
            unavailable if unavailable == Unavailable::Ended as u8 => Unavailable::Ended,
            _ => Unavailable::No,
        }
    }

    pub(super) fn is_unavailable(&self) -> bool {
        self.unavailable() != Unavailable::No
    }
}
