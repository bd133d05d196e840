//! An OTLP receiver: a real gRPC server that keeps the spans that it is sent.

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

pub(crate) struct Receiver {
    pub(crate) endpoint: String,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    server: JoinHandle<()>,
}

struct Keep(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Keep {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        requests.push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    pub(crate) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let requests = Arc::<Mutex<Vec<_>>>::default();
        let service = TraceServiceServer::new(Keep(requests.clone()));
        let server = tonic::transport::Server::builder().add_service(service);
        let server = tokio::spawn(async move {
            drop(server.serve_with_incoming(TcpIncoming::from(listener)).await);
        });
        Ok(Self {
            endpoint,
            requests,
            server,
        })
    }

    /// Everything that has come, as text: what is not in it was not sent.
    pub(crate) fn text(&self) -> String {
        format!("{:?}", self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.iter().cloned()).collect()
    }

    /// Waits until there are so many spans, for ten seconds at most.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Span> {
        for _ in 0..200 {
            if self.spans().len() >= count {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.spans()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The attributes of a span as text.
pub(crate) fn attributes(span: &Span) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(truth) => truth.to_string(),
        other => format!("{other:?}"),
    };
    let pair = |attribute: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        let value = attribute.value.as_ref()?.value.as_ref()?;
        Some((attribute.key.clone(), text(value)))
    };
    span.attributes.iter().filter_map(pair).collect()
}

/// The attributes of a database client's span by the stable conventions, and those of our own namespace.
const KNOWN: [&str; 9] = [
    "db.system.name",
    "db.namespace",
    "db.query.summary",
    "db.query.text",
    "db.response.status_code",
    "error.type",
    "server.address",
    "server.port",
    "db_stack.",
];

/// What is wrong with a call's span by the conventions for PostgreSQL; nothing when it keeps to them.
pub(crate) fn violations(span: &Span) -> Vec<String> {
    let of = attributes(span);
    let value = |name: &str| of.get(name).map(String::as_str);
    let mut wrong = Vec::new();
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            wrong.push(format!("{}: {what}: {of:?}", span.name));
        }
    };
    for name in of.keys() {
        let known = KNOWN
            .iter()
            .any(|known| name == known || known.ends_with('.') && name.starts_with(known));
        // Those of before the conventions were stable (`db.system`, `db.statement`) are not known either.
        expect(known, &format!("{name} is in no convention"));
    }
    expect(span.kind == 3, "its kind is client");
    expect(
        value("db.system.name") == Some("postgresql"),
        "db.system.name is required",
    );
    expect(
        value("db.namespace").is_some_and(|name| !name.is_empty()),
        "db.namespace is known",
    );
    expect(
        value("server.address").is_some_and(|name| !name.is_empty()),
        "server.address is known",
    );
    let summary = value("db.query.summary").filter(|summary| !summary.is_empty());
    expect(
        span.name == summary.unwrap_or("postgresql"),
        "its name is db.query.summary",
    );
    expect(
        summary.is_none_or(|summary| summary.len() <= 255),
        "a summary has at most 255 bytes",
    );
    let port = span.attributes.iter().find(|attribute| attribute.key == "server.port");
    let port = port.map(|port| port.value.as_ref().and_then(|value| value.value.as_ref()));
    expect(
        port.is_none_or(|port| matches!(port, Some(Value::IntValue(port)) if *port != 5432)),
        "server.port is a number, and only there when it is not the usual one",
    );
    let failed = span.status.as_ref().is_some_and(|status| status.code == 2);
    expect(
        failed == value("error.type").is_some(),
        "error.type is there exactly for errors",
    );
    if let Some(code) = value("db.response.status_code") {
        expect(
            code.len() == 5 && value("error.type") == Some(code),
            "the SQLSTATE is the type of the error",
        );
    }
    wrong
}
