//! What a scrape shows, and that it adds up.

use db_core::{Call, Error, Layer, Observers, QueryClass, Result, Rows, Service, Statement, service_fn};
use db_metrics::{
    Id, Meter, MetricsConfig, NameSet, ObserveLayer, PoolReading, Read, Readings, SpanTarget, TracingConfig,
    registry::METRICS,
};
use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

fn stack(config: MetricsConfig) -> (Meter, ObserveLayer, Observers) {
    let observers = Observers::default();
    let meter = Meter::new(config, &observers).expect("valid settings");
    let layer = ObserveLayer::new(observers.clone(), TracingConfig::default(), SpanTarget::default());
    (meter, layer, observers)
}

/// The samples of a scrape.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let pair = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    lines.map(pair).collect()
}

fn sum(samples: &BTreeMap<String, f64>, prefix: &str) -> f64 {
    samples
        .iter()
        .filter(|(name, _)| name.starts_with(prefix))
        .map(|(_, v)| v)
        .sum()
}

#[tokio::test]
async fn every_call_is_counted_once_whatever_becomes_of_it() {
    let (meter, layer, _) = stack(MetricsConfig::default());
    let fails = layer.layer(service_fn(|_: Call| async {
        Err::<Rows, _>(Error::Client(sqlx::Error::RowNotFound))
    }));
    let works = layer.layer(service_fn(|_: Call| async { Ok::<_, Error>(Rows::default()) }));
    let hangs = layer.layer(service_fn(|_: Call| pending::<Result<Rows>>()));
    let statement = Statement::all("UPDATE accounts SET balance = 1").unwrap();
    let call = Call::here();
    for _ in 0..7 {
        works.call(&call, &statement).await.unwrap();
        meter.render(); // a scrape in between changes nothing
    }
    for _ in 0..3 {
        fails.call(&call, &statement).await.unwrap_err();
    }
    for _ in 0..2 {
        let gone = timeout(Duration::from_millis(1), hangs.call(&call, &statement)).await;
        gone.unwrap_err();
    }
    let found = samples(&meter.render());
    let calls = |status| found[&format!(r#"ava_db_queries_total{{operation="update",status="{status}"}}"#)];
    assert_eq!([calls("success"), calls("error"), calls("cancelled")], [7.0, 3.0, 2.0]);
    assert_eq!(
        found[r#"ava_db_query_duration_seconds_count{operation="update"}"#],
        12.0
    );
    assert_eq!(found[r#"ava_db_errors_total{error_type="row_not_found"}"#], 3.0);
    assert_eq!(
        found[r#"ava_db_table_queries_total{table="accounts",operation="update"}"#],
        12.0
    );
    assert_eq!(
        found[r#"ava_db_table_errors_total{table="accounts",operation="update"}"#],
        3.0
    );
    assert_eq!(found[r#"ava_db_class_duration_seconds_count{class="normal"}"#], 12.0);
    assert_eq!(sum(&found, "ava_db_queries_total"), 12.0, "nowhere else");
    assert_eq!(samples(&meter.render()), found, "a scrape adds nothing");
}

#[tokio::test]
async fn the_conventions_names_have_the_kind_of_error() {
    let (meter, layer, _) = stack(MetricsConfig {
        naming: NameSet::OpenTelemetry,
        pool_name: "orders".into(),
        ..MetricsConfig::default()
    });
    let fails = layer.layer(service_fn(|_: Call| async {
        Err::<Rows, _>(Error::Client(sqlx::Error::RowNotFound))
    }));
    let statement = Statement::all("SELECT 1").unwrap();
    fails.call(&Call::here(), &statement).await.unwrap_err();
    let text = meter.render();
    let series = "db_client_operation_duration_seconds_count{db_operation_name=\"select\",error_type=\"row_not_found\",\
                  db_system_name=\"postgresql\",db_client_connection_pool_name=\"orders\"} 1";
    assert!(text.contains(series), "{text}");
    assert!(!text.contains("ava_"), "one set only");
}

struct Fixed;

impl Read for Fixed {
    fn read(&self, readings: &mut Readings) {
        readings.pool(PoolReading {
            used: 3,
            idle: 2,
            max: 10,
            ..PoolReading::default()
        });
        readings.gauge(Id::LeakSuspects, &[], 2.0);
        readings.total(Id::Cancels, &[], 4);
    }
}

#[test]
fn gauges_are_those_of_the_moment_and_counts_are_not_added_twice() {
    let (meter, _, _) = stack(MetricsConfig::default());
    meter.add_source(Arc::new(Fixed));
    for _ in 0..3 {
        let found = samples(&meter.render());
        let state = |state| found[&format!(r#"ava_db_pool_connections{{state="{state}"}}"#)];
        assert_eq!(["active", "idle", "free", "total"].map(state), [3.0, 2.0, 7.0, 5.0]);
        assert_eq!(found["ava_db_leak_suspects"], 2.0);
        assert_eq!(found["ava_db_cancels_total"], 4.0);
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_time_went_is_split_and_adds_up_to_the_call() {
    use db_core::{Part, Waiting};
    let (meter, layer, _) = stack(MetricsConfig::default());
    let service = layer.layer(service_fn(|_: Call| async {
        {
            let _turn = Waiting::on(Part::Queue);
            sleep(Duration::from_millis(30)).await;
        }
        sleep(Duration::from_millis(50)).await;
        Ok::<_, Error>(Rows::default())
    }));
    let call = Call::here().with_class(QueryClass::Slow);
    service.call(&call, &Statement::all("SELECT 1").unwrap()).await.unwrap();
    let hanging = layer.layer(service_fn(|_: Call| async {
        let _turn = Waiting::on(Part::Queue);
        pending::<Result<Rows>>().await
    }));
    let statement = Statement::all("SELECT 1").unwrap();
    timeout(Duration::from_millis(20), hanging.call(&call, &statement))
        .await
        .unwrap_err();
    let found = samples(&meter.render());
    let part = |part| found[&format!(r#"ava_db_query_time_seconds_sum{{part="{part}"}}"#)];
    let near = |value: f64, ms: f64| assert!((value * 1000.0 - ms).abs() < 2.0, "{value} s is not {ms} ms");
    near(part("queue"), 50.0);
    near(part("server"), 50.0);
    near(found[r#"ava_db_query_duration_seconds_sum{operation="select"}"#], 100.0);
}

#[tokio::test]
async fn many_names_stay_within_their_bounds() {
    let (meter, layer, _) = stack(MetricsConfig {
        max_tables: 5,
        max_statements: 64,
        ..MetricsConfig::default()
    });
    let service = layer.layer(service_fn(|_: Call| async { Ok::<_, Error>(Rows::default()) }));
    meter.render();
    let (before, _) = meter.size();
    for i in 0..500 {
        let sql = format!("SELECT c{i} FROM t{i}");
        let statement = Statement::all(sqlx::AssertSqlSafe(sql)).unwrap();
        service.call(&Call::here(), &statement).await.unwrap();
    }
    let found = samples(&meter.render());
    assert_eq!(sum(&found, "ava_db_table_queries_total"), 500.0);
    assert_eq!(
        found[r#"ava_db_table_queries_total{table="other",operation="select"}"#],
        495.0
    );
    let (series, statements) = meter.size();
    assert!(series - before <= 2 * 6 + 1, "{before} then {series}");
    assert!(statements <= 64, "{statements} statements");
}

#[test]
fn what_can_be_counted_is_there_before_it_happens() {
    let (meter, _, _) = stack(MetricsConfig::default());
    let text = meter.render();
    for metric in METRICS {
        let of_layers = matches!(
            metric.id,
            Id::RetryBudget
                | Id::Transactions
                | Id::Cancels
                | Id::PreparedStatements
                | Id::StatementThrash
                | Id::ServerConnections
                | Id::LeakSuspects
                | Id::PriorityUsed
                | Id::PriorityWaiting
                | Id::CacheLookups
                | Id::CacheEntries
                | Id::CacheBytes
                | Id::CacheListening
        ) || format!("{:?}", metric.id).starts_with("Replica");
        let by_name = matches!(
            metric.id,
            Id::Errors | Id::TenantQueries | Id::TableQueries | Id::TableDuration | Id::TableErrors
        );
        let pool = format!("{:?}", metric.id).starts_with("Pool") && metric.id != Id::PoolExhausted;
        let log = format!("{:?}", metric.id).starts_with("SlowLog");
        if !of_layers && !by_name && !pool && !log {
            let name = format!("ava_{}", metric.report);
            assert!(
                text.contains(&format!("# TYPE {name} ")),
                "{name} is not there:\n{text}"
            );
        }
    }
}

#[tokio::test]
async fn the_exporter_serves_metrics_page_and_figures_and_ends() {
    let (meter, _, _) = stack(MetricsConfig::default());
    let server = meter.serve("127.0.0.1:0".parse().unwrap()).unwrap();
    let get = async |path: &str| -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut wire = tokio::net::TcpStream::connect(server.address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        wire.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        wire.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(get("/metrics").await.contains("ava_db_query_duration_seconds_bucket"));
    let page = get("/").await;
    assert!(page.contains("<!doctype html>") && page.contains("content-security-policy"));
    assert!(
        !page.contains("http://") || page.contains("http://www.w3.org/2000/svg"),
        "nothing from elsewhere"
    );
    assert!(get("/live.json?since=0").await.contains("\"samples\""));
    let address = server.address();
    drop(server);
    drop(meter);
    sleep(Duration::from_millis(100)).await;
    tokio::net::TcpStream::connect(address).await.unwrap_err();
}
