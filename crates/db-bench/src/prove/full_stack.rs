//! `full-stack`: the ratios that this project promises, measured anew.

use super::Verdict;
use crate::bench::{
    self,
    plan::{ClosedCell, OpenCell, Plan},
    report::Report,
    scenario::Scenario::PointSelect,
    server::Target,
    subject::Subject::{self, Db, Deadpool, Lease, Pgbench, Sqlx},
};
use anyhow::Result;
use std::{fmt, time::Duration};

/// What a ratio has to be.
#[derive(Clone, Copy, Debug)]
enum Promise {
    AtLeast(f64),
    AtMost(f64),
}

impl Promise {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::AtMost(most) => write!(f, "<= {most}"),
        }
    }
}

/// A ratio of the bench and its promise.
struct Gate {
    key: &'static str,
    promise: Promise,
    /// What a quick run must hold: rounds of half a second on a shared machine tell a collapse, not a tenth. Without one
    /// the gate is left to the full run, which has the time for its subjects.
    quick: Option<Promise>,
}

const GATES: [Gate; 7] = [
    // sqlx's pool pays two pings and a spawned task per checkout; a prototype of the hot set made 1.7 to 2.2.
    gate(
        "ratio db/sqlx point-select tasks=32",
        Promise::AtLeast(1.8),
        Some(Promise::AtLeast(1.4)),
    ),
    // deadpool-postgres is the fastest pool that people use: nobody should lose by moving here.
    gate(
        "ratio db/deadpool point-select tasks=32",
        Promise::AtLeast(1.0),
        Some(Promise::AtLeast(0.7)),
    ),
    // Throughput bought with a tail is no gain: 1.2 leaves room for the noise of a p99 and for nothing else.
    gate(
        "ratio-p99 db/deadpool point-select tasks=8",
        Promise::AtMost(1.2),
        Some(Promise::AtMost(3.0)),
    ),
    // What a service feels: arrivals that do not wait for answers.
    gate(
        "ratio-p99 db/deadpool point-select load=80%",
        Promise::AtMost(1.2),
        Some(Promise::AtMost(6.0)),
    ),
    gate(
        "ratio-p99 db/deadpool point-select load=50%",
        Promise::AtMost(1.2),
        None,
    ),
    // The bare lease must be what the stack promises, or there is nothing left to stack on it.
    gate("ratio lease/sqlx point-select tasks=32", Promise::AtLeast(1.8), None),
    // pgbench is a client in C with no runtime: the ceiling.
    gate("ratio db/pgbench point-select tasks=32", Promise::AtLeast(0.85), None),
];

const fn gate(key: &'static str, promise: Promise, quick: Option<Promise>) -> Gate {
    Gate { key, promise, quick }
}

/// Measures the ratios of the gates on a throwaway server. `quick` ends within 50 s.
pub(crate) async fn run(quick: bool) -> Result<Verdict> {
    let target = Target::start(None).await?;
    let outcome = bench::measure(plan(quick), &target).await;
    target.clean_up().await;
    let report = outcome?;
    bench::print_cells(&report);
    bench::print_ratios(&report);
    Ok(judge(&report, quick))
}

/// Many short rounds rather than a few long ones: a median over fifteen survives seven disturbed ones, and the shorter
/// the turns, the more alike is the machine that a pair sees.
fn plan(quick: bool) -> Plan {
    let closed = |tasks, subjects: &[Subject]| ClosedCell {
        scenario: PointSelect,
        tasks,
        subjects: subjects.to_vec(),
    };
    let open = |load| OpenCell {
        scenario: PointSelect,
        load,
        subjects: vec![Deadpool, Db],
    };
    if quick {
        Plan {
            rounds: 15,
            span: Duration::from_millis(240),
            closed: vec![closed(8, &[Deadpool, Db]), closed(32, &[Sqlx, Deadpool, Db])],
            open: vec![open(80)],
        }
    } else {
        let all = [Sqlx, Deadpool, Lease, Db, Pgbench];
        Plan {
            rounds: 21,
            span: Duration::from_millis(500),
            closed: vec![closed(8, &all), closed(32, &all)],
            open: vec![open(50), open(80)],
        }
    }
}

fn judge(report: &Report, quick: bool) -> Verdict {
    let mut passed = true;
    let mut figures = Vec::new();
    println!();
    for gate in &GATES {
        let Some(asked) = (if quick { gate.quick } else { Some(gate.promise) }) else {
            continue;
        };
        let name = gate.key.trim_start_matches("ratio").trim_start_matches('-').trim();
        let Some(ratio) = report.ratio(gate.key) else {
            // pgbench is not part of every installation; everything else has to be there.
            let may_be_missing = gate.key.contains(Pgbench.name());
            passed &= may_be_missing;
            println!(
                "{} {}: not measured",
                if may_be_missing { "skipped" } else { "BROKEN " },
                gate.key
            );
            figures.push(format!("{name} not measured"));
            continue;
        };
        let measured = ratio.rounds;
        let holds = asked.holds(measured.median);
        passed &= holds;
        println!(
            "{} {}: measured {:.2} ({:.2}..{:.2}), promised {}, asked of this run {asked}",
            if holds { "holds  " } else { "BROKEN " },
            gate.key,
            measured.median,
            measured.min,
            measured.max,
            gate.promise
        );
        figures.push(format!(
            "{name} {:.2} (promised {}, asked {asked})",
            measured.median, gate.promise
        ));
    }
    Verdict {
        passed,
        figures: figures.join("; "),
    }
}
