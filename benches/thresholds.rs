//! How soon a policy opens, how many failures that costs, and how often noise opens it.
//!
//!     cargo bench --bench thresholds --features config      # some seconds; the tables of docs/choosing-a-policy.md
//!
//! Calls go through the model on simulated time, with a fixed seed, so that each run prints the
//! same. They begin at random moments (a Poisson process) and fail at random. A call is reported
//! when it ends, or in batches of 1 ms. A real fleet adds the transit time of a report to Redis and
//! the calls in flight.
//!
//! - **Opens after**: every call succeeds for two windows, then a share fails. The median of
//!   [`RUNS`] runs: the time from the first failing call, and the number of failed calls until the
//!   circuit opened.
//! - **False trips a day**: this share of calls fails forever. Simulated if a trip takes [`FEW`]
//!   calls or fewer, otherwise computed (`~`), because a simulation cannot wait for one trip in 10
//!   million calls. [`Noise`] has the formulas.

#![allow(missing_docs, clippy::expect_used, clippy::cast_precision_loss)]

use commontrip::{
    Policy, Rules, State,
    config::Config,
    model::{Circuit, Counts, Head, Report, Runs},
};
use fastrand::Rng;

/// Calls a second of the whole fleet.
const TRAFFIC: [f64; 7] = [1.0 / 3.0, 1.0, 3.0, 10.0, 120.0, 1_000.0, 10_000.0];
/// Percent of calls that fail in an outage.
const OUTAGES: [u8; 3] = [100, 80, 60];
/// Percent of calls that fail when nothing is wrong.
const NOISE: [u8; 4] = [1, 5, 10, 30];
const RUNS: usize = 9;
/// Trips that take at most this many calls are counted in a simulation, rarer ones computed.
const FEW: f64 = 20_000.0;
const DAY: f64 = 86_400.0;
/// A time at which buckets of every width begin.
const BEGAN: f64 = 1_735_689_600_000.0;

/// A circuit under a policy, and the present time, ms.
struct Trial {
    circuit: Circuit,
    report: Report,
    now: f64,
    random: Rng,
}

impl Trial {
    fn new(rules: Rules, seed: u64) -> Self {
        let head = Head {
            replica: "fleet".to_owned(),
            policy: rules,
            ..Head::default()
        };
        let report = Report {
            head,
            ..Report::default()
        };
        Self {
            circuit: Circuit::default(),
            report,
            now: BEGAN,
            random: Rng::with_seed(seed),
        }
    }

    /// Advances time to the start of the next call.
    fn pass(&mut self, traffic: f64) {
        self.now -= (1.0 - self.random.f64()).ln() * 1000.0 / traffic;
    }

    /// Ends these calls now; returns whether the circuit is open afterwards.
    fn end(&mut self, counts: Counts, runs: Runs) -> bool {
        self.report.seq += 1;
        (self.report.counts, self.report.runs) = (counts, runs);
        self.circuit.report(&self.report, self.now as u64).state == State::Open
    }

    /// Ends one call, or those of 1 ms. Returns the failures, and whether the circuit is open
    /// afterwards.
    fn step(&mut self, traffic: f64, percent: u8) -> (u64, bool) {
        let (mut counts, mut runs) = (Counts::default(), Runs::default());
        let end = self.now + 1.0;
        loop {
            if self.random.u8(..100) < percent {
                counts.failures += 1;
                runs.last += 1;
            } else {
                if counts.successes == 0 {
                    runs.first = runs.last;
                }
                counts.successes += 1;
                runs.last = 0;
            }
            runs.longest = runs.longest.max(runs.last);
            self.pass(traffic);
            if self.now >= end {
                return (counts.failures, self.end(counts, runs));
            }
        }
    }

    /// Makes only successful calls for two windows.
    fn calm(&mut self, traffic: f64) {
        let window = self.report.head.policy.window_ms as f64;
        let steps = 100.0;
        let each = 2.0 * window / steps;
        let mut made = 0.0;
        for step in 1..=100 {
            self.now += each;
            let due = (traffic * each * f64::from(step) / 1000.0).floor();
            let counts = Counts {
                successes: (due - made) as u64,
                ..Counts::default()
            };
            made = due;
            self.end(counts, Runs::default());
        }
    }
}

/// The median time to open, ms, and the failures until then; `None` if the circuit stays closed for
/// ten windows.
fn outage(rules: Rules, traffic: f64, percent: u8) -> Option<(f64, u64)> {
    let run = |seed| {
        let mut trial = Trial::new(rules, seed);
        trial.calm(traffic);
        let (began, mut failed) = (trial.now, 0);
        // Long enough for a run of failures at one call in 3 s.
        let patience = 10.0 * (rules.window_ms as f64).max(60_000.0);
        while trial.now < began + patience {
            let at = trial.now;
            let (failures, open) = trial.step(traffic, percent);
            failed += failures;
            if open {
                return Some((at - began, failed));
            }
        }
        None
    };
    let mut ran: Vec<_> = (0..RUNS as u64).map(run).collect();
    ran.sort_by(|a, b| {
        let time = |run: &Option<(f64, u64)>| run.map_or(f64::INFINITY, |(time, _)| time);
        time(a).total_cmp(&time(b))
    });
    ran[RUNS / 2]
}

/// How often a constant share of failures opens the circuit.
struct Noise {
    rules: Rules,
    traffic: f64,
    percent: u8,
}

impl Noise {
    /// Trips per call by a run of failures. Calls until a trip: `(p^-k - 1) / (1 - p)`, exactly.
    fn by_run(&self) -> f64 {
        let p = f64::from(self.percent) / 100.0;
        match self.rules.consecutive_failures_threshold {
            0 => 0.0,
            k => (1.0 - p) / (p.powf(-(k as f64)) - 1.0),
        }
    }

    /// Trips per call by the rate. The number of calls in the window is Poisson-distributed. A call
    /// trips the circuit if a failure replaces a success and completes the share, or if the call
    /// completes the minimum. Crossings that come in clusters are counted one by one, so the result
    /// is somewhat too high.
    fn by_rate(&self) -> f64 {
        let (rules, minimum) = (&self.rules, self.rules.minimum_number_of_calls);
        let half = rules.window_buckets / 2;
        self.by_rate_of(rules.window_buckets, minimum) + self.by_rate_of(half, 10 * minimum)
    }

    /// The same for the newest `buckets` buckets, if they have at least `least` calls.
    fn by_rate_of(&self, buckets: u64, least: u64) -> f64 {
        let (rules, p) = (&self.rules, f64::from(self.percent) / 100.0);
        let rate = rules.failure_rate_threshold;
        if rate == 0 {
            return 0.0;
        }
        // A bucket leaves as a whole, so on average half of one is missing.
        let width = rules.window_ms as f64 / 1000.0 / rules.window_buckets as f64;
        let mean = self.traffic * width * (buckets as f64 - 0.5);
        let spread = 8.0 * mean.sqrt();
        let from = (mean - spread).max(least as f64) as u64;
        let needed = |n: u64| (n * rate).div_ceil(100);
        let crossing = |n: u64| {
            let here = poisson(n, mean);
            here * p * (1.0 - p) * binomial(n - 1, needed(n) - 1, p)
        };
        let crossings: f64 = (from..=(mean + spread + 20.0) as u64).map(crossing).sum();
        let enough: f64 = (needed(least)..=least).map(|k| binomial(least, k, p)).sum();
        crossings + poisson(least - 1, mean) * enough
    }

    fn computed(&self) -> f64 {
        self.by_run() + self.by_rate()
    }

    /// Trips per call in a simulation of about 20 trips.
    fn simulated(&self) -> f64 {
        let calls = (20.0 / self.computed()).clamp(20_000.0, 20.0 * FEW);
        let (mut trips, mut made) = (0.0, 0.0);
        let mut trial = Trial::new(self.rules, 1);
        while made < calls {
            let failed = self.percent > trial.random.u8(..100);
            let counts = Counts {
                successes: u64::from(!failed),
                failures: u64::from(failed),
                ..Counts::default()
            };
            made += 1.0;
            trial.pass(self.traffic);
            if trial.end(counts, Runs::default()) {
                trips += 1.0;
                let now = trial.now;
                let random = trial.random.clone();
                trial = Trial::new(self.rules, 1);
                (trial.now, trial.random) = (now, random);
            }
        }
        trips / made
    }

    fn a_day(&self) -> String {
        let calls = self.traffic * DAY;
        let computed = self.computed();
        if computed * FEW < 1.0 {
            return format!("~{}", number(computed * calls));
        }
        number(self.simulated() * calls)
    }
}

fn ln_factorial(n: u64) -> f64 {
    // Stirling's series; exact to 1e-9 from 10 on.
    if n < 10 {
        return (2..=n).map(|k| (k as f64).ln()).sum();
    }
    let x = n as f64;
    x.ln().mul_add(x, -x) + 0.5 * (std::f64::consts::TAU * x).ln() + 1.0 / (12.0 * x)
        - 1.0 / (360.0 * x.powi(3))
}

fn poisson(n: u64, mean: f64) -> f64 {
    ((n as f64).mul_add(mean.ln(), -mean) - ln_factorial(n)).exp()
}

fn binomial(n: u64, k: u64, p: f64) -> f64 {
    let ways = ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k);
    let (k, rest) = (k as f64, (n - k) as f64);
    (ways + k * p.ln() + rest * (1.0 - p).ln()).exp()
}

/// Formats a number for people.
fn number(n: f64) -> String {
    match n {
        n if n < 1e-9 => "0".to_owned(),
        n if n < 0.001 => format!("{n:.0e}"),
        n if n < 1.0 => format!("{n:.3}"),
        n if n < 10.0 => format!("{n:.1}"),
        n if n < 100_000.0 => format!("{n:.0}"),
        n => format!("{n:.0e}"),
    }
}

fn time(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => "under 1 ms".to_owned(),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms if ms < 100_000.0 => format!("{:.1} s", ms / 1000.0),
        ms => format!("{:.0} s", ms / 1000.0),
    }
}

fn rate(traffic: f64) -> String {
    match traffic {
        slow if slow < 1.0 => "1 in 3 s".to_owned(),
        fast => format!("{fast}/s"),
    }
}

fn table(name: &str, rules: Rules) {
    println!("\n### {name}\n");
    let outages = OUTAGES.map(|percent| format!("{percent} % fail"));
    let noise = NOISE.map(|percent| format!("{percent} % noise"));
    println!(
        "| calls | {} | {} |",
        outages.join(" | "),
        noise.join(" | ")
    );
    println!("|---|{}", "---:|".repeat(OUTAGES.len() + NOISE.len()));
    for traffic in TRAFFIC {
        let opens = OUTAGES.map(|percent| match outage(rules, traffic, percent) {
            Some((ms, failed)) => format!("{} ({failed})", time(ms)),
            None => "never".to_owned(),
        });
        let noise = NOISE.map(|percent| {
            let noise = Noise {
                rules,
                traffic,
                percent,
            };
            noise.a_day()
        });
        println!(
            "| {} | {} | {} |",
            rate(traffic),
            opens.join(" | "),
            noise.join(" | ")
        );
    }
}

/// Compares computed with simulated values where both are available.
fn check(rules: Rules) {
    println!("\n### Computed and simulated false trips a day of the default\n");
    println!("| calls | noise | computed | simulated |\n|---|---|---|---|");
    for (traffic, percent) in [(1.0, 30), (3.0, 20), (3.0, 30), (10.0, 40)] {
        let noise = Noise {
            rules,
            traffic,
            percent,
        };
        let [computed, simulated] =
            [noise.computed(), noise.simulated()].map(|trips| number(trips * traffic * DAY));
        println!(
            "| {} | {percent} % | {computed} | {simulated} |",
            rate(traffic)
        );
    }
}

fn main() {
    let preset = |name: &str| {
        let variable = ("COMMONTRIP_PRESET".to_owned(), name.to_owned());
        let config = Config::from_variables([variable]).expect("it is a preset");
        *config.policy("any").expect("a preset is valid").rules()
    };
    for name in ["default", "fast", "database", "slow_upstream"] {
        table(name, preset(name));
    }
    let long = Policy::builder()
        .sliding_window_time(std::time::Duration::from_secs(60), 10)
        .no_consecutive_failures_threshold();
    let long = long.build().expect("it is valid");
    table("50 % of 20 calls in 60 s, and no run", *long.rules());
    check(preset("default"));
}
