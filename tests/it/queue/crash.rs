//! Workers that are killed or suspended: no job is lost, and none runs twice at once.
//!
//! The workers are processes of this program (see [`role`]). Handlers append marks to a file, one
//! `write` for each line, and a checker judges by their order, so that the crate does not judge
//! itself.

use std::{
    collections::{HashMap, HashSet},
    env,
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use commontrip::{Policy, queue::Job};

use super::{Ad, Service, ad, ms, until_stats};
use crate::{
    role,
    support::{redis_url, unique, unique_prefix},
    wait::until,
};

const LEASE_MS: u64 = 1500;

struct Marks(File);

impl Marks {
    fn at(path: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Self(file.unwrap())
    }

    fn mark(&self, what: &str, job: u64, process: u32) {
        let line = format!("{what} {job} {process}\n");
        (&self.0).write_all(line.as_bytes()).unwrap();
    }
}

/// A running handler; it leaves a mark if it is dropped before its end.
struct Running {
    marks: Arc<Marks>,
    job: u64,
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        let what = if self.ended { "end" } else { "drop" };
        self.marks.mark(what, self.job, std::process::id());
    }
}

/// A worker process; it ends when its stdin closes.
async fn be_a_worker(told: &str) {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let mut told = told.lines();
    let (url, prefix) = (told.next().unwrap(), told.next().unwrap());
    let file = PathBuf::from(told.next().unwrap());
    let service = Service::new(url, prefix, Policy::default());
    let marks = Arc::new(Marks::at(&file));
    let hold = file.with_extension("hold");
    let worker = service.ads().worker(&service.api, move |job: Job<Ad>| {
        let running = Running {
            marks: Arc::clone(&marks),
            job: job.body.id,
            ended: false,
        };
        marks.mark("begin", job.body.id, std::process::id());
        let hold = hold.clone();
        async move {
            let mut running = running;
            tokio::time::sleep(ms(20 + fastrand::u64(..80))).await;
            while hold.exists() {
                tokio::time::sleep(ms(10)).await;
            }
            running.ended = true;
            Ok::<_, String>(())
        }
    });
    let worker = worker.concurrency(3).poll(ms(50)).lease(ms(LEASE_MS));
    worker
        .max_attempts(100)
        .run(std::future::pending::<()>())
        .await;
}

struct Workers {
    /// The URL, the prefix and the file, on one line each.
    told: String,
    test: &'static str,
    alive: Vec<role::Process>,
}

impl Workers {
    fn start(&mut self) {
        self.alive.push(role::Process::start(self.test, &self.told));
    }

    fn signal(process: u32, signal: &str) {
        let words = [signal.to_owned(), process.to_string()];
        assert!(Command::new("kill").args(words).status().unwrap().success());
    }
}

type Mark = (String, u64, u32);

fn read(path: &Path) -> Vec<Mark> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let marks = text.lines().filter_map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        let [what, job, process] = words[..] else {
            return None;
        };
        Some((what.to_owned(), job.parse().ok()?, process.parse().ok()?))
    });
    marks.collect()
}

/// Fails if one job had two handlers at once, except handlers of killed processes. Returns how
/// often each job reached its end.
fn judge(marks: &[Mark]) -> HashMap<u64, u64> {
    let mut killed = HashSet::new();
    let mut open: HashMap<u64, Vec<u32>> = HashMap::new();
    let mut ends = HashMap::new();
    for (what, job, process) in marks {
        let open = open.entry(*job).or_default();
        match what.as_str() {
            "kill" => {
                killed.insert(*process);
            }
            "begin" => {
                open.retain(|process| !killed.contains(process));
                assert!(open.is_empty(), "job {job}: {process} beside {open:?}");
                open.push(*process);
            }
            what => {
                open.retain(|other| other != process);
                if what == "end" {
                    *ends.entry(*job).or_default() += 1;
                }
            }
        }
    }
    ends
}

fn place(name: &str) -> PathBuf {
    env::temp_dir().join(unique(name))
}

#[tokio::test]
async fn workers_that_are_killed_lose_nothing_and_nothing_runs_twice_at_once() {
    if let Some(told) = role::role() {
        return be_a_worker(&told).await;
    }
    const JOBS: u64 = 60;
    const KILLS: usize = 6;
    let (prefix, file) = (unique_prefix("queue"), place("queue-marks"));
    let mut workers = Workers {
        told: format!("{}\n{prefix}\n{}", redis_url(), file.display()),
        test: "queue::crash::workers_that_are_killed_lose_nothing_and_nothing_runs_twice_at_once",
        alive: Vec::new(),
    };
    for _ in 0..3 {
        workers.start();
    }
    let service = Service::new(redis_url(), &prefix, Policy::default());
    let (ads, marks) = (service.ads(), Marks::at(&file));
    let mut interrupted = 0;
    for round in 0..KILLS {
        for i in 0..JOBS / KILLS as u64 {
            ads.enqueue(&ad(round as u64 * 1000 + i)).await.unwrap();
        }
        // The process whose handler started last, in the middle of its work.
        let place = |process| workers.alive.iter().position(|child| child.id() == process);
        let mut last = None;
        until("one begins that is alive", async || {
            let marks = read(&file);
            let is_open = |mark: &&Mark| {
                let mut of_it = marks.iter().filter(|m| (m.1, m.2) == (mark.1, mark.2));
                of_it.next_back() == Some(*mark) && mark.0 == "begin" && place(mark.2).is_some()
            };
            let begun = marks.iter().rfind(is_open).cloned();
            last = begun.and_then(|mark| Some((place(mark.2)?, mark)));
            last.is_some()
        })
        .await;
        let (at, last) = last.unwrap();
        let child = workers.alive.remove(at);
        marks.mark("kill", last.1, last.2);
        drop(child);
        let seen = read(&file);
        interrupted += usize::from(!seen.iter().any(|mark| mark.0 == "end" && mark.1 == last.1));
        workers.start();
    }
    until_stats("all are done", &ads, |stats| stats.done == JOBS).await;
    drop(workers);
    let ends = judge(&read(&file));
    assert_eq!(ends.len() as u64, JOBS, "{ends:?}");
    assert!(interrupted > 0, "no job was interrupted");
    let stats = ads.stats().await.unwrap();
    assert_eq!((stats.dead, stats.ready, stats.running), (0, 0, 0));
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn a_worker_that_was_frozen_beyond_its_lease_drops_what_another_has_run() {
    if let Some(told) = role::role() {
        return be_a_worker(&told).await;
    }
    let (prefix, file) = (unique_prefix("queue"), place("queue-marks"));
    let hold = file.with_extension("hold");
    File::create(&hold).unwrap();
    let mut workers = Workers {
        told: format!("{}\n{prefix}\n{}", redis_url(), file.display()),
        test: "queue::crash::a_worker_that_was_frozen_beyond_its_lease_drops_what_another_has_run",
        alive: Vec::new(),
    };
    workers.start();
    let service = Service::new(redis_url(), &prefix, Policy::default());
    let ads = service.ads();
    ads.enqueue(&ad(1)).await.unwrap();
    let frozen = workers.alive[0].id();
    until("it runs", async || !read(&file).is_empty()).await;
    Workers::signal(frozen, "-STOP");
    std::fs::remove_file(&hold).unwrap();
    workers.start();
    until_stats("another runs it", &ads, |stats| stats.done == 1).await;
    Workers::signal(frozen, "-CONT");
    let of_frozen = |marks: Vec<Mark>| -> Vec<String> {
        let of = marks.into_iter().filter(|mark| mark.2 == frozen);
        of.map(|mark| mark.0).collect()
    };
    until("it is told", async || of_frozen(read(&file)).len() == 2).await;
    assert_eq!(of_frozen(read(&file)), ["begin", "drop"]);
    let stats = ads.stats().await.unwrap();
    assert_eq!(
        (stats.done, stats.ready, stats.running, stats.dead),
        (1, 0, 0, 0)
    );
    drop(workers);
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn the_checker_sees_two_at_once() {
    let mark = |what: &str, process| (what.to_owned(), 1, process);
    let two = [mark("begin", 1), mark("begin", 2), mark("end", 1)];
    assert!(std::panic::catch_unwind(|| judge(&two)).is_err());
    let killed = [
        mark("begin", 1),
        mark("kill", 1),
        mark("begin", 2),
        mark("end", 2),
    ];
    assert_eq!(judge(&killed)[&1], 1);
}
