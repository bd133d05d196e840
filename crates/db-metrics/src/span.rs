//! Spans by OpenTelemetry's stable database conventions, for whatever `tracing` subscriber there is.

use crate::observe::Settings;
use db_core::{Call, CallReport, Event, Observer, Outcome, Part, StatementFacts};
use tracing::{Level, Span, field::Empty};

/// The target of spans and of what is told inside them.
const TARGET: &str = "db_stack";

/// Whether any subscriber would look at a span of ours. A load and a compare where none does.
pub(crate) fn wanted() -> bool {
    tracing::span_enabled!(target: TARGET, Level::INFO)
}

/// The span of a call; none where the call is not sampled.
pub(crate) fn begin(settings: &Settings, call: &Call, facts: Option<&StatementFacts>) -> Span {
    let config = &settings.config;
    if !config.enabled || !sampled(config.sample) {
        return Span::none();
    }
    // The conventions' fall-back where the target is not known.
    let summary = facts.map_or("postgresql", |facts| facts.summary());
    let span = tracing::info_span!(
        target: TARGET,
        "db.call",
        otel.name = if summary.is_empty() { "postgresql" } else { summary },
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = "postgresql",
        db.namespace = Empty,
        db.query.summary = Empty,
        db.query.text = Empty,
        db.response.status_code = Empty,
        error.type = Empty,
        server.address = Empty,
        server.port = Empty,
        db_stack.class = call.class.name(),
        db_stack.queue_seconds = Empty,
        db_stack.connect_seconds = Empty,
        db_stack.backoff_seconds = Empty,
        db_stack.server_seconds = Empty,
    );
    let target = &settings.target;
    if let Some(facts) = facts {
        span.record("db.query.summary", summary);
        if config.query_text {
            span.record("db.query.text", facts.normalized());
        }
    }
    if !target.namespace.is_empty() {
        span.record("db.namespace", target.namespace.as_str());
    }
    if !target.address.is_empty() {
        span.record("server.address", target.address.as_str());
        // Conditionally required: only a port that is not the default one.
        if target.port != 5432 {
            // As a signed number: of an unsigned one the bridge to OpenTelemetry makes a text.
            span.record("server.port", i64::from(target.port));
        }
    }
    span
}

/// What is known at the end.
pub(crate) fn end(span: &Span, report: &CallReport<'_>) {
    match report.outcome {
        Outcome::Done => {}
        Outcome::Failed(error) => {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", &*error.error_type());
            if let Some(state) = error.sqlstate() {
                span.record("db.response.status_code", state.code());
            }
        }
        Outcome::Abandoned => {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", "cancelled");
        }
    }
    for (part, field) in [
        (Part::Queue, "db_stack.queue_seconds"),
        (Part::Connect, "db_stack.connect_seconds"),
        (Part::Backoff, "db_stack.backoff_seconds"),
    ] {
        let spent = report.spent.on(part);
        if !spent.is_zero() {
            span.record(field, spent.as_secs_f64());
        }
    }
    span.record("db_stack.server_seconds", report.server().as_secs_f64());
}

/// A call inside a span follows that one; any other begins a trace by chance.
fn sampled(share: f64) -> bool {
    let outer = Span::current();
    if outer.is_none() {
        return share >= 1.0 || (share > 0.0 && fastrand::f64() < share);
    }
    parent_is_sampled(&outer)
}

#[cfg(feature = "otlp")]
fn parent_is_sampled(outer: &Span) -> bool {
    use opentelemetry::trace::TraceContextExt;
    use tracing_opentelemetry::OpenTelemetrySpanExt;
    let context = outer.context();
    let context = context.span().span_context().clone();
    // Without OpenTelemetry in the subscriber there is no context, and the span is for a log.
    !context.is_valid() || context.is_sampled()
}

#[cfg(not(feature = "otlp"))]
fn parent_is_sampled(_: &Span) -> bool {
    true
}

/// Tells inside the span of a call what became of its attempts.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpanEvents;

impl Observer for SpanEvents {
    fn event(&self, event: &Event) {
        match event {
            Event::Retried {
                cause,
                state,
                attempt,
                wait,
                ..
            } => tracing::info!(
                target: TARGET,
                cause = cause.name(),
                db.response.status_code = state.as_ref().map(|state| state.code()),
                attempt,
                wait_seconds = wait.as_secs_f64(),
                "attempt failed"
            ),
            Event::RetryGaveUp { reason, attempts, .. } => {
                tracing::info!(target: TARGET, reason = reason.name(), attempts, "gave up");
            }
            Event::TimedOut { limit, origin, .. } => tracing::info!(
                target: TARGET,
                limit_seconds = limit.as_secs_f64(),
                origin = origin.name(),
                "timed out"
            ),
            _ => {}
        }
    }
}
