//! One circuit in this process: the gate in front, the tally behind, and what is known of the
//! shared circuit between them.
//!
//! Owns the view (the newest snapshot taken over) and the outbox (what the next report will
//! carry). Invariants: a snapshot of an older generation is never taken over while the store is
//! there; outcomes are filed under the generation that permitted them.
//! Locks are taken in the order view, outbox, tally, own.

mod news;
mod outcomes;
mod own;
mod reports;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Rejection,
    gate::{Decision, Gate, Source},
    outbox::Outbox,
    registry::Shared,
    tally::Tally,
};
use crate::model::{Acquire, Circuit, Name, Permission, Policy, Snapshot, Sums};

/// Whether, and why, a circuit goes on without the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Away {
    No,
    /// The store serves nobody, or nobody of the circuit's shard.
    Store,
    /// The store refuses this circuit's requests.
    Refused,
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
    /// Something must leave at once.
    pub(super) urgent: AtomicBool,
    /// The decision wants renewing.
    pub(super) stale: AtomicBool,
    /// An [`Away`]. While it is not `No` only the link's task asks the store for this circuit.
    away: AtomicU8,
    /// This replica is open for itself, for want of a quorum.
    alone: AtomicBool,
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
    pub(super) spare: Mutex<Option<super::permit::Held<Arc<Cell>>>>,
}

/// What this process knows of the circuit.
pub(super) struct View {
    /// The policy in code.
    pub(super) code: Policy,
    /// What the gate shows.
    pub(super) seen: Snapshot,
    /// The shared circuit as last heard of.
    pub(super) shared: Snapshot,
    /// When that was, coarse ms; `None` before the first answer.
    confirmed: Option<u64>,
    pub(super) source: Source,
    tag: u32,
    /// What is in the window of this replica's own circuit, and its run of failures; kept where a
    /// quorum is asked for.
    own: Sums,
    own_run: u64,
}

/// Leave to make one call.
#[derive(Debug)]
pub(super) struct Ticket {
    tag: u32,
    started_ns: u64,
    probe: Option<Box<Probe>>,
}

#[derive(Debug)]
struct Probe {
    token: String,
    generation: u64,
    local: bool,
}

impl Ticket {
    pub(super) const fn is_probe(&self) -> bool {
        self.probe.is_some()
    }
}

impl Cell {
    pub(super) fn new(name: Name, policy: Policy, shared: Arc<Shared>) -> Self {
        Self {
            name,
            shared,
            gate: Gate::new(),
            tally: Tally::new(),
            policy: ArcSwap::from_pointee(policy.clone()),
            parked: AtomicBool::new(true),
            urgent: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            away: AtomicU8::new(Away::No as u8),
            alone: AtomicBool::new(false),
            own: Mutex::default(),
            asking: AtomicBool::new(false),
            ask_turn: tokio::sync::Mutex::default(),
            followed: AtomicBool::new(false),
            view: Mutex::new(View {
                code: policy,
                seen: Snapshot::default(),
                shared: Snapshot::default(),
                confirmed: None,
                source: Source::Shared,
                tag: 0,
                own: [0; 3],
                own_run: 0,
            }),
            outbox: Mutex::default(),
            generation: watch::channel(0).0,
            spare: Mutex::default(),
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.shared.clock.coarse_ms()
    }

    /// Decides from the cache.
    #[inline]
    pub(super) fn admit(self: &Arc<Self>) -> Decision {
        let now = self.now();
        match self.gate.fast(now) {
            Some(tag) => Decision::Admit(tag),
            None => self.admit_slowly(now),
        }
    }

    #[inline(never)]
    fn admit_slowly(self: &Arc<Self>, now: u64) -> Decision {
        let decision = self.gate.decide(now);
        if self.gate.is_fresh(now) || self.asks_own() {
            return decision;
        }
        if self.policy.load().rules.decision_ttl_ms == 0 {
            return Decision::Ask;
        }
        if self.followed.load(Ordering::Relaxed) {
            // A change would have been pushed: go on, and renew in the background.
            self.renew();
            return decision;
        }
        match decision {
            Decision::Admit(_) => Decision::Ask,
            Decision::Reject(_) => Decision::AskAlone,
            asks => asks,
        }
    }

    #[inline]
    pub(super) fn ticket(&self, tag: u32) -> Ticket {
        let timed = self.gate.is_timed();
        let started_ns = if timed {
            self.shared.clock.precise_ns()
        } else {
            0
        };
        Ticket {
            tag,
            started_ns,
            probe: None,
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

    /// Turns the store's grant into a ticket.
    pub(super) fn granted(
        &self,
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
            view.shared.generation
        };
        // What was asked of the own circuit while the news of the store came in: those win.
        let overtaken = local && probe.is_some() && view.source == Source::Shared;
        if overtaken || seen.generation < newer {
            // The circuit has moved on since this was granted.
            if let (Some(probe), false) = (probe, local) {
                self.outbox.lock().releases.push(probe.token);
            }
            return None;
        }
        let tag = view.tag;
        let started_ns = self.shared.clock.precise_ns();
        Some(Ticket {
            tag,
            started_ns,
            probe,
        })
    }

    pub(super) fn away(&self) -> Away {
        match self.away.load(Ordering::SeqCst) {
            away if away == Away::Store as u8 => Away::Store,
            away if away == Away::Refused as u8 => Away::Refused,
            _ => Away::No,
        }
    }

    pub(super) fn is_away(&self) -> bool {
        self.away() != Away::No
    }
}
