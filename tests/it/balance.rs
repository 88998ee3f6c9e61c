//! Several upstreams: the fleet avoids failing ones, keeps a minimum of them, and finds them again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use commontrip::{
    CallError, Commontrip, Override, Policy, State,
    balance::{CircuitSet, SetError},
    test_util::{Fleet, trip},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    support::{redis_url, unique},
    wait::until,
};

/// Sets with this many members, one for each replica. The value of each member is its index.
async fn sets(fleet: &Fleet, members: usize, policy: Policy) -> Vec<CircuitSet<usize>> {
    for member in 0..members {
        // Lets the fleet wait until all replicas agree on the circuit.
        fleet
            .circuit(&format!("set/{member}"), policy.clone())
            .unwrap();
    }
    let all = || (0..members).map(|place| (place.to_string(), place));
    let set = |circuits| CircuitSet::new(circuits, "set", &policy, all()).unwrap();
    let sets: Vec<_> = fleet.replicas().map(set).collect();
    for set in &sets {
        for (breaker, _) in set.members() {
            breaker.acquire().await.unwrap().success();
        }
    }
    fleet.settle().await;
    sets
}

fn nth<T>(set: &CircuitSet<T>, place: usize) -> &commontrip::CircuitBreaker {
    set.members().nth(place).unwrap().0
}

/// How often each member is picked.
async fn shares(set: &CircuitSet<usize>, picks: usize) -> Vec<usize> {
    let mut shares = vec![0; set.members().len()];
    for _ in 0..picks {
        let pick = set.pick().await.unwrap();
        shares[*pick.upstream()] += 1;
        pick.success();
    }
    shares
}

#[tokio::test]
async fn healthy_members_share_evenly_and_a_failing_one_gets_less() {
    fastrand::seed(1);
    let fleet = Fleet::new(1).unwrap();
    let policy = Policy::builder()
        .failure_rate_threshold(90)
        .no_consecutive_failures_threshold()
        .build()
        .unwrap();
    let set = &sets(&fleet, 4, policy).await[0];
    let even = shares(set, 4000).await;
    assert!(
        even.iter().all(|share| (850..1150).contains(share)),
        "{even:?}"
    );
    // A few failures count as noise.
    for _ in 0..10 {
        nth(set, 0).acquire().await.unwrap().failure();
    }
    fleet.settle().await;
    let still = shares(set, 4000).await;
    assert!(
        still.iter().all(|share| (800..1200).contains(share)),
        "{still:?}"
    );
    for _ in 0..1000 {
        nth(set, 0).acquire().await.unwrap().failure();
    }
    fleet.settle().await;
    let uneven = shares(set, 4000).await;
    // A sixteenth of the picks keeps its window filled.
    assert!((150..350).contains(&uneven[0]), "{uneven:?}");
    let rest = &uneven[1..];
    assert!(
        rest.iter().all(|share| (1100..1400).contains(share)),
        "{uneven:?}"
    );
}

#[tokio::test]
async fn an_open_member_gets_nothing_until_its_probes_are_due() {
    let fleet = Fleet::new(2).unwrap();
    let policy = Policy::builder().permitted_number_of_calls_in_half_open_state(1);
    let sets = sets(&fleet, 3, policy.build().unwrap()).await;
    trip(nth(&sets[0], 1)).await;
    fleet.settle().await;
    assert_eq!(shares(&sets[1], 300).await[1], 0);
    // Calls that other members took are not counted as rejected.
    fleet.settle().await;
    let seen = nth(&sets[0], 1).snapshot().await.unwrap();
    assert_eq!(seen.rejected_total, 0);

    fleet.advance(Duration::from_secs(30)).await;
    let probe = sets[0].pick().await.unwrap();
    assert!(probe.is_probe() && *probe.upstream() == 1, "{probe:?}");
    for set in &sets {
        for _ in 0..50 {
            let other = set.pick().await.unwrap();
            assert!(!other.is_probe() && *other.upstream() != 1, "{other:?}");
            other.success();
        }
    }
    probe.success();
    fleet.settle().await;
    // The second success closes it.
    fleet.advance(Duration::from_secs(1)).await;
    let probe = sets[1].pick().await.unwrap();
    assert!(probe.is_probe() && *probe.upstream() == 1, "{probe:?}");
    probe.success();
    fleet.settle().await;
    for set in &sets {
        assert_eq!(nth(set, 1).state(), State::Closed);
        let shares = shares(set, 300).await;
        assert!(shares.iter().all(|share| *share > 50), "{shares:?}");
    }
}

#[tokio::test]
async fn a_pick_that_does_not_wait_has_the_probe_of_the_one_before() {
    let fleet = Fleet::new(1).unwrap();
    let policy = Policy::builder().permitted_number_of_calls_in_half_open_state(1);
    let set = &sets(&fleet, 2, policy.build().unwrap()).await[0];
    trip(nth(set, 0)).await;
    fleet.advance(Duration::from_secs(30)).await;
    let mut probe = None;
    until("a probe is there", async || {
        let pick = set.try_pick().unwrap();
        assert_eq!(pick.is_probe(), *pick.upstream() == 0);
        probe = Some(pick).filter(|pick| pick.is_probe());
        probe.is_some()
    })
    .await;
}

#[tokio::test]
async fn no_more_than_the_bound_are_ejected_though_all_fail() {
    fastrand::seed(2);
    let fleet = Fleet::new(1).unwrap();
    let set = &sets(&fleet, 4, Policy::default()).await[0];
    for (place, failing) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
        trip(nth(set, place)).await;
        fleet.settle().await;
        let mut let_through = 0;
        for _ in 0..1000 {
            let pick = set.pick().await.unwrap();
            assert_eq!(pick.is_let_through(), *pick.upstream() < failing);
            if pick.is_let_through() {
                let_through += 1;
                pick.failure();
            } else {
                pick.success();
            }
        }
        // Two of four members may be excluded. Of the two that take calls, three failing members
        // leave one failing, four leave both failing.
        let expected = match failing {
            1 | 2 => 0..1,
            3 => 150..350,
            _ => 1000..1001,
        };
        assert!(expected.contains(&let_through), "{failing}: {let_through}");
    }
    fleet.settle().await;
    let seen = nth(set, 3).snapshot().await.unwrap();
    assert_eq!(
        seen.failures_total, 1,
        "what is let through is not recorded"
    );
}

#[tokio::test]
async fn what_an_operator_forced_open_is_not_let_through() {
    let fleet = Fleet::new(1).unwrap();
    let set = &sets(&fleet, 2, Policy::default()).await[0];
    for place in 0..2 {
        let breaker = nth(set, place);
        breaker.force_open(Override::because("move")).await.unwrap();
    }
    assert!(set.pick().await.is_err());
}

#[tokio::test]
async fn without_a_bound_a_call_is_rejected_and_says_how_long_to_wait() {
    let fleet = Fleet::new(1).unwrap();
    let waits = |seconds| {
        let wait = Duration::from_secs(seconds);
        Policy::builder()
            .wait_duration_in_open_state(wait)
            .build()
            .unwrap()
    };
    let set = sets(&fleet, 2, waits(60))
        .await
        .remove(0)
        .max_ejection_percent(100);
    trip(nth(&set, 0)).await;
    fleet.advance(Duration::from_secs(20)).await;
    trip(nth(&set, 1)).await;
    fleet.settle().await;
    let answer = set.call(|_| async { Ok::<_, ()>(()) }).await;
    let Err(CallError::Rejected(rejection)) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(rejection.state, State::Open);
    assert_eq!(rejection.retry_after, Some(Duration::from_secs(40)));
    fleet.settle().await;
    let stats = fleet.replicas().next().unwrap().stats();
    assert_eq!(stats.iter().map(|s| s.rejected).sum::<u64>(), 1);
    assert!(set.try_pick().is_err());
}

#[tokio::test]
async fn calls_are_recorded_and_ended_as_those_of_a_circuit() {
    let circuits = Commontrip::embedded().unwrap();
    let policy = Policy::builder().call_timeout(Duration::from_millis(20));
    let policy = policy.build().unwrap();
    let set = CircuitSet::new(&circuits, "set", &policy, [("only", 7)]).unwrap();
    let picked = set
        .call(|seven| async move { Ok::<_, ()>(seven * 2) })
        .await
        .unwrap();
    assert_eq!((picked.answer, *picked.upstream), (14, 7));
    assert_eq!(picked.circuit.name(), "set/only");
    let failed = set.call(|_| async { Err::<(), _>("down") }).await;
    assert!(matches!(failed, Err(CallError::Failed("down"))));
    let hung = set.call(|_| std::future::pending::<Result<(), ()>>()).await;
    assert!(matches!(hung, Err(CallError::TimedOut(_))));
    let stats = &circuits.stats()[0];
    assert_eq!((stats.successes, stats.failures, stats.timeouts), (1, 2, 1));

    let none: [(&str, u8); 0] = [];
    let empty = CircuitSet::new(&circuits, "none", &policy, none);
    assert!(matches!(empty, Err(SetError::Empty)));
    let twice = CircuitSet::new(&circuits, "two", &policy, [("a", 1), ("a", 2)]);
    assert!(matches!(twice, Err(SetError::Twice(name)) if name == "a"));
    let braces = CircuitSet::new(&circuits, "{", &policy, [("a", 1)]);
    assert!(matches!(braces, Err(SetError::Name(_))));
}

/// A TCP service that answers each connection with one byte, or just closes it.
struct Upstream {
    address: String,
    fails: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap().to_string(),
            fails: Arc::default(),
            calls: Arc::default(),
        };
        let (fails, calls) = (Arc::clone(&upstream.fails), Arc::clone(&upstream.calls));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                calls.fetch_add(1, SeqCst);
                if !fails.load(SeqCst) {
                    let _ = stream.write_all(b"!").await;
                }
            }
        });
        upstream
    }
}

async fn ask(address: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.read_exact(&mut [0]).await?;
    Ok(())
}

#[tokio::test]
async fn the_fleet_leaves_an_upstream_that_fails_and_finds_it_again() {
    let mut upstreams = Vec::new();
    for _ in 0..3 {
        upstreams.push(Upstream::start().await);
    }
    let policy = Policy::builder()
        .minimum_number_of_calls(10)
        .wait_duration_in_open_state(Duration::from_secs(2))
        .report_interval(Duration::from_millis(10));
    let (policy, name) = (policy.build().unwrap(), unique("balance"));
    let replica = || {
        let circuits = Commontrip::builder().redis(redis_url());
        let circuits = circuits
            .store_timeout(Duration::from_secs(10))
            .build()
            .unwrap();
        let members = upstreams.iter().zip(["a", "b", "c"]);
        let members = members.map(|(upstream, name)| (name, upstream.address.clone()));
        let set = CircuitSet::new(&circuits, &name, &policy, members).unwrap();
        (circuits, set)
    };
    let fleet: Vec<_> = (0..3).map(|_| replica()).collect();
    let calls = || {
        upstreams
            .iter()
            .map(|u| u.calls.load(SeqCst))
            .collect::<Vec<_>>()
    };
    let round = async || {
        for (_, set) in &fleet {
            let _ = set.call(|address| ask(address)).await;
        }
    };
    for _ in 0..40 {
        round().await;
    }
    assert!(calls().iter().all(|calls| *calls > 15), "{:?}", calls());

    upstreams[1].fails.store(true, SeqCst);
    until("the whole fleet has left it", async || {
        round().await;
        fleet
            .iter()
            .all(|(_, set)| nth(set, 1).state() == State::Open)
    })
    .await;
    let before = calls()[1];
    let begun = tokio::time::Instant::now();
    let (mut rounds, mut failed) = (0, 0);
    while rounds < 100 {
        for (_, set) in &fleet {
            failed += u64::from(set.call(|address| ask(address)).await.is_err());
        }
        rounds += 1;
    }
    // Except for one probe every two seconds, however slow the machine was.
    let probes = calls()[1] - before;
    let turns = begun.elapsed().as_secs() / 2 + 1;
    assert!(probes <= 3 * turns, "{probes} in {:?}", begun.elapsed());
    assert_eq!(failed, probes);

    upstreams[1].fails.store(false, SeqCst);
    until("the whole fleet is back", async || {
        round().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        fleet
            .iter()
            .all(|(_, set)| nth(set, 1).state() == State::Closed)
    })
    .await;
    let before = calls()[1];
    for _ in 0..40 {
        round().await;
    }
    assert!(calls()[1] - before > 15, "{:?}", calls());
    for (circuits, _) in fleet {
        circuits.shutdown().await;
    }
}
