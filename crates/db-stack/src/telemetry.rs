//! What the stack tells of itself: metrics, spans, the exporter.

use crate::{config::DbConfig, db::Inner, tagging::Tagging};
use arc_swap::ArcSwap;
use db_core::{Observers, Priority, Result, config::InvalidConfig};
use db_health::{Detail, Standing, Status};
use db_metrics::{Id, Meter, ObserveLayer, PoolReading, Read, Readings, Server, SlowLog, SpanEvents, SpanTarget};
use sqlx::postgres::PgConnectOptions;
use std::{
    borrow::Cow,
    sync::{Arc, Weak},
};
use tokio::runtime::Handle;

/// Metrics and spans of one database.
pub(crate) struct Telemetry {
    pub(crate) meter: Meter,
    pub(crate) observe: ObserveLayer,
    pub(crate) slow: SlowLog,
    pub(crate) tagging: Tagging,
    /// Where the slow-query log connects to.
    address: Arc<ArcSwap<PgConnectOptions>>,
    /// The exporter, where the settings ask for a listener of its own.
    pub(crate) server: Option<Server>,
}

impl Telemetry {
    pub(crate) fn new(config: &DbConfig, observers: &Observers, options: &PgConnectOptions) -> Result<Self> {
        let meter = Meter::new(config.metrics.clone(), observers)?;
        meter.set_slow_threshold(config.slow_query.counted_from());
        if config.tracing.enabled {
            observers.add(Arc::new(SpanEvents));
        }
        let address = Arc::new(ArcSwap::from_pointee(options.clone()));
        let asked = address.clone();
        let slow = SlowLog::new(
            config.slow_query.clone(),
            Arc::new(move || PgConnectOptions::clone(&asked.load())),
        );
        if !config.slow_query.mode.is_off() {
            observers.add(slow.observer());
            slow.show_on(&meter);
        }
        let observe = ObserveLayer::new(observers.clone(), config.tracing.clone(), target(options));
        let server = match config.metrics.address() {
            Some(address) if config.metrics.enabled && Handle::try_current().is_ok() => {
                let unusable = |error: std::io::Error| {
                    InvalidConfig::one(
                        "metrics.listen",
                        address.to_string(),
                        format!("a free address ({error})"),
                    )
                };
                Some(meter.serve(address).map_err(unusable)?)
            }
            Some(address) if config.metrics.enabled => {
                tracing::warn!(%address, "metrics.listen needs a database that is built inside a runtime");
                None
            }
            _ => None,
        };
        Ok(Self {
            meter,
            observe,
            slow,
            tagging: Tagging::new(&config.tracing),
            address,
            server,
        })
    }

    /// The names, bounds and the listener of metrics stay as they were at the start.
    pub(crate) fn reload(&self, config: &DbConfig, own_options: bool) {
        self.slow.reload(config.slow_query.clone());
        if let (false, Ok(options)) = (own_options, config.connect_options()) {
            self.address.store(Arc::new(options));
        }
        self.meter.set_slow_threshold(config.slow_query.counted_from());
        self.observe.reload(config.tracing.clone());
        self.tagging.reload(&config.tracing);
    }

    /// The figures that the layers keep themselves.
    pub(crate) fn read_from(&self, inner: &Arc<Inner>) {
        self.meter.add_source(Arc::new(Layers(Arc::downgrade(inner))));
    }
}

/// What spans say of the server; never the user or the password.
fn target(options: &PgConnectOptions) -> SpanTarget {
    let socket = options.get_socket().map(|path| path.display().to_string());
    SpanTarget {
        // The server's own default is the database of the user's name.
        namespace: options.get_database().unwrap_or(options.get_username()).to_owned(),
        address: socket.unwrap_or_else(|| options.get_host().to_owned()),
        port: options.get_port(),
    }
}

/// Reads the layers of a database for as long as there is one.
struct Layers(Weak<Inner>);

impl Read for Layers {
    fn read(&self, readings: &mut Readings) {
        let Some(inner) = self.0.upgrade() else {
            return readings.pool(PoolReading::default());
        };
        let stats = inner.pool.stats();
        readings.pool(PoolReading {
            used: stats.in_use,
            idle: stats.idle,
            opening: stats.dialing,
            quarantined: stats.quarantined,
            lent: stats.lent,
            waiting: stats.waiting,
            max: stats.max,
            min: inner.pool.config().min_connections,
        });
        readings.total(Id::Cancels, &[], stats.cancelled);
        readings.gauge(Id::PoolLimit, &[], f64::from(stats.limit));
        for priority in Priority::ALL {
            let figures = &stats.priorities[priority.index()];
            readings.gauge(Id::PriorityUsed, &[priority.name()], f64::from(figures.in_use));
            readings.gauge(Id::PriorityWaiting, &[priority.name()], f64::from(figures.waiting));
        }
        let cache = inner.cached.cache.stats();
        for (outcome, count) in [
            ("hit", cache.total.hits),
            ("stale", cache.total.stale),
            ("stale_if_error", cache.total.stale_if_error),
            ("miss", cache.total.misses),
            ("coalesced", cache.total.coalesced),
            ("shared", cache.total.shared),
        ] {
            readings.total(Id::CacheLookups, &[outcome], count);
        }
        readings.total(Id::WouldHave, &["cache_hit"], cache.total.would_hit);
        readings.total(Id::WouldHave, &["replica_read"], inner.replicas.stats().would_read);
        readings.gauge(Id::CacheEntries, &[], cache.entries as f64);
        readings.gauge(Id::CacheBytes, &[], cache.bytes as f64);
        let deaf = cache.listening == Some(false);
        readings.gauge(Id::CacheListening, &[], f64::from(u8::from(!deaf)));
        let routed = inner.replicas.cluster();
        if routed.is_active() {
            for node in &routed.stats().nodes {
                readings.total(Id::ReplicaReads, &[&node.name], node.reads + node.in_place);
                if let Some(lag) = node.lag.filter(|_| !node.primary) {
                    readings.gauge(Id::ReplicaLag, &[&node.name], lag.as_secs_f64());
                }
            }
        }
        let leases = inner.leaks.leases();
        let suspects = leases.open.iter().filter(|lease| lease.suspected.is_some());
        readings.gauge(Id::LeakSuspects, &[], suspects.count() as f64);
        health(readings, inner.health.standings());
        let ready = inner.health.readiness_so_far().is_ready();
        readings.gauge(Id::Health, &["readiness"], f64::from(u8::from(ready)));
        let statements = inner.pool.statement_totals();
        for (outcome, count) in [
            ("used", statements.used),
            ("prepared", statements.prepared),
            ("evicted", statements.evicted),
            ("stale", statements.stale),
        ] {
            readings.total(Id::PreparedStatements, &[outcome], count);
        }
        readings.total(Id::StatementThrash, &[], statements.thrashed);
        let retries = inner.retries.stats();
        readings.gauge(Id::RetryBudget, &[], retries.budget);
        let transactions = retries.transactions;
        for (outcome, count) in [
            ("committed", transactions.committed),
            ("rolled_back", transactions.rolled_back),
            ("failed", transactions.failed),
            ("unknown", transactions.unknown),
            ("abandoned", transactions.abandoned),
        ] {
            readings.total(Id::Transactions, &[outcome], count);
        }
    }
}

/// What the newest reports said of each check.
fn health(readings: &mut Readings, standings: Vec<(Cow<'static, str>, Standing)>) {
    for (name, standing) in standings {
        if let Detail::Connections { used, max } = standing.detail {
            readings.gauge(Id::ServerConnections, &["used"], used as f64);
            readings.gauge(Id::ServerConnections, &["max"], max as f64);
        }
        if name == "connectivity" {
            // Probes and connecting tell of that sooner than reports do.
            continue;
        }
        if let Some(status) = standing.status {
            let value = match status {
                Status::Unhealthy => 0.0,
                Status::Degraded => 0.5,
                Status::Healthy | Status::Unknown => 1.0,
            };
            readings.gauge(Id::Health, &[&name], value);
        }
        readings.total(Id::HealthFailures, &[&name], standing.failures);
    }
}
