//! Alerts of the layers: retries, breaker, cache, leaks and the others.

use super::*;

pub(super) fn layers(w: &Words<'_>) -> Vec<Alert> {
    let health = w.of(Id::Health);
    let of_tables = w.with(Id::Health, &[(Check, "tables")]);
    let of_writes = w.with(Id::Health, &[(Check, "transaction")]);
    let server = |state| w.with(Id::ServerConnections, &[(State, state)]);
    let failures = w.with(Id::HealthFailures, &[(Check, "connectivity")]);
    let suspects = w.of(Id::LeakSuspects);
    let revoked = w.of(Id::LeasesRevoked);
    let lag = w.of(Id::ReplicaLag);
    let node = w.label(Node);
    let check = w.label(Check);
    let state = w.label(State);
    let open = w.with(Id::BreakerState, &[(State, "open")]);
    let half = w.with(Id::BreakerChanges, &[(State, "half_open")]);
    vec![
        Alert {
            name: "DatabaseUnhealthy",
            severity: Severity::Critical,
            expr: format!("min by ({check}) ({health}) == 0"),
            lasting: "1m",
            summary: "Database is unhealthy".into(),
            description: format!("The check of {{{{ $labels.{check} }}}} fails."),
            format: "printf \"%.0f\"",
            action: "The server does not answer as it should: is it up, is the network, did the primary move?",
            drive: Drive {
                labels: vec![(check.clone(), "transaction".into())],
                ..drive(vec![(of_writes, bump("1", "0"))], "0")
            },
        },
        Alert {
            name: "DatabaseDegraded",
            severity: Severity::Warning,
            expr: format!("min by ({check}) ({health}) == 0.5"),
            lasting: "5m",
            summary: "Database is degraded".into(),
            description: format!("The check of {{{{ $labels.{check} }}}} says that somebody should look."),
            format: "printf \"%.1f\"",
            action: "`db.health()`, or `/healthz`, says in words what it is.",
            drive: Drive {
                labels: vec![(check.clone(), "tables".into())],
                ..drive(vec![(of_tables, bump("1", "0.5"))], "0.5")
            },
        },
        Alert {
            name: "DatabaseServerConnections",
            severity: Severity::Warning,
            expr: format!("max({} / ignoring({state}) {}) > 0.8", server("used"), server("max")),
            lasting: "10m",
            summary: "The server runs out of connections".into(),
            description: "{value} of the connections that it may have are taken, by whomever.".into(),
            format: "humanizePercentage",
            action: "`pg_stat_activity` says who has them. All instances of all services share them: sum up their pools, \
                     let `pool.limit` share what there is, or put a pooler in between.",
            drive: drive(
                vec![(server("max"), "100x160".into()), (server("used"), bump("20", "90"))],
                "90%",
            ),
        },
        Alert {
            name: "DatabaseHealthCheckFailures",
            severity: Severity::Warning,
            expr: format!("sum by ({check}) (increase({}[5m])) > 3", w.of(Id::HealthFailures)),
            lasting: "0m",
            summary: "Database health checks fail".into(),
            description: "{value} in 5 minutes.".into(),
            format: "printf \"%.0f\"",
            action: "Now and then one fails: a server at its limit, or a network that loses packets.",
            drive: Drive {
                labels: vec![(check, "connectivity".into())],
                ..drive(vec![(failures, burst(1))], "10")
            },
        },
        Alert {
            name: "DatabaseBreakerOpen",
            severity: Severity::Critical,
            expr: format!("{open} == 1"),
            lasting: "1m",
            summary: "The circuit breaker is open".into(),
            description: "Calls are refused at once, since too many failed.".into(),
            format: "printf \"%.0f\"",
            action: "It closes by itself when its probes succeed: mend the server.",
            drive: Drive {
                labels: vec![(state, "open".into())],
                ..drive(vec![(open.clone(), bump("0", "1"))], "1")
            },
        },
        Alert {
            name: "DatabaseBreakerFlapping",
            severity: Severity::Warning,
            expr: format!("sum(increase({half}[10m])) > 5"),
            lasting: "0m",
            summary: "The circuit breaker opens and closes".into(),
            description: "It was half open {value} times in 10 minutes.".into(),
            format: "printf \"%.0f\"",
            action: "The server comes and goes, or recovers only until the load is back.",
            drive: drive(vec![(half, burst(1))], "20"),
        },
        Alert {
            name: "DatabaseLeakSuspects",
            severity: Severity::Warning,
            expr: format!("sum({suspects}) > 0"),
            lasting: "5m",
            summary: "Connections are not given back".into(),
            description: "{value} leases have been out for longer than their class allows.".into(),
            format: "printf \"%.0f\"",
            action: "The report of each names the line of code that took it, and why it is out.",
            drive: drive(vec![(suspects.clone(), bump("0", "2"))], "2"),
        },
        Alert {
            name: "DatabaseLeasesReclaimed",
            severity: Severity::Critical,
            expr: format!("sum(increase({revoked}[10m])) > 0"),
            lasting: "0m",
            summary: "Connections were taken back from their holders".into(),
            description: "{value} in 10 minutes.".into(),
            format: "printf \"%.0f\"",
            action: "As for DatabaseLeakSuspects; the holders have got an error.",
            drive: drive(vec![(w.with(Id::LeasesRevoked, &[(Reason, "unused")]), burst(1))], "20"),
        },
        Alert {
            name: "DatabaseReplicaLag",
            severity: Severity::Warning,
            expr: format!("max by ({node}) ({lag}) > 10"),
            lasting: "2m",
            summary: format!("Replica {{{{ $labels.{node} }}}} is behind"),
            description: "By {value} s; it gets no reads that must be fresh.".into(),
            format: "printf \"%.0f\"",
            action: "A long query on the replica holds replay up, or the primary writes more than it can replay.",
            drive: Drive {
                labels: vec![(node.clone(), "db2:5432".into())],
                ..drive(
                    vec![(w.with(Id::ReplicaLag, &[(Node, "db2:5432")]), bump("0", "30"))],
                    "30",
                )
            },
        },
        Alert {
            name: "DatabaseReplicaDown",
            severity: Severity::Warning,
            expr: format!("min by ({node}) ({}) == 0", w.of(Id::ReplicaUp)),
            lasting: "2m",
            summary: format!("Replica {{{{ $labels.{node} }}}} gets no reads"),
            description: "It does not answer, is too far behind, or is no replica any more.".into(),
            format: "printf \"%.0f\"",
            action: "`db.events()` and the log say why it was banned; reads go to the others or the primary.",
            drive: Drive {
                labels: vec![(node, "db2:5432".into())],
                ..drive(
                    vec![(w.with(Id::ReplicaUp, &[(Node, "db2:5432")]), bump("1", "0"))],
                    "0",
                )
            },
        },
        Alert {
            name: "DatabasePrimaryMoved",
            severity: Severity::Warning,
            expr: format!("sum(increase({}[5m])) > 0", w.of(Id::PrimaryMoves)),
            lasting: "0m",
            summary: "Writes go to another server".into(),
            description: "The primary moved {value} times in 5 minutes.".into(),
            format: "printf \"%.0f\"",
            action: "A failover happened: make sure that the old primary does not come back as one.",
            drive: drive(vec![(w.of(Id::PrimaryMoves), burst(1))], "10"),
        },
        Alert {
            name: "DatabaseSplitBrain",
            severity: Severity::Critical,
            expr: format!("max({}) > 1", w.of(Id::WritableNodes)),
            lasting: "0m",
            summary: "More than one server takes writes".into(),
            description: "{value} of them; only the one of the highest timeline gets any from here.".into(),
            format: "printf \"%.0f\"",
            action: "Fence the old primary at once: other clients may still write to it.",
            drive: drive(vec![(w.of(Id::WritableNodes), bump("1", "2"))], "2"),
        },
    ]
}
