//! The live page in a real browser: it shows a breaker opening within two seconds, logs no error, and fits a phone.

mod browser;

use browser::{Browser, START};
use db_core::{Call, Error, Layer, Observers, Rows, Service, Statement, service_fn};
use db_metrics::{Id, Meter, MetricsConfig, ObserveLayer, PoolReading, Read, Readings, SpanTarget, TracingConfig};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep;

#[derive(Default)]
struct Layers {
    open: AtomicBool,
}

impl Read for Layers {
    fn read(&self, readings: &mut Readings) {
        readings.pool(PoolReading {
            used: 3,
            idle: 4,
            max: 10,
            ..PoolReading::default()
        });
        let open = self.open.load(Ordering::Relaxed);
        readings.gauge(Id::BreakerState, &["open"], f64::from(u8::from(open)));
        readings.gauge(Id::ReplicaLag, &["db2:5432"], 0.25);
        readings.total(Id::ReplicaReads, &["db2:5432"], 41);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_a_breaker_opening_within_two_seconds() {
    let Some(program) = Browser::find() else {
        return db_testkit::skip("the live page in a browser", "chromium is not installed");
    };
    let observers = Observers::default();
    let meter = Meter::new(MetricsConfig::default(), &observers).unwrap();
    let layers = Arc::<Layers>::default();
    meter.add_source(layers.clone());
    let layer = ObserveLayer::new(observers, TracingConfig::default(), SpanTarget::default());
    let service = layer.layer(service_fn(|_: Call| async { Ok::<_, Error>(Rows::default()) }));
    let load = tokio::spawn(async move {
        let statement = Statement::all("SELECT 1 FROM orders").expect("no arguments");
        loop {
            let _ = service.call(&Call::here(), &statement).await;
            sleep(Duration::from_millis(2)).await;
        }
    });
    let server = meter.serve("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut page = Browser::open(&program, &server.url()).await;
    let pill =
        |state: &str| format!("document.querySelector('#pills')?.textContent.includes('breaker {state}') === true");
    page.until(&pill("closed"), START).await;
    page.until("Number(document.body.dataset.turns) > 3", START).await;

    layers.open.store(true, Ordering::Relaxed);
    let took = page.until(&pill("open"), Duration::from_secs(2)).await;
    println!("on the page after {took:?}");

    let plots =
        page.value("[...document.querySelectorAll('svg path')].filter(p => p.getAttribute('d').length > 20).length");
    assert!(plots.await.as_u64() >= Some(10), "plots have lines");
    let text = page.value("document.body.innerText").await;
    let text = text.as_str().unwrap();
    for word in ["Calls per second", "Latency", "db2:5432", "Slow statements"] {
        assert!(text.contains(word), "{word} is not on the page: {text}");
    }
    // A phone: nothing is cut off, and letters have their size.
    page.on_a_phone(844, 3.0).await;
    let fits = "document.documentElement.scrollWidth <= innerWidth && \
                [...document.querySelectorAll('section')].every(s => s.getBoundingClientRect().right <= innerWidth) && \
                parseFloat(getComputedStyle(document.body).fontSize) >= 14";
    assert_eq!(page.value(fits).await, json!(true), "the page fits a phone");
    assert!(page.errors.is_empty(), "{:?}", page.errors);
    load.abort();
}
