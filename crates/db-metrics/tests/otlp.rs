//! Spans as a real OTLP receiver gets them, against the list of the conventions.

#![cfg(feature = "otlp")]

mod receiver;

use db_core::{Call, Error, Event, Layer, Observers, QueryClass, RetryCause, Rows, Service, Statement, service_fn};
use db_metrics::{ObserveLayer, SpanEvents, SpanTarget, TracingConfig, otlp};
use receiver::{Receiver, attributes, violations};
use std::{sync::Arc, time::Duration};
use tracing_subscriber::{Layer as _, filter::LevelFilter, layer::SubscriberExt};

const CANARY: &str = "canary-4711";

fn observed(sample: f64) -> (ObserveLayer, Observers) {
    let observers = Observers::default();
    observers.add(Arc::new(SpanEvents));
    let target = SpanTarget {
        namespace: "shop".into(),
        address: "db1.example".into(),
        port: 6432,
    };
    let config = TracingConfig {
        sample,
        ..TracingConfig::default()
    };
    (ObserveLayer::new(observers.clone(), config, target), observers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_have_the_conventions_attributes_and_nothing_secret() {
    let receiver = Receiver::start().await.unwrap();
    let (layer, otlp) = otlp::layer(&receiver.endpoint, "orders").unwrap();
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(LevelFilter::INFO));
    let guard = tracing::subscriber::set_default(subscriber);
    let (observe, observers) = observed(1.0);
    let works = observe.layer(service_fn(|_: Call| async { Ok::<_, Error>(Rows::default()) }));
    let retried = observe.layer(service_fn(move |_: Call| {
        let event = Event::Retried {
            cause: RetryCause::Deadlock,
            state: Some(db_core::SqlState::from_code("40P01")),
            attempt: 1,
            wait: Duration::from_millis(3),
            class: QueryClass::Normal,
            statement: None,
        };
        let observers = observers.clone();
        async move {
            observers.tell(|| event);
            Err::<Rows, _>(Error::Client(sqlx::Error::RowNotFound))
        }
    }));
    let text = "SELECT * FROM orders WHERE note = 'canary-4711' AND id = $1";
    let statement = Statement::all(sqlx::query(text).bind(CANARY)).unwrap();
    works.call(&Call::here(), &statement).await.unwrap();
    retried
        .call(&Call::here().with_class(QueryClass::Fast), &statement)
        .await
        .unwrap_err();
    // The call of an unsampled root has no span.
    let (unsampled, _) = observed(0.0);
    let quiet = unsampled.layer(service_fn(|_: Call| async { Ok::<_, Error>(Rows::default()) }));
    quiet.call(&Call::here(), &statement).await.unwrap();
    drop(guard);
    otlp.shut_down().await;

    let spans = receiver.wait_for(2).await;
    assert_eq!(spans.len(), 2);
    for span in &spans {
        assert_eq!(span.name, "SELECT orders");
        assert_eq!(span.kind, 3, "a client");
        let attributes = attributes(span);
        assert_eq!(violations(span), Vec::<String>::new());
        let value = |name: &str| attributes.get(name).map(String::as_str);
        assert_eq!(value("db.system.name"), Some("postgresql"));
        assert_eq!(value("db.namespace"), Some("shop"));
        assert_eq!(value("db.query.summary"), Some("SELECT orders"));
        assert_eq!(value("server.address"), Some("db1.example"));
        assert_eq!(value("server.port"), Some("6432"));
        assert!(value("db.query.text").is_some_and(|text| text.contains("note = ?")));
    }
    let failed = spans.iter().find(|span| !span.events.is_empty()).unwrap();
    assert_eq!(attributes(failed)["error.type"], "row_not_found");
    assert_eq!(failed.status.as_ref().map(|status| status.code), Some(2), "an error");
    assert_eq!(failed.events[0].name, "attempt failed");
    assert!(!receiver.text().contains(CANARY), "a literal or an argument was sent");
}

#[tokio::test]
async fn a_bad_endpoint_is_said_at_once() {
    let error = otlp::layer::<tracing_subscriber::Registry>("not a url", "orders")
        .map(drop)
        .unwrap_err();
    assert!(error.to_string().contains("endpoint"), "{error}");
}
