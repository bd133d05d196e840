//! The layer that measures calls: the outermost one.

use crate::{config::TracingConfig, span};
use arc_swap::ArcSwap;
use db_core::{
    Call, CallReport, Error, Layer, Marks, Observers, Operation, Outcome, Result, Service, Spent, StatementFacts,
};
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
};
use tokio::time::Instant;
use tracing::Span;

/// Puts [`Observe`] around a service. Cheap to clone; all clones share their settings.
///
/// Tells those observers that watch every call, and gives a call its span. With neither, a call costs two relaxed loads.
#[derive(Clone)]
pub struct ObserveLayer {
    observers: Observers,
    settings: Arc<ArcSwap<Settings>>,
}

/// What does not change from call to call.
pub(crate) struct Settings {
    pub(crate) config: TracingConfig,
    pub(crate) target: SpanTarget,
}

/// The server that spans name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanTarget {
    /// `db.namespace`: the database of the connection.
    pub namespace: String,
    /// `server.address`.
    pub address: String,
    /// `server.port`.
    pub port: u16,
}

impl ObserveLayer {
    /// A layer that tells `observers`, with spans that name `target`.
    pub fn new(observers: Observers, config: TracingConfig, target: SpanTarget) -> Self {
        Self {
            observers,
            settings: Arc::new(ArcSwap::from_pointee(Settings { config, target })),
        }
    }

    /// Swaps the settings of spans.
    pub fn reload(&self, config: TracingConfig) {
        let target = self.settings.load().target.clone();
        self.settings.store(Arc::new(Settings { config, target }));
    }

    /// Measures `step` as one statement of a transaction.
    ///
    /// # Errors
    /// Those of `step`.
    pub async fn around<T>(
        &self,
        call: &Call,
        facts: Option<&Arc<StatementFacts>>,
        step: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let Some(mut watch) = self.watch(call, facts, None, true) else {
            return step.await;
        };
        let mut step = pin!(step);
        let out = poll_fn(|cx| watch.poll(|| step.as_mut().poll(cx))).await;
        watch.settle(&out);
        out
    }

    fn watch<'a>(
        &'a self,
        call: &'a Call,
        facts: Option<&'a Arc<StatementFacts>>,
        arguments: Option<&'a (dyn fmt::Debug + Sync)>,
        in_transaction: bool,
    ) -> Option<Watch<'a>> {
        let told = self.observers.any_watches();
        let span = if span::wanted() {
            span::begin(&self.settings.load(), call, facts.map(|facts| &**facts))
        } else {
            Span::none()
        };
        (told || !span.is_none()).then(|| Watch {
            observers: &self.observers,
            call,
            facts,
            arguments,
            in_transaction,
            start: Instant::now(),
            polled: false,
            marks: Marks::default(),
            spent: Spent::default(),
            span,
            open: true,
        })
    }
}

impl Default for ObserveLayer {
    /// Nobody listens.
    fn default() -> Self {
        Self::new(Observers::default(), TracingConfig::default(), SpanTarget::default())
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe {
            layer: self.clone(),
            inner,
        }
    }
}

impl fmt::Debug for ObserveLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObserveLayer")
            .field("observers", &self.observers)
            .finish_non_exhaustive()
    }
}

/// A service whose calls are measured. Made by [`ObserveLayer`]. Cancel-safe: a dropped call is told as abandoned.
#[derive(Clone, Debug)]
pub struct Observe<S> {
    layer: ObserveLayer,
    inner: S,
}

impl<S: Service<Op>, Op: Operation + ?Sized> Service<Op> for Observe<S> {
    async fn call(&self, call: &Call, op: &Op) -> Result<Op::Output> {
        // Before the call, so that it is dropped after it: what a dropped wait leaves open is closed then.
        let Some(mut watch) = self.layer.watch(call, op.facts(), op.arguments(), false) else {
            return self.inner.call(call, op).await;
        };
        let mut inner = pin!(self.inner.call(call, op));
        let out = poll_fn(|cx| watch.poll(|| inner.as_mut().poll(cx))).await;
        watch.settle(&out);
        out
    }
}

/// One call on its way. Dropped before it is settled, its caller has gone.
struct Watch<'a> {
    observers: &'a Observers,
    call: &'a Call,
    facts: Option<&'a Arc<StatementFacts>>,
    arguments: Option<&'a (dyn fmt::Debug + Sync)>,
    in_transaction: bool,
    start: Instant,
    polled: bool,
    /// What layers inside have said: of the end in the last poll, of the lease in any.
    marks: Marks,
    spent: Spent,
    span: Span,
    open: bool,
}

impl Watch<'_> {
    fn poll<T>(&mut self, poll: impl FnOnce() -> T) -> T {
        let _entered = (!self.span.is_none()).then(|| self.span.enter());
        // Layers inside are spared the clock where they begin with the call, as this one is where they end with it.
        let began = (!self.polled).then_some(self.start);
        self.polled = true;
        let (out, marks) = self.spent.scope_for(Some(self.observers), began, poll);
        self.marks.ended = marks.ended;
        // Another attempt's lease: the report has room for one.
        if let Some(waited) = marks.waited
            && let Some(before) = self.marks.waited.replace(waited)
        {
            self.observers.leased(before);
        }
        if let Some(held) = marks.held
            && let Some(before) = self.marks.held.replace(held)
        {
            self.observers.returned(|| before);
        }
        out
    }

    fn settle<T>(mut self, out: &Result<T, Error>) {
        let now = self.marks.ended.unwrap_or_else(Instant::now);
        let outcome = match out {
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::Failed(error),
        };
        self.close(outcome, now);
    }

    fn close(&mut self, outcome: Outcome<'_>, now: Instant) {
        self.open = false;
        self.spent.close(now);
        let took = now.saturating_duration_since(self.start);
        if let (Some(facts), Outcome::Done) = (self.facts, &outcome) {
            facts.count_time(took);
        }
        let mut report = CallReport::new(self.call, outcome, took, &self.spent);
        report.waited = self.marks.waited;
        report.held = self.marks.held;
        report.facts = self.facts;
        report.arguments = self.arguments;
        report.in_transaction = self.in_transaction;
        self.observers.call(&report);
        if !self.span.is_none() {
            span::end(&self.span, &report);
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if self.open {
            self.close(Outcome::Abandoned, Instant::now());
        }
    }
}
