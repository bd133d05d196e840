//! Spans by OTLP, set up in one call.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // Inside a tokio runtime, once, at the start of the program.
//! let otlp = db_metrics::otlp::install("http://localhost:4317", "orders")?;
//! // … the program; at its end:
//! otlp.shut_down().await;
//! # Ok(()) }
//! ```

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};
use std::{fmt, time::Duration};
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{
    Layer, filter::LevelFilter, layer::SubscriberExt, registry::LookupSpan, util::SubscriberInitExt,
};

/// How long one export may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Why spans can't be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtlpError {
    /// The endpoint can't be used: it has to be the URL of a gRPC receiver, such as `http://localhost:4317`.
    #[error("the OTLP endpoint can't be used: {0}")]
    Endpoint(String),
    /// The program has a `tracing` subscriber already: add [`layer`] to it instead.
    #[error("there is a tracing subscriber already: add db_metrics::otlp::layer to it")]
    Taken,
}

/// The export of spans. What is on its way is sent by [`Otlp::shut_down`]; dropped before, up to the last five seconds
/// of spans are lost.
pub struct Otlp(SdkTracerProvider);

impl Otlp {
    /// Sends what is waiting and ends the export, within about five seconds.
    pub async fn shut_down(self) {
        // The exporter blocks its caller, and may need this runtime to get done.
        let ended = tokio::task::spawn_blocking(move || drop(self.0.shutdown_with_timeout(LIMIT)));
        drop(ended.await);
    }
}

impl fmt::Debug for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Otlp")
    }
}

/// Makes spans at `INFO` and above go to an OTLP receiver by gRPC, for programs that have no subscriber of their own.
/// Call it inside a tokio runtime.
///
/// # Errors
/// When the endpoint can't be used, or there is a subscriber already.
pub fn install(endpoint: &str, service: &str) -> Result<Otlp, OtlpError> {
    let (layer, otlp) = layer(endpoint, service)?;
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(LevelFilter::INFO));
    subscriber.try_init().map_err(|_| OtlpError::Taken)?;
    Ok(otlp)
}

/// The same as a layer, for the subscriber of the program. Call it inside a tokio runtime.
///
/// # Errors
/// When the endpoint can't be used.
pub fn layer<S>(endpoint: &str, service: &str) -> Result<(OpenTelemetryLayer<S, SdkTracer>, Otlp), OtlpError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(LIMIT)
        .build()
        .map_err(|error| OtlpError::Endpoint(error.to_string()))?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name(service.to_owned()).build())
        .build();
    let tracer = provider.tracer("db-stack");
    let layer = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        // Source lines and threads are of our code, not of the caller's.
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false);
    Ok((layer, Otlp(provider)))
}
