//! The table at the end.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use db_stack::{CloseReason, PoolStats, ReplicaStats, RetryStats};

use crate::demo::{
    analyst::Answers,
    crowd::Crowd,
    forgetful::Forgotten,
    ledger::{Audit, Ledger},
    market::Quotes,
    outages::Outage,
    workload::{Calls, Tally},
};

/// All that was done and seen.
pub(crate) struct Report {
    took: Duration,
    tally: Tally,
    pub(crate) ledger: Ledger,
    pub(crate) kills: u64,
    pub(crate) answers: Answers,
    pub(crate) forgotten: Forgotten,
    pub(crate) outages: Vec<Outage>,
    pub(crate) crowd: Crowd,
    pub(crate) stats: PoolStats,
    pub(crate) retries: Option<RetryStats>,
    pub(crate) replicas: Option<ReplicaStats>,
    /// What this process and the other one did with quotes.
    pub(crate) quotes: [Quotes; 2],
    /// How far the replica was seen behind at most.
    pub(crate) longest_lag: Duration,
}

impl Report {
    pub(crate) fn new(took: Duration) -> Self {
        Self {
            took,
            tally: Tally::default(),
            ledger: Ledger::default(),
            kills: 0,
            answers: Answers::default(),
            forgotten: Forgotten::default(),
            outages: Vec::new(),
            crowd: Crowd::default(),
            stats: PoolStats::default(),
            retries: None,
            replicas: None,
            quotes: Default::default(),
            longest_lag: Duration::ZERO,
        }
    }

    /// Adds what one task did.
    pub(crate) fn add(&mut self, tally: Tally) {
        for (kind, calls) in tally.calls {
            let sum = self.tally.calls.entry(kind).or_insert_with(Calls::new);
            sum.succeeded += calls.succeeded;
            sum.failed += calls.failed;
            // Both have the same bounds, which is all that could fail.
            let _ = sum.times.add(calls.times);
        }
        for (name, times) in tally.errors {
            *self.tally.errors.entry(name).or_default() += times;
        }
        self.tally.declined += tally.declined;
        self.tally.looked_up += tally.looked_up;
        self.tally.unseen += tally.unseen;
        self.ledger.join(tally.ledger);
    }

    pub(crate) fn print(&self, audit: &Audit) {
        println!("{}", self.calls());
        println!("{}", self.errors());
        println!("{}", self.orders(audit));
        if let Some(retries) = &self.retries {
            println!("{}", transactions(retries));
        }
        if let Some(replicas) = &self.replicas {
            println!("{}", self.replica(replicas));
        }
        println!("{}", self.cache());
        println!("{}", self.analytics());
        println!("{}", self.leaks());
        if !self.outages.is_empty() {
            println!("{}", self.outages());
        }
        println!("{}", self.crowd());
        println!("{}", self.pool());
    }

    /// Whether somebody did not see what they had just written, or was given an old quote.
    pub(crate) fn is_stale(&self) -> bool {
        self.tally.unseen > 0 || self.quotes.iter().any(|quotes| quotes.stale > 0)
    }

    fn cache(&self) -> Table {
        let mut table = table(["quotes out of the caches of two processes", "this one", "the other"]);
        let [own, other] = &self.quotes;
        let late = |quotes: &Quotes| format!("{} ({:.1} ms)", quotes.late, quotes.latest as f64 / 1000.0);
        let hits = |quotes: &Quotes| {
            let share = quotes.hits as f64 * 100.0 / quotes.reads.max(1) as f64;
            format!("{} ({share:.1} %)", quotes.hits)
        };
        let stale = |quotes: &Quotes| mark(usize::try_from(quotes.stale).unwrap_or(usize::MAX));
        for (what, own, other) in [
            ("new quotes written", own.made.to_string(), other.made.to_string()),
            ("quotes read", own.reads.to_string(), other.reads.to_string()),
            ("answered from memory", hits(own), hits(other)),
            (
                "invalidations told by the server",
                own.told.to_string(),
                other.told.to_string(),
            ),
            (
                "read before the other's was heard of (at most)",
                late(own),
                String::new(),
            ),
            ("stale", stale(own), stale(other)),
        ] {
            table.add_row([what.to_owned(), own, other]);
        }
        table
    }

    fn replica(&self, stats: &ReplicaStats) -> Table {
        let mut table = table(["a replica that falls behind and catches up", ""]);
        let (there, here) = (stats.replica_reads, stats.fallbacks);
        let share = there as f64 * 100.0 / (there + here).max(1) as f64;
        let unseen = usize::try_from(self.tally.unseen).unwrap_or(usize::MAX);
        let rows = [
            ("behind at most", format!("{:.1} s", self.longest_lag.as_secs_f64())),
            ("reads that it answered", format!("{there} ({share:.1} %)")),
            ("reads on the primary in its place", here.to_string()),
            ("orders looked up right after", self.tally.looked_up.to_string()),
            ("of these not seen", mark(unseen)),
        ];
        for (what, figure) in rows {
            table.add_row([what.to_owned(), figure]);
        }
        table
    }

    fn analytics(&self) -> Table {
        let mut table = table(["slow analytics, with a limit of 150 ms", ""]);
        table.add_row(["asked".to_owned(), self.answers.asked.to_string()]);
        table.add_row(["timed out".to_owned(), self.answers.timed_out.to_string()]);
        let left = usize::try_from(self.answers.left_running).unwrap_or(usize::MAX);
        table.add_row(["still running on the server at the end".to_owned(), mark(left)]);
        table
    }

    fn outages(&self) -> Table {
        let mut table = table([
            "outages",
            "breaker open",
            "not ready",
            "calls refused (p90)",
            "served again",
            "ready again",
        ]);
        let after = |time: Option<Duration>| time.map_or("-".to_owned(), |time| format!("{} ms", time.as_millis()));
        let must = |time: Option<Duration>| time.map_or("NEVER".to_owned(), |time| format!("{} ms", time.as_millis()));
        for outage in &self.outages {
            table.add_row([
                outage.what.to_owned(),
                after(outage.breaker_open),
                after(outage.not_ready),
                format!("{} ({} us)", outage.refused, outage.refusal.as_micros()),
                must(outage.served_again),
                must(outage.ready_again),
            ]);
        }
        table
    }

    fn leaks(&self) -> Table {
        let mut table = table(["leases forgotten on purpose", ""]);
        let Forgotten {
            leases,
            named,
            taken_back,
            false_alarms,
        } = self.forgotten;
        table.add_row(["forgotten".to_owned(), leases.to_string()]);
        table.add_row(["named with the line that took them".to_owned(), named.to_string()]);
        table.add_row(["taken back".to_owned(), taken_back.to_string()]);
        let false_alarms = usize::try_from(false_alarms).unwrap_or(usize::MAX);
        table.add_row(["others that were called leaks".to_owned(), mark(false_alarms)]);
        table
    }

    fn crowd(&self) -> Table {
        let mut table = table(["40 callers in the background, 50 tenants, 4 connections", ""]);
        let crowd = &self.crowd;
        let within = |share| format!("{:.1} ms", crowd.critical_within(share).as_secs_f64() * 1000.0);
        let served = crowd.tenants.values().filter(|answers| **answers > 0).count();
        let foreign = usize::try_from(crowd.foreign).unwrap_or(usize::MAX);
        let rows = [
            (
                "critical calls of 10 ms beside them, failed",
                format!("{}, {}", crowd.critical.len(), crowd.critical_failed),
            ),
            ("these took (p50, p99)", format!("{}, {}", within(0.5), within(0.99))),
            (
                "background calls served, shed",
                format!("{}, {}", crowd.background, crowd.background_shed),
            ),
            ("tenants served", format!("{served} of {}", crowd.tenants.len())),
            ("rows of another tenant that one saw", mark(foreign)),
        ];
        for (what, figure) in rows {
            table.add_row([what.to_owned(), figure]);
        }
        table
    }

    fn calls(&self) -> Table {
        let mut table = table(["calls", "succeeded", "failed", "per second", "p50", "p99"]);
        let seconds = self.took.as_secs_f64().max(f64::MIN_POSITIVE);
        let rate = |calls: u64| format!("{:.0}", calls as f64 / seconds);
        let (mut succeeded, mut failed) = (0, 0);
        for (kind, calls) in &self.tally.calls {
            table.add_row([
                kind.to_string(),
                calls.succeeded.to_string(),
                calls.failed.to_string(),
                rate(calls.succeeded),
                milliseconds(calls, 0.5),
                milliseconds(calls, 0.99),
            ]);
            succeeded += calls.succeeded;
            failed += calls.failed;
        }
        let blank = String::new;
        let total = [
            "all".to_owned(),
            succeeded.to_string(),
            failed.to_string(),
            rate(succeeded),
            blank(),
            blank(),
        ];
        table.add_row(total);
        table
    }

    fn errors(&self) -> Table {
        let mut table = table(["errors seen by callers", "times"]);
        for (name, times) in &self.tally.errors {
            table.add_row([name.clone(), times.to_string()]);
        }
        table.add_row([
            format!("all, with {} sessions killed on the server", self.kills),
            self.failed().to_string(),
        ]);
        table
    }

    fn failed(&self) -> u64 {
        self.tally.errors.values().sum()
    }

    fn orders(&self, audit: &Audit) -> Table {
        let mut table = table(["orders", ""]);
        let rows = [
            ("acknowledged to callers", audit.acknowledged.to_string()),
            ("in the table", audit.stored.to_string()),
            ("acknowledged and missing", mark(audit.missing)),
            ("doubled", mark(audit.doubled)),
            ("in the table though refused", mark(audit.ghosts)),
            (
                "of unknown outcome (of these in the table)",
                format!("{} ({})", audit.unknown, audit.unknown_stored),
            ),
            ("declined for want of money", self.tally.declined.to_string()),
            (
                "money in all accounts, before and after",
                format!("{} / {}", euros(audit.before.total), euros(audit.after.total)),
            ),
            (
                "reserved, and the price of all orders",
                format!("{} / {}", euros(audit.after.reserved), euros(audit.after.spent)),
            ),
            (
                "shares held, and ordered",
                format!("{} / {}", audit.after.held, audit.after.ordered),
            ),
            (
                "everything adds up",
                if audit.holds() { "yes" } else { "NO" }.to_owned(),
            ),
        ];
        for (what, figure) in rows {
            table.add_row([what.to_owned(), figure]);
        }
        table
    }

    fn pool(&self) -> Table {
        let stats = &self.stats;
        let mut table = table(["pool", ""]);
        let closed: Vec<_> = CloseReason::ALL
            .into_iter()
            .filter(|reason| stats.closed_for(*reason) > 0)
            .map(|reason| format!("{} {}", stats.closed_for(reason), reason.name()))
            .collect();
        let mean = stats.wait_time.as_secs_f64() * 1000.0 / stats.waits.max(1) as f64;
        let rows = [
            ("leases handed out", stats.acquires.to_string()),
            ("of these waited for (mean)", format!("{} ({mean:.2} ms)", stats.waits)),
            (
                "callers that waited in vain",
                (stats.timeouts + stats.refused).to_string(),
            ),
            (
                "connections opened (attempts that failed)",
                format!("{} ({})", stats.connects, stats.connect_failures),
            ),
            (
                "connections closed",
                if closed.is_empty() {
                    "0".to_owned()
                } else {
                    closed.join(", ")
                },
            ),
            (
                "leases made clean, statements cancelled",
                format!("{}, {}", stats.cleaned, stats.cancelled),
            ),
        ];
        for (what, figure) in rows {
            table.add_row([what.to_owned(), figure]);
        }
        table
    }
}

/// How the transactions went, and what was tried again.
fn transactions(retries: &RetryStats) -> Table {
    let mut table = table(["transactions and retries", ""]);
    let transactions = &retries.transactions;
    let reruns: u64 = transactions.attempts.iter().skip(1).sum();
    let causes: Vec<_> = retries
        .causes
        .iter()
        .filter(|cause| cause.retries > 0)
        .map(|cause| format!("{} {}", cause.retries, cause.cause.name()))
        .collect();
    let rows = [
        ("committed", transactions.committed.to_string()),
        ("of all, those that ran more than once", reruns.to_string()),
        (
            "attempts lost to deadlocks, to connections",
            format!("{}, {}", transactions.deadlocks, transactions.connection_losses),
        ),
        (
            "failed, of unknown outcome",
            format!("{}, {}", transactions.failed, transactions.unknown),
        ),
        (
            "retries",
            if causes.is_empty() {
                "0".to_owned()
            } else {
                causes.join(", ")
            },
        ),
    ];
    for (what, figure) in rows {
        table.add_row([what.to_owned(), figure]);
    }
    table
}

pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Zero is what is promised here.
fn mark(count: usize) -> String {
    if count == 0 {
        "0".to_owned()
    } else {
        format!("{count}  <-- must be 0")
    }
}

fn milliseconds(calls: &Calls, quantile: f64) -> String {
    format!("{:.2} ms", calls.times.value_at_quantile(quantile) as f64 / 1000.0)
}

/// Cents with their point.
fn euros(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents.rem_euclid(100))
}
