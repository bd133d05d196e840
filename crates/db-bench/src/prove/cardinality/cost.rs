//! What watching costs: nanoseconds of a call without a server, and throughput with one.

use std::{
    hint::black_box,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use anyhow::bail;
use db_core::{Call, Layer, Observers, Operation, Result, Rows, Service, Statement, config::Mode};
use db_metrics::ObserveLayer;
use db_stack::Db;

use super::watched;
use crate::{
    bench::{
        closed::{self, Closed},
        sample::Spread,
        scenario::Scenario::PointSelect,
        server::Target,
        subject::CONNECTIONS,
    },
    prove::findings::Findings,
};

/// What the issue of this part promises.
const MOST_ON: Duration = Duration::from_nanos(400);
const MOST_OFF: Duration = Duration::from_nanos(20);
/// The share of the throughput that watching may cost.
const MOST_OF_THROUGHPUT: f64 = 0.02;
/// What a quick run may find: rounds of a tenth of a second on a shared machine tell a tenth, not a hundredth.
const MOST_IN_QUICK: f64 = 0.12;

/// Takes a lease, waits once, as every query does, and gives it back.
#[derive(Clone)]
struct Trip(Observers);

impl<Op: Operation<Output = Rows> + ?Sized> Service<Op> for Trip {
    async fn call(&self, _: &Call, _: &Op) -> Result<Rows> {
        self.0.leased(Duration::ZERO);
        let mut asked = false;
        std::future::poll_fn(|_| {
            if std::mem::replace(&mut asked, true) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        self.0.returned(|| Duration::from_micros(80));
        Ok(Rows::default())
    }
}

/// The cost of a call, without a server.
pub(super) fn of_a_call(quick: bool, findings: &mut Findings) -> anyhow::Result<()> {
    let bare = Trip(Observers::default());
    let off = ObserveLayer::default().layer(bare.clone());
    let (_meter, layer, observers) = watched()?;
    let on = layer.layer(Trip(observers));
    let (call, statement) = (
        Call::here(),
        Statement::all("SELECT balance FROM accounts WHERE id = $1")?,
    );
    let (rounds, calls) = if quick { (41, 10_000) } else { (401, 10_000) };
    let mut times = [f64::INFINITY; 3];
    for _ in 0..rounds {
        // The quickest round is the one that nobody else disturbed.
        times[0] = times[0].min(each(&bare, &call, &statement, calls)?);
        times[1] = times[1].min(each(&off, &call, &statement, calls)?);
        times[2] = times[2].min(each(&on, &call, &statement, calls)?);
    }
    let [bare, off, on] = times;
    let (off, on) = (off - bare, on - bare);
    // A quick run shares its machine: it tells a lock on the path or an allocation, not the last nanosecond.
    let slack = if quick { 3.0 } else { 1.0 };
    let most = |limit: Duration| limit.as_nanos() as f64 * slack;
    let asked = |limit| format!("{limit:?}, of this run {:.0} ns", most(limit));
    let (on_text, off_text) = (format!("{on:.0}"), format!("{off:.1}"));
    findings.expect("watching a call, ns", on_text, asked(MOST_ON), on <= most(MOST_ON));
    findings.expect("switched off, ns", off_text, asked(MOST_OFF), off <= most(MOST_OFF));
    Ok(())
}

/// Nanoseconds for each call. Polled by hand: a runtime would cost more than what is measured.
fn each<S: Service<Statement>>(service: &S, call: &Call, statement: &Statement, calls: u32) -> anyhow::Result<f64> {
    let mut cx = Context::from_waker(Waker::noop());
    let since = Instant::now();
    for _ in 0..calls {
        let mut trip = pin!(service.call(call, black_box(statement)));
        let first = trip.as_mut().poll(&mut cx);
        let (Poll::Pending, Poll::Ready(Ok(rows))) = (first, trip.as_mut().poll(&mut cx)) else {
            bail!("a trip waits once and succeeds");
        };
        black_box(rows);
    }
    Ok(since.elapsed().as_nanos() as f64 / f64::from(calls))
}

/// The throughput of point selects with everything on, by that with everything off.
pub(super) async fn in_throughput(quick: bool, findings: &mut Findings) -> anyhow::Result<()> {
    let (rounds, span) = if quick { (25, 120) } else { (201, 250) };
    println!("{rounds} pairs of rounds of {span} ms, watched and not");
    let target = Target::start(None).await?;
    let outcome = pairs(&target, rounds, Duration::from_millis(span)).await;
    target.clean_up().await;
    let Some(ratio) = Spread::of(outcome?) else {
        bail!("no round was measured");
    };
    let most = if quick { MOST_IN_QUICK } else { MOST_OF_THROUGHPUT };
    let cost = 1.0 - ratio.median;
    findings.expect(
        "throughput that watching costs, %",
        format!("{:.1}", 100.0 * cost),
        format!("2, of this run {:.0}", 100.0 * most),
        cost <= most,
    );
    Ok(())
}

async fn pairs(target: &Target, rounds: u32, span: Duration) -> anyhow::Result<Vec<f64>> {
    let (off, on) = (connect(target, false).await?, connect(target, true).await?);
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let cell = Closed {
            scenario: PointSelect,
            tasks: 32,
            span,
            warm_up: Duration::from_millis(20),
            seed: u64::from(round),
        };
        // Each goes first in turn, so that what drifts cancels out.
        let (first, second) = if round % 2 == 0 { (&off, &on) } else { (&on, &off) };
        let (first, second) = (closed::run(first, cell).await?, closed::run(second, cell).await?);
        let (without, with) = if round % 2 == 0 {
            (first, second)
        } else {
            (second, first)
        };
        ratios.push(with.throughput / without.throughput);
    }
    for db in [off, on] {
        db.close().await;
    }
    Ok(ratios)
}

async fn connect(target: &Target, watched: bool) -> anyhow::Result<Arc<Db>> {
    let db = Db::builder().options(target.sqlx_options()?);
    let db = db.max_connections(CONNECTIONS).configure(move |config| {
        config.metrics.enabled = watched;
        config.tracing.enabled = watched;
        if !watched {
            config.slow_query.mode = Mode::Off;
        }
    });
    Ok(Arc::new(db.connect().await?))
}
