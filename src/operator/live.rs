//! News of a store's circuits, as it happens.
//!
//! Owns the single task that polls and listens for all subscribers of a [`NewsFeed`]; it runs while
//! there is a subscriber. The store pushes changes. The task also reads every circuit once a
//! second, to see changes that were not pushed and to update counts.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    future::pending,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc, watch,
    },
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{Ask, Operator, Survey, View};
use crate::{
    Event, Name, Reason, Snapshot, StoreError,
    store::{Notice, in_words},
};

/// How often all circuits are read.
const LOOK: Duration = Duration::from_secs(1);
/// The longest pause between two readings of all circuits for a subscriber that lacks some.
const LONGEST: Duration = Duration::from_secs(30);
/// Pause between attempts to listen to the store.
const LISTEN_AGAIN: Duration = Duration::from_secs(2);
/// How many news items a slow subscriber may fall behind before it starts over.
const WAITING: usize = 4096;
/// Slices of each circuit's past in a subscriber's first news.
const SLICES: usize = 60;

/// A news item.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::operator::{News, Operator};
///
/// let mut news = Operator::of(&circuits).live().subscribe();
/// match news.next().await {
///     News::Circuits(all) => println!("{} circuits", all.circuits.len()),
///     News::Circuit(view) => println!("{} is {}", view.name, view.snapshot.state),
///     News::Entry(name, event) => println!("{name}: {} -> {}", event.from, event.to),
///     other => println!("{other:?}"),
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum News {
    /// All circuits with the newest part of their past, worst first: the first news of a
    /// subscription. It comes again after a subscriber has fallen behind, and from time to time
    /// while some circuits were not read in time ([`Survey::incomplete`] says so).
    Circuits(Survey),
    /// A circuit is new or has changed.
    Circuit(Arc<View>),
    /// A circuit is no longer listed.
    Gone(Name),
    /// A transition or an operator's command, each sent once.
    Entry(Name, Arc<Event>),
    /// How long the store's last answer took, or why there was none.
    Store(Result<Duration, String>),
    /// All circuits were read, at this time of the store's clock, Unix ms. Sent every second while
    /// the store answers.
    Tick(u64),
}

/// The news of a store. Clones share the task that gathers it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::operator::{News, Operator};
///
/// let live = Operator::of(&circuits).live();
/// let mut news = live.subscribe();
/// match news.next().await {
///     News::Circuits(all) => println!("{} circuits", all.circuits.len()),
///     other => println!("{other:?}"),
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct NewsFeed {
    operator: Operator,
    task: Arc<Mutex<Option<Task>>>,
}

/// The running task.
#[derive(Debug)]
struct Task {
    news: broadcast::Sender<News>,
    looked: watch::Receiver<Looked>,
}

/// When the task's first read of all circuits was done, Unix ms by the store's clock. That read
/// sends nothing, because subscribers read all circuits after it.
type Looked = Option<u64>;

/// A subscription to the news; ends when it is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::operator::Operator;
///
/// let mut news = Operator::of(&circuits).live().subscribe();
/// println!("{:?}", news.next().await);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct NewsStream {
    live: NewsFeed,
    received: broadcast::Receiver<News>,
    looked: watch::Receiver<Looked>,
    /// Whether all circuits were read since the start, or since news was lost.
    begun: bool,
    /// When all circuits are read again, and how long that was waited for; `None` while none is
    /// missing.
    again: Option<(Instant, Duration)>,
}

impl NewsFeed {
    pub(super) fn new(operator: Operator) -> Self {
        let task = Arc::default();
        Self { operator, task }
    }

    /// Subscribes to the news, which begins with all circuits. Must be called in a tokio runtime.
    #[must_use]
    pub fn subscribe(&self) -> NewsStream {
        let mut task = self.task.lock();
        let (received, looked) = match task.as_ref() {
            Some(task) => (task.news.subscribe(), task.looked.clone()),
            None => {
                let (news, received) = broadcast::channel(WAITING);
                let (looks, looked) = watch::channel(None);
                tokio::spawn(gather(self.clone(), news.clone(), looks));
                *task = Some(Task {
                    news,
                    looked: looked.clone(),
                });
                (received, looked)
            }
        };
        NewsStream {
            live: self.clone(),
            received,
            looked,
            begun: false,
            again: None,
        }
    }
}

impl NewsStream {
    /// Waits for the next news item.
    pub async fn next(&mut self) -> News {
        loop {
            // A change before the task's first read is only in what is read after it.
            if self.looked.borrow().is_none() {
                let news = tokio::select! {
                    biased;
                    Ok(_) = self.looked.wait_for(Option::is_some) => continue,
                    news = self.received.recv() => news,
                };
                match news {
                    Ok(news @ News::Store(Err(_))) => return news,
                    Err(RecvError::Closed) => *self = self.live.subscribe(),
                    _ => {}
                }
                continue;
            }
            let (begun, again) = (self.begun, self.again);
            let due = async move {
                match again {
                    Some((at, _)) => sleep_until(at).await,
                    None if begun => pending().await,
                    None => {}
                }
            };
            tokio::select! {
                () = due => return self.read_all().await,
                news = self.received.recv(), if begun => match news {
                    Ok(news) => return news,
                    Err(RecvError::Lagged(_)) => (self.begun, self.again) = (false, None),
                    Err(RecvError::Closed) => *self = self.live.subscribe(),
                }
            }
        }
    }

    /// Reads all circuits, and again later while some are missing: with longer and longer pauses,
    /// because the store is slow.
    async fn read_all(&mut self) -> News {
        match self.live.operator.survey(&Ask::all(SLICES)).await {
            Ok(survey) => {
                self.begun = true;
                let last = self.again.map(|(_, pause)| pause);
                let pause = last.map_or(LOOK, |last| (last * 2).min(LONGEST));
                self.again = (survey.unread > 0).then(|| (Instant::now() + pause, pause));
                News::Circuits(survey)
            }
            Err(error) => {
                // An unavailable store is asked each second, as the gatherer does.
                self.again = Some((Instant::now() + LOOK, LOOK));
                News::Store(Err(in_words(&error)))
            }
        }
    }
}

/// What the task knows about one circuit.
struct Known {
    view: View,
    /// Entries of the newest generation that were sent. `None` for a circuit from the first read,
    /// whose record was not read.
    told: Option<HashSet<Told>>,
}

impl Known {
    /// Whether an entry is newer than the last read of the circuit.
    fn is_news(&self, event: &Event) -> bool {
        let seen = &self.view.snapshot;
        match &self.told {
            Some(told) => !told.contains(&self::told(event)),
            // The first read keeps no record to compare with.
            None if event.generation != seen.generation => event.generation > seen.generation,
            None => {
                let is_seen = event.at_ms == seen.now_ms && event.policy == seen.policy;
                event.reason == Reason::Policy && event.at_ms >= seen.now_ms && !is_seen
            }
        }
    }
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
    looked: watch::Sender<Looked>,
}

/// Polls and listens until there is no subscriber.
async fn gather(live: NewsFeed, news: broadcast::Sender<News>, looked: watch::Sender<Looked>) {
    let (followed, follows) = watch::channel(BTreeSet::new());
    let (to, mut notices) = mpsc::unbounded_channel();
    let store = Arc::clone(&live.operator.store);
    let listener = tokio::spawn(async move {
        // An error is harmless: the task polls as well.
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
        looked,
    };
    let mut every = interval(LOOK);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => {
                {
                    let mut task = live.task.lock();
                    if gatherer.news.receiver_count() == 0 {
                        *task = None;
                        break;
                    }
                }
                gatherer.look().await;
            }
            Some(notice) = notices.recv() => {
                // Read each circuit once, however many notices there are.
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
        // An error means that nobody subscribes, which the next tick notices.
        let _ = self.news.send(news);
    }

    fn looked(&self) -> Looked {
        *self.looked.borrow()
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
                Err(error) if error.is_unavailable() => return Err(error),
                // Something else overwrote this circuit, which does not affect the others.
                _ => {}
            }
        }
        // A circuit that was not read is not gone.
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
        self.looked.send_if_modified(|looked| {
            let first = looked.is_none();
            looked.get_or_insert(now_ms);
            first
        });
        Ok(now_ms)
    }

    /// Reads a circuit whose pushed version is newer than the known one.
    async fn hear(&mut self, name: Name, version: (u64, u64)) {
        let known = self.known.get(&name);
        if known.is_some_and(|known| version <= known.view.snapshot.version()) {
            return;
        }
        // The next poll makes up for a failure here.
        if let Ok(view) = self.operator.view(name, 0).await {
            let _ = self.take(view).await;
        }
    }

    /// Stores a circuit's view, and sends what is new about it.
    async fn take(&mut self, view: View) -> Result<(), StoreError> {
        let seen = &view.snapshot;
        let before = self.known.get(&view.name);
        let was = before.map(|known| &known.view.snapshot);
        let told = match before {
            // Read the record only of circuits that change: there may be thousands of circuits.
            None if self.looked().is_none() => None,
            Some(known) if seen.version() == known.view.snapshot.version() => known.told.clone(),
            _ => Some(self.tell_entries(&view.name, before).await?),
        };
        if self.looked().is_some() && was.is_none_or(|was| differs(was, seen)) {
            self.tell(News::Circuit(Arc::new(view.clone())));
        }
        self.known.insert(view.name.clone(), Known { view, told });
        Ok(())
    }

    /// Sends the entries of a circuit's record that were not sent yet, and returns the entries to
    /// remember as sent.
    async fn tell_entries(
        &self,
        name: &Name,
        before: Option<&Known>,
    ) -> Result<HashSet<Told>, StoreError> {
        let since = before.map_or(0, |known| known.view.snapshot.generation.saturating_sub(1));
        let events = self.operator.store.events(name, since).await?;
        for event in &events {
            let news = match before {
                Some(known) => known.is_news(event),
                // Of a circuit that the first read missed, the past is not news.
                None => self.looked().is_some_and(|since| event.at_ms >= since),
            };
            if news && self.looked().is_some() {
                self.tell(News::Entry(name.clone(), Arc::new(event.clone())));
            }
        }
        Ok(events.iter().map(told).collect())
    }
}

/// Whether anything but time has changed.
fn differs(was: &Snapshot, is: &Snapshot) -> bool {
    let timeless = |of: &Snapshot| Snapshot {
        now_ms: 0,
        pace_ms: 0,
        ..of.clone()
    };
    timeless(was) != timeless(is)
}
