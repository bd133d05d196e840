//! Every number that this project promises, as a named proof that anyone can re-run.

mod adaptive;
mod alerts;
mod arrivals;
mod breaker;
mod cache_keys;
mod cache_memory;
mod cancel;
mod cancellation;
mod cardinality;
mod causality;
mod chaos;
mod coherence;
mod dead_peers;
mod deadlocks;
mod doctor;
mod exactly_once;
mod explain_safety;
mod failover;
mod findings;
mod full_stack;
mod http;
mod leaks;
mod outage;
mod overload;
mod patient;
mod pgbouncer;
mod priorities;
#[path = "../../db-metrics/tests/receiver/mod.rs"]
mod receiver;
mod replica_loss;
mod restart;
mod resurrection;
mod rig;
mod stale_plans;
mod stampede;
mod storm;
mod subject;
mod telemetry_secrets;
mod tenants;
mod timeout_memory;
mod ward;

use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use futures::future::BoxFuture;
use tokio::time::{Instant, timeout};

use crate::pg::{self, Signals};

/// A quick proof that takes longer has failed.
const QUICK: Duration = Duration::from_secs(50);
/// A thorough one that takes longer hangs.
const THOROUGH: Duration = Duration::from_secs(1800);

/// Options.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which proof; without it they are listed.
    name: Option<String>,
    /// A smaller run that ends within 50 s and gates ratios and counts only.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    chaos: chaos::Args,
}

/// How a proof ended.
pub(crate) struct Verdict {
    pub(crate) passed: bool,
    /// What was measured, in one line.
    pub(crate) figures: String,
}

struct Proof {
    name: &'static str,
    promise: &'static str,
    run: fn(bool) -> BoxFuture<'static, anyhow::Result<Verdict>>,
}

const PROOFS: &[Proof] = &[
    Proof {
        name: "cancellation",
        promise: "a call dropped at any await leaves no open transaction, wrong answer or lost permit",
        run: |quick| Box::pin(cancellation::run(quick)),
    },
    Proof {
        name: "storm",
        promise: "400 impatient callers on 8 slots make the pool open at most max + 2 connections",
        run: |quick| Box::pin(storm::run(quick)),
    },
    Proof {
        name: "restart",
        promise: "after a SIGKILL of the server the pool serves within 1 s of its return, and nobody hangs",
        run: |quick| Box::pin(restart::run(quick)),
    },
    Proof {
        name: "dead-peers",
        promise: "when every lease in use dies silently, 25 of 25 later acquires succeed",
        run: |quick| Box::pin(dead_peers::run(quick)),
    },
    Proof {
        name: "cancel",
        promise: "a timeout cancels on the server, gives the slot back at once, and never hits another statement",
        run: |quick| Box::pin(cancel::run(quick)),
    },
    Proof {
        name: "timeout-memory",
        promise: "what is remembered of statements stays bounded at 1,000,000 distinct ones",
        run: |quick| Box::pin(timeout_memory::run(quick)),
    },
    Proof {
        name: "leaks",
        promise: "a lease that does not come back is named with its cause, and taken back; nothing else is",
        run: |quick| Box::pin(leaks::run(quick)),
    },
    Proof {
        name: "explain-safety",
        promise: "explaining writes, hidden writes and stacked statements changes no row",
        run: |quick| Box::pin(explain_safety::run(quick)),
    },
    Proof {
        name: "pgbouncer",
        promise: "50 clients over 2 server connections of a transaction pooler get no row that is not theirs",
        run: |quick| Box::pin(pgbouncer::run(quick)),
    },
    Proof {
        name: "deadlocks",
        promise: "transactions that get in each other's way all commit, and the sums are right",
        run: |quick| Box::pin(deadlocks::run(quick)),
    },
    Proof {
        name: "stale-plans",
        promise: "a change of schema under load is seen by no caller",
        run: |quick| Box::pin(stale_plans::run(quick)),
    },
    Proof {
        name: "coherence",
        promise: "no answer from the cache is older than allowed, whoever writes, whatever happens to the listener",
        run: |quick| Box::pin(coherence::run(quick)),
    },
    Proof {
        name: "stampede",
        promise: "1,000 callers of a cold key make one query; a frozen database gives old answers at once, or an honest error",
        run: |quick| Box::pin(stampede::run(quick)),
    },
    Proof {
        name: "cache-keys",
        promise: "different questions never share an answer: statements, arguments, tenants, roles",
        run: |quick| Box::pin(cache_keys::run(quick)),
    },
    Proof {
        name: "cache-memory",
        promise: "what the cache keeps takes no more than a tenth beyond its limit, however much passes through it",
        run: |quick| Box::pin(cache_memory::run(quick)),
    },
    Proof {
        name: "causality",
        promise: "no session reads the past over replicas whose lag swings, in one process and by token between two",
        run: |quick| Box::pin(causality::run(quick)),
    },
    Proof {
        name: "failover",
        promise: "writes resume within 1 s of a promotion and never reach the wrong node",
        run: |quick| Box::pin(failover::run(quick)),
    },
    Proof {
        name: "replica-loss",
        promise: "lost and slow replicas cost reads a detour and writes nothing",
        run: |quick| Box::pin(replica_loss::run(quick)),
    },
    Proof {
        name: "overload",
        promise: "at up to 10 times the capacity as much is served in time as at any load, and a spike is forgotten in 1 s",
        run: |quick| Box::pin(overload::run(quick)),
    },
    Proof {
        name: "priorities",
        promise: "background at 10 times the capacity costs critical calls half of their p99 at most, and is served too",
        run: |quick| Box::pin(priorities::run(quick)),
    },
    Proof {
        name: "adaptive",
        promise: "the limit ends within 20 % of the best fixed size, and three processes share a small server without 53300",
        run: |quick| Box::pin(adaptive::run(quick)),
    },
    Proof {
        name: "tenants",
        promise: "200 tenants on 20 connections are all served, see their own rows alone and don't slow each other",
        run: |quick| Box::pin(tenants::run(quick)),
    },
    Proof {
        name: "outage",
        promise: "without a server load is at most 1.1 times what callers ask for, and all is well 1 s after its return",
        run: |quick| Box::pin(outage::run(quick)),
    },
    Proof {
        name: "exactly-once",
        promise: "with connections cut at random bytes nothing acknowledged is lost, and nothing is done twice",
        run: |quick| Box::pin(exactly_once::run(quick)),
    },
    Proof {
        name: "telemetry-secrets",
        promise: "no argument, literal or password is in spans, logs, metrics, Debug or the slow-query log",
        run: |quick| Box::pin(telemetry_secrets::run(quick)),
    },
    Proof {
        name: "breaker",
        promise: "a frozen server is asked by probes alone, callers fail at once, and it is served again when it thaws",
        run: |quick| Box::pin(breaker::run(quick)),
    },
    Proof {
        name: "resurrection",
        promise: "after restarts, failovers, new passwords and new addresses the pool heals by itself",
        run: |quick| Box::pin(resurrection::run(quick)),
    },
    Proof {
        name: "cardinality",
        promise: "100,000 statements over 10,000 tables stay within the bounds; watching a call costs under 400 ns",
        run: |quick| Box::pin(cardinality::run(quick)),
    },
    Proof {
        name: "doctor",
        promise: "ten planted faults are found and none on the clean twin; advice keeps its word; nobody is held up",
        run: |quick| Box::pin(doctor::run(quick)),
    },
    Proof {
        name: "alerts",
        promise: "every alert fires and resolves; a real Prometheus sees it under real faults; no rule names a dead metric",
        run: |quick| Box::pin(alerts::run(quick)),
    },
    Proof {
        name: "chaos",
        promise: "under a schedule of every fault nothing acknowledged is lost, nothing wrong is answered, nobody hangs",
        run: |quick| Box::pin(chaos::run(quick, chaos::Args::default())),
    },
];

/// Written, and not kept yet or never seen to hold: they run by name, and CI does not ask for them.
const DRAFTS: &[Proof] = &[Proof {
    name: "full-stack",
    promise: "with all layers a point select keeps its ratio to the other pools",
    run: |quick| Box::pin(full_stack::run(quick)),
}];

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Some(name) = args.name else {
        for proof in PROOFS {
            println!("{:<17} {}", proof.name, proof.promise);
        }
        // Apart from the list, which scripts read: none of these is a promise yet.
        eprintln!("\nnot kept yet, or never seen to hold:");
        for draft in DRAFTS {
            eprintln!("{:<17} {}", draft.name, draft.promise);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let Some(proof) = PROOFS.iter().chain(DRAFTS).find(|proof| proof.name == name) else {
        let known: Vec<_> = PROOFS.iter().map(|proof| proof.name).collect();
        bail!("there is no proof {name:?}; there are {}", known.join(", "));
    };
    let mut signals = Signals::watch()?;
    println!("{}: {}", proof.name, proof.promise);
    let limit = if args.quick { QUICK } else { THOROUGH };
    let since = Instant::now();
    // The one proof with options of its own.
    let proved = match name.as_str() {
        "chaos" => Box::pin(chaos::run(args.quick, args.chaos)),
        _ => (proof.run)(args.quick),
    };
    let verdict = match signals.or_done(timeout(limit, proved)).await {
        Err(signal) => return Ok(pg::code_after(signal)),
        Ok(Err(_)) => failed(format!("took longer than {limit:?}")),
        Ok(Ok(Err(error))) => failed(format!("could not be run: {error:#}")),
        Ok(Ok(Ok(verdict))) => verdict,
    };
    println!("took {:.1} s", since.elapsed().as_secs_f64());
    let outcome = if verdict.passed { "PASS" } else { "FAIL" };
    // One line, whatever an error's text holds: scripts read it.
    println!("{outcome} {name} {}", verdict.figures.replace('\n', " "));
    Ok(if verdict.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn failed(figures: String) -> Verdict {
    Verdict { passed: false, figures }
}
