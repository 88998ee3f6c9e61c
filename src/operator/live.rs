//! What happens to the circuits of a store, as it happens.
//!
//! Owns the one task that looks and listens for all subscribers of a [`Live`]; it runs while there is
//! one. Changes are pushed by the store; once a second everything is looked at, so that what was not
//! pushed is seen too, and numbers move.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{Ask, Operator, View};
use crate::{
    Event, Name, Reason, Snapshot, StoreError,
    store::{Notice, in_words},
};

/// How often everything is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long a store that does not push is left alone.
const LISTEN_AGAIN: Duration = Duration::from_secs(2);
/// News that a slow subscriber may fall behind before it must begin anew.
const WAITING: usize = 4096;
/// Slices of each circuit's past that a subscriber begins with.
const SLICES: usize = 60;

/// One piece of news.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum News {
    /// All circuits with the newest part of their past, worst first: what a subscriber begins with, and
    /// begins anew with when it has fallen behind.
    Circuits(Vec<View>),
    /// A circuit is new, or not as it was.
    Circuit(Arc<View>),
    /// A circuit is no longer listed.
    Gone(Name),
    /// A transition, or an operator's command; each once.
    Entry(Name, Arc<Event>),
    /// The store's answers: how long the last took, or why there was none.
    Store(Result<Duration, String>),
    /// Everything was looked at, at this time of the store's clock, Unix ms. Comes each second while the
    /// store answers.
    Tick(u64),
}

/// The news of a store. Clones share the task that gathers them.
#[derive(Clone, Debug)]
pub struct Live {
    operator: Operator,
    news: Arc<Mutex<Option<broadcast::Sender<News>>>>,
}

/// A subscription to the news; ends when it is dropped.
#[derive(Debug)]
pub struct Tidings {
    live: Live,
    received: broadcast::Receiver<News>,
    /// Whether all circuits were told.
    begun: bool,
}

impl Live {
    pub(super) fn new(operator: Operator) -> Self {
        let news = Arc::default();
        Self { operator, news }
    }

    /// The news from now on, beginning with all circuits. Must be called in a tokio runtime.
    #[must_use]
    pub fn subscribe(&self) -> Tidings {
        let mut news = self.news.lock();
        let received = match news.as_ref() {
            Some(news) => news.subscribe(),
            None => {
                let (sender, received) = broadcast::channel(WAITING);
                *news = Some(sender.clone());
                tokio::spawn(gather(self.clone(), sender));
                received
            }
        };
        Tidings {
            live: self.clone(),
            received,
            begun: false,
        }
    }
}

impl Tidings {
    /// The next piece; waits as long as there is none.
    pub async fn next(&mut self) -> News {
        loop {
            if !self.begun {
                match self.live.operator.circuits(SLICES).await {
                    Ok(views) => {
                        self.begun = true;
                        return News::Circuits(views);
                    }
                    Err(error) => {
                        tokio::time::sleep(LOOK).await;
                        return News::Store(Err(in_words(&error)));
                    }
                }
            }
            match self.received.recv().await {
                Ok(news) => return news,
                Err(broadcast::error::RecvError::Lagged(_)) => self.begun = false,
                Err(broadcast::error::RecvError::Closed) => {
                    *self = self.live.subscribe();
                }
            }
        }
    }
}

/// What is known of one circuit.
struct Known {
    view: View,
    /// Entries of the newest generation that were told.
    told: HashSet<Told>,
}

type Told = (u64, u64, Reason, String);

fn told(event: &Event) -> Told {
    let policy = event.policy.clone();
    (event.generation, event.at_ms, event.reason, policy)
}

struct Gatherer {
    operator: Operator,
    news: broadcast::Sender<News>,
    known: BTreeMap<Name, Known>,
    followed: watch::Sender<BTreeSet<Name>>,
    /// The first look tells of nothing: those are the circuits that subscribers begin with.
    looked: bool,
}

/// Looks and listens until nobody subscribes.
async fn gather(live: Live, news: broadcast::Sender<News>) {
    let (followed, follows) = watch::channel(BTreeSet::new());
    let (to, mut notices) = mpsc::unbounded_channel();
    let store = Arc::clone(&live.operator.store);
    let listener = tokio::spawn(async move {
        // What is not pushed is looked at.
        while !to.is_closed() {
            let _ = store.listen(follows.clone(), to.clone()).await;
            tokio::time::sleep(LISTEN_AGAIN).await;
        }
    });
    let mut gatherer = Gatherer {
        operator: live.operator.clone(),
        news,
        known: BTreeMap::new(),
        followed,
        looked: false,
    };
    let mut every = interval(LOOK);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => {
                {
                    let mut news = live.news.lock();
                    if gatherer.news.receiver_count() == 0 {
                        *news = None;
                        break;
                    }
                }
                gatherer.look().await;
            }
            Some(notice) = notices.recv() => {
                // However many have come, each circuit is looked at once.
                let mut changed = BTreeMap::new();
                let more = std::iter::from_fn(|| notices.try_recv().ok());
                for notice in std::iter::once(notice).chain(more) {
                    if let Notice::Changed(name, snapshot) = notice {
                        changed.insert(name, snapshot.version());
                    }
                }
                for (name, version) in changed {
                    gatherer.hear(name, version).await;
                }
            }
        }
    }
    listener.abort();
}

impl Gatherer {
    fn tell(&self, news: News) {
        // Nobody there is found at the next look.
        let _ = self.news.send(news);
    }

    async fn look(&mut self) {
        let asked = Instant::now();
        match self.look_at_all().await {
            Ok(now_ms) => {
                self.tell(News::Store(Ok(asked.elapsed())));
                self.tell(News::Tick(now_ms));
            }
            Err(error) => self.tell(News::Store(Err(in_words(&error)))),
        }
    }

    async fn look_at_all(&mut self) -> Result<u64, StoreError> {
        let survey = self.operator.survey(&Ask::all(0)).await?;
        let views = survey.circuits;
        let now_ms = self.operator.time_of(&views).await?;
        let listed: BTreeSet<Name> = views.iter().map(|view| view.name.clone()).collect();
        for view in views {
            match self.take(view).await {
                Err(error) if error.is_away() => return Err(error),
                // Its record was written over: that says nothing of the others.
                _ => {}
            }
        }
        // What was not read is not gone.
        let whole = survey.incomplete.is_none();
        let gone = self.known.keys();
        let gone = gone.filter(|name| whole && !listed.contains(name));
        for name in gone.cloned().collect::<Vec<_>>() {
            self.known.remove(&name);
            self.tell(News::Gone(name));
        }
        self.followed.send_if_modified(|followed| {
            let changed = *followed != listed;
            *followed = listed;
            changed
        });
        self.looked = true;
        Ok(now_ms)
    }

    /// What was pushed says only that there may be something new.
    async fn hear(&mut self, name: Name, version: (u64, u64)) {
        let known = self.known.get(&name);
        if known.is_some_and(|known| version <= known.view.snapshot.version()) {
            return;
        }
        // What fails here is seen at the next look.
        if let Ok(view) = self.operator.view(name, 0).await {
            let _ = self.take(view).await;
        }
    }

    /// Takes over a circuit as it is, and tells what is new about it.
    async fn take(&mut self, view: View) -> Result<(), StoreError> {
        let seen = &view.snapshot;
        let before = self.known.get(&view.name);
        let was = before.map(|known| &known.view.snapshot);
        let told = match before {
            Some(known) if seen.version() == known.view.snapshot.version() => known.told.clone(),
            _ => self.tell_entries(&view.name, before).await?,
        };
        if self.looked && was.is_none_or(|was| differs(was, seen)) {
            self.tell(News::Circuit(Arc::new(view.clone())));
        }
        self.known.insert(view.name.clone(), Known { view, told });
        Ok(())
    }

    /// Tells what was not told of a circuit's record, and returns what now is.
    async fn tell_entries(
        &self,
        name: &Name,
        before: Option<&Known>,
    ) -> Result<HashSet<Told>, StoreError> {
        let since = before.map_or(0, |known| known.view.snapshot.generation.saturating_sub(1));
        let events = self.operator.store.events(name, since).await?;
        for event in &events {
            let news = before.is_none_or(|known| !known.told.contains(&told(event)));
            if news && self.looked {
                self.tell(News::Entry(name.clone(), Arc::new(event.clone())));
            }
        }
        Ok(events.iter().map(told).collect())
    }
}

/// Whether more than time has passed.
fn differs(was: &Snapshot, is: &Snapshot) -> bool {
    let timeless = |of: &Snapshot| Snapshot {
        now_ms: 0,
        pace_ms: 0,
        ..of.clone()
    };
    timeless(was) != timeless(is)
}
