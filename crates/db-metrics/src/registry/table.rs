//! The table.

use super::{
    Kind::{Counter, Gauge, Histogram},
    Label::{Check, Class, ErrorType, Node, Operation, Outcome, Part, Priority, Reason, State, Status, Table, Tenant},
    Metric,
    Unit::{Bytes, Of, One, Seconds},
};

/// The conventions' buckets for the duration of an operation, with more of them where a local server answers and up to
/// the longest time limit: the report's end at 1 s.
const DURATION: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0,
];
/// Few, since there is one set of them for each table.
const COARSE: &[f64] = &[0.001, 0.01, 0.1, 1.0, 10.0];

macro_rules! metrics {
    ($($(#[doc = $section:literal])* $id:ident: $kind:expr, $unit:expr, $report:literal, $instrument:literal,
       [$($label:ident),*], $help:literal;)*) => {
        /// Names a metric in code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Id {
            $(#[doc = $help] $id),*
        }

        /// Every metric, in the order of [`Id`].
        pub const METRICS: &[Metric] = &[$(Metric {
            id: Id::$id,
            kind: $kind,
            unit: $unit,
            report: $report,
            instrument: $instrument,
            labels: &[$($label),*],
            help: $help,
        }),*];
    };
}

impl Id {
    /// Its row.
    pub fn metric(self) -> &'static Metric {
        &METRICS[self as usize]
    }
}

metrics! {
    Queries: Counter, Of("query"), "db_queries_total", "db_stack.queries", [Operation, Status],
        "Calls and statements of transactions that ended.";
    QueryDuration: Histogram(DURATION), Seconds, "db_query_duration_seconds", "db.client.operation.duration", [Operation],
        "How long they took, waiting included.";
    Errors: Counter, Of("error"), "db_errors_total", "db_stack.errors", [ErrorType],
        "Calls that failed, by SQLSTATE or kind.";
    TimeSpent: Histogram(DURATION), Seconds, "db_query_time_seconds", "db_stack.operation.time", [Part],
        "Where the time of calls went: queue, validate, connect, backoff, stream, cache, replica, and the rest on the server, the network and in the driver.";
    ClassDuration: Histogram(DURATION), Seconds, "db_class_duration_seconds", "db_stack.class.duration", [Class],
        "How long calls of a class took.";
    TableQueries: Counter, Of("query"), "db_table_queries_total", "db_stack.table.queries", [Table, Operation],
        "Statements by each table that they touch.";
    TableDuration: Histogram(COARSE), Seconds, "db_table_query_duration_seconds", "db_stack.table.duration",
        [Table, Operation], "How long they took.";
    TableErrors: Counter, Of("error"), "db_table_errors_total", "db_stack.table.errors", [Table, Operation],
        "Those of them that failed.";
    SlowQueries: Counter, Of("query"), "db_slow_queries_total", "db_stack.slow_queries", [Operation],
        "Calls that took longer than the slow-query threshold.";
    SlowLogDropped: Counter, Of("entry"), "db_slow_query_log_dropped_total", "db_stack.slow_query_log.dropped", [Reason],
        "Entries of the slow-query log that were not written.";
    SlowLogWritten: Counter, Of("entry"), "db_slow_query_log_written_total", "db_stack.slow_query_log.written", [],
        "Entries of the slow-query log that reached its table.";

    PoolConnections: Gauge, Of("connection"), "db_pool_connections", "db.client.connection.count", [State],
        "Connections by state. In the report's names: active, idle, free (what callers can still get) and total (open): do not add them up.";
    PoolMax: Gauge, Of("connection"), "db_pool_max_connections", "db.client.connection.max", [],
        "The most connections that may be open.";
    PoolMin: Gauge, Of("connection"), "db_pool_min_connections", "db.client.connection.idle.min", [],
        "Connections that are kept open.";
    PoolWaiting: Gauge, Of("request"), "db_pool_waiting", "db.client.connection.pending_requests", [],
        "Callers that wait for a connection.";
    PoolAside: Gauge, Of("connection"), "db_pool_aside_connections", "db_stack.pool.aside", [State],
        "Connections that nobody can use at this moment: being opened, made clean in quarantine, or lent to the inner sqlx pool.";
    ConnectionWait: Histogram(DURATION), Seconds, "db_connection_wait_seconds", "db.client.connection.wait_time", [],
        "How long callers waited for the connection that they got.";
    ConnectionUse: Histogram(DURATION), Seconds, "db_connection_use_seconds", "db.client.connection.use_time", [],
        "How long callers kept a connection.";
    ConnectionCreate: Histogram(DURATION), Seconds, "db_connection_create_seconds", "db.client.connection.create_time", [],
        "How long opening a connection took.";
    PoolExhausted: Counter, Of("timeout"), "db_pool_exhausted_total", "db.client.connection.timeouts", [],
        "Callers that got no connection because all were in use.";
    AcquireFailures: Counter, Of("failure"), "db_acquire_failures_total", "db_stack.acquire.failures", [Reason],
        "Callers that got no connection.";
    ConnectFailures: Counter, Of("failure"), "db_connect_failures_total", "db_stack.connect.failures", [Reason],
        "Attempts to open a connection that failed.";
    ConnectionsClosed: Counter, Of("connection"), "db_connections_closed_total", "db_stack.connections.closed", [Reason],
        "Connections closed.";
    Quarantined: Counter, Of("lease"), "db_quarantined_total", "db_stack.quarantined", [Outcome],
        "Leases that were abandoned or touched raw, and what became of them.";
    PreparedStatements: Counter, Of("statement"), "db_prepared_statements_total", "db_stack.prepared_statements", [Outcome],
        "Statements that ran by a prepared statement that was there (used), had to be prepared first (prepared), or were forgotten: pushed out by others (evicted), or outdated by a change of schema (stale).";
    StatementThrash: Counter, Of("statement"), "db_statement_thrash_total", "db_stack.statement_thrash", [],
        "Statements that had been pushed out of a connection's cache, were prepared again and pushed out others: the cache is too small.";
    Cancels: Counter, Of("statement"), "db_cancels_total", "db_stack.cancels", [],
        "Statements cancelled on the server because their caller had gone.";

    Timeouts: Counter, Of("call"), "db_timeouts_total", "db_stack.timeouts", [Class, Reason],
        "Calls given up at their limit, by the limit that it was.";
    NearLimit: Counter, Of("call"), "db_near_limit_total", "db_stack.near_limit", [Class],
        "Calls that ended in time but used most of their limit.";
    OverAlert: Counter, Of("call"), "db_over_alert_total", "db_stack.over_alert", [Class],
        "Calls that took longer than the alert threshold of their class.";
    Retries: Counter, Of("attempt"), "db_retries_total", "db_stack.retries", [Reason],
        "Failed attempts that were repeated, by cause.";
    RetriesGivenUp: Counter, Of("call"), "db_retries_given_up_total", "db_stack.retries.given_up", [Reason],
        "Calls that failed for a passing reason and were not repeated.";
    RetryBudget: Gauge, Of("attempt"), "db_retry_budget", "db_stack.retry.budget", [],
        "Retries that are left for all callers together.";
    Transactions: Counter, Of("transaction"), "db_transactions_total", "db_stack.transactions", [Outcome],
        "Transactions that ended.";
    WouldHave: Counter, Of("call"), "db_would_have_total", "db_stack.would_have", [Reason],
        "What layers in observe mode would have done: refused, timed_out, retried, breaker_opened, lease_revoked, cache_hit, replica_read.";

    Health: Gauge, One, "database_health", "db_stack.health", [Check],
        "1 as long as the check passes, 0.5 where it says that somebody should look, else 0.";
    HealthFailures: Counter, Of("failure"), "database_health_check_failures_total", "db_stack.health.failures", [Check],
        "Checks that failed.";
    ServerConnections: Gauge, Of("connection"), "db_server_connections", "db_stack.server.connections", [State],
        "Connections of the server, whoever has them: used, and the max that there may be without those kept for superusers.";

    Shed: Counter, Of("call"), "db_shed_total", "db_stack.shed", [Reason, Priority],
        "Calls that were sent away before they got a connection.";
    PoolLimit: Gauge, Of("lease"), "db_pool_limit", "db_stack.pool.limit", [],
        "The most leases that may be in use at this moment.";
    PriorityUsed: Gauge, Of("lease"), "db_priority_active", "db_stack.priority.used", [Priority],
        "Leases in use by priority.";
    PriorityWaiting: Gauge, Of("request"), "db_priority_waiting", "db_stack.priority.waiting", [Priority],
        "Callers that wait by priority.";
    TenantQueries: Counter, Of("query"), "db_tenant_queries_total", "db_stack.tenant.queries", [Tenant, Status],
        "Calls by the tenant on whose behalf they were made.";
    CacheLookups: Counter, Of("call"), "db_cache_lookups_total", "db_stack.cache.lookups", [Outcome],
        "Calls that asked the cache: hit, stale, stale_if_error, miss, coalesced or shared.";
    CacheEntries: Gauge, Of("answer"), "db_cache_entries", "db_stack.cache.entries", [],
        "Answers in memory.";
    CacheBytes: Gauge, Bytes, "db_cache_bytes", "db_stack.cache.size", [],
        "What they take.";
    CacheInvalidations: Counter, Of("invalidation"), "db_cache_invalidations_total", "db_stack.cache.invalidations", [Reason],
        "Times that answers were dropped from the cache.";
    CacheListening: Gauge, One, "db_cache_listening", "db_stack.cache.listening", [],
        "1 as long as the cache hears of other writers, or nobody asked it to; else 0.";
    BreakerState: Gauge, One, "db_breaker_state", "db_stack.breaker.state", [State],
        "1 for the state in which the circuit breaker is: closed, open or half_open.";
    BreakerChanges: Counter, Of("change"), "db_breaker_changes_total", "db_stack.breaker.changes", [State],
        "Changes of the circuit breaker, by the state that it went to.";
    BreakerRefused: Counter, Of("call"), "db_breaker_refused_total", "db_stack.breaker.refused", [],
        "Calls that the circuit breaker refused.";
    LeakSuspects: Gauge, Of("lease"), "db_leak_suspects", "db_stack.leak.suspects", [],
        "Leases that have been out for longer than their class allows.";
    LeaksFound: Counter, Of("lease"), "db_leaks_total", "db_stack.leak.found", [Reason],
        "Leases that became suspect, by why they are out.";
    LeasesRevoked: Counter, Of("lease"), "db_leases_revoked_total", "db_stack.leak.revoked", [Reason],
        "Leases taken back from their holders.";
    NestedAcquires: Counter, Of("call"), "db_nested_acquires_total", "db_stack.leak.nested_acquires", [],
        "Tasks that held a connection and waited for another one of an exhausted pool.";
    ReplicaLag: Gauge, Seconds, "db_replica_lag_seconds", "db_stack.replica.lag", [Node],
        "How far a replica is behind.";
    ReplicaUp: Gauge, One, "db_replica_up", "db_stack.replica.up", [Node],
        "1 as long as the replica gets reads, else 0.";
    ReplicaReads: Counter, Of("call"), "db_replica_reads_total", "db_stack.replica.reads", [Node],
        "Reads that a node answered: its share.";
    ReplicaBans: Counter, Of("ban"), "db_replica_bans_total", "db_stack.replica.bans", [Reason],
        "Replicas that got no more reads.";
    PrimaryMoves: Counter, Of("move"), "db_primary_moves_total", "db_stack.primary.moves", [],
        "Times that writes went to another server from then on.";
    WritableNodes: Gauge, Of("node"), "db_writable_nodes", "db_stack.primary.writable", [],
        "Servers that take writes: more than one is a split brain.";

    Series: Gauge, Of("series"), "db_metrics_series", "db_stack.metrics.series", [],
        "Series made for tables, errors, classes and tenants.";
    Folded: Counter, Of("name"), "db_metrics_folded_total", "db_stack.metrics.folded", [Reason],
        "Names that were counted as `other`, because as many as allowed had a series of their own.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{NameSet, Names};
    use std::collections::HashSet;

    #[test]
    fn the_table_is_in_the_order_of_the_names_and_no_name_is_used_twice() {
        for set in [NameSet::Report, NameSet::OpenTelemetry] {
            let names = Names {
                set,
                namespace: "ava".into(),
            };
            let mut seen = HashSet::new();
            for (i, metric) in METRICS.iter().enumerate() {
                assert_eq!(metric.id as usize, i);
                assert!(seen.insert(names.prometheus(metric.id)), "{:?} twice", metric.id);
                let counter = metric.kind == Counter;
                assert_eq!(
                    counter,
                    names.prometheus(metric.id).ends_with("_total"),
                    "{:?}",
                    metric.id
                );
                let seconds = metric.unit == Seconds;
                assert_eq!(
                    seconds,
                    names.prometheus(metric.id).ends_with("_seconds"),
                    "{:?}",
                    metric.id
                );
            }
        }
    }

    #[test]
    fn the_conventions_names_are_translated_as_usual() {
        let names = Names {
            set: NameSet::OpenTelemetry,
            ..Names::default()
        };
        assert_eq!(
            names.prometheus(Id::QueryDuration),
            "db_client_operation_duration_seconds"
        );
        assert_eq!(
            names.prometheus(Id::PoolExhausted),
            "db_client_connection_timeouts_total"
        );
        assert_eq!(names.label(super::super::Label::State), "db_client_connection_state");
        assert_eq!(Names::default().prometheus(Id::Health), "ava_database_health");
    }
}
