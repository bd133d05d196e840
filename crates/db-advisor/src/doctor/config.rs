//! Settings, connections and security.

use super::Visit;
use crate::{AdvisorError, Area, Finding, Severity};
use std::collections::HashMap;

pub(super) async fn settings(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT name, current_setting(name) FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'autovacuum', \
         'track_counts', 'shared_buffers', 'track_io_timing', 'log_lock_waits')",
    )
    .fetch_all(&mut visit.looking.pg)
    .await?;
    let settings: HashMap<String, String> = rows.into_iter().collect();
    let is = |name: &str, value: &str| settings.get(name).is_some_and(|v| v == value);
    for (name, severity, why) in [
        (
            "fsync",
            Severity::Critical,
            "a crash of the machine can destroy every database on it",
        ),
        (
            "full_page_writes",
            Severity::Critical,
            "a crash can leave half-written pages",
        ),
        (
            "autovacuum",
            Severity::Critical,
            "tables bloat, and the server stops when transaction numbers run out",
        ),
        (
            "track_counts",
            Severity::Critical,
            "autovacuum does not know what to do",
        ),
    ] {
        if is(name, "off") {
            visit.found(
                Finding::new(Area::Configuration, severity, "dangerous-setting", name)
                    .title(format!("{name} is off: {why}"))
                    .evidence(format!("{name} = off"))
                    .fix(format!("ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();")),
            );
        }
    }
    if is("shared_buffers", "128MB") {
        visit.found(
            Finding::new(Area::Configuration, Severity::Info, "small-buffers", "shared_buffers")
                .title("shared_buffers is at its default, which is small for a server of its own")
                .evidence("shared_buffers = 128MB")
                .fix("ALTER SYSTEM SET shared_buffers = '…'; a quarter of the memory is the usual start; restart"),
        );
    }
    for name in ["track_io_timing", "log_lock_waits"] {
        if is(name, "off") {
            visit.found(
                Finding::new(Area::Configuration, Severity::Info, "blind-setting", name)
                    .title(format!("{name} is off: slow storage or lock waits stay invisible"))
                    .evidence(format!("{name} = off"))
                    .fix(format!("ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();")),
            );
        }
    }
    Ok(())
}

pub(super) async fn connections(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    let (max, reserved, used): (i32, i32, i64) = sqlx::query_as(
        "SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int, \
                (SELECT sum(numbackends)::bigint FROM pg_stat_database)",
    )
    .fetch_one(&mut visit.looking.pg)
    .await?;
    let room = i64::from(max - reserved);
    let share = used as f64 / room.max(1) as f64;
    let severity = match share {
        s if s >= 0.95 => Some(Severity::Critical),
        s if s >= 0.8 => Some(Severity::Warning),
        _ => None,
    };
    if let Some(severity) = severity {
        visit.found(
            Finding::new(Area::PoolFit, severity, "connections-full", "max_connections")
                .title("the server is nearly out of connections")
                .evidence(format!("{used} of {room} are in use"))
                .fix("make the pools smaller, or put PgBouncer in front: db-stack pgbouncer-config"),
        );
    }
    let wanted = visit
        .options
        .pool
        .map(|pool| i64::from(pool) * i64::from(visit.options.instances));
    if let Some(wanted) = wanted.filter(|wanted| *wanted > room) {
        visit.found(
            Finding::new(Area::PoolFit, Severity::Warning, "pool-too-big", "max_connections")
                .title("the pools together can open more connections than the server has")
                .evidence(format!("{wanted} in the pools, {room} on the server"))
                .fix(format!(
                    "pool.max_connections = {}, or PgBouncer in front: db-stack pgbouncer-config",
                    (room / i64::from(visit.options.instances.max(1))).max(1)
                )),
        );
    }
    Ok(())
}

pub(super) async fn security(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    let (method, ssl, addresses, superuser, ours): (String, bool, String, bool, Option<bool>) = sqlx::query_as(
        "SELECT current_setting('password_encryption'), current_setting('ssl')::bool, \
                current_setting('listen_addresses'), (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), \
                (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid())",
    )
    .fetch_one(&mut visit.looking.pg)
    .await?;
    let _ = ours;
    if method == "md5" {
        visit.found(
            Finding::new(
                Area::Security,
                Severity::Warning,
                "md5-passwords",
                "password_encryption",
            )
            .title("new passwords are stored as MD5, which can be replayed from a stolen copy")
            .evidence("password_encryption = md5")
            .fix("ALTER SYSTEM SET password_encryption = 'scram-sha-256'; reload; set the passwords anew"),
        );
    }
    let local = |address: &str| matches!(address.trim(), "" | "localhost" | "127.0.0.1" | "::1");
    if !ssl && !addresses.split(',').all(local) {
        visit.found(
            Finding::new(Area::Security, Severity::Warning, "no-tls", "ssl")
                .title("the server listens to the network without TLS")
                .evidence(format!("ssl = off, listen_addresses = {addresses}"))
                .fix("ALTER SYSTEM SET ssl = on with a certificate; connect with sslmode=verify-full"),
        );
    }
    if superuser {
        visit.found(
            Finding::new(Area::Security, Severity::Info, "superuser", "the doctor's role")
                .title("this report was made as a superuser; a role with pg_monitor sees enough")
                .evidence("rolsuper = true")
                .fix("db-stack migrate makes the role db_stack_advisor; grant it to the role that you use here"),
        );
    }
    Ok(())
}

pub(super) async fn password_methods(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    let rows: Vec<(i32, String, String)> = sqlx::query_as(
        "SELECT line_number, type, auth_method FROM pg_hba_file_rules \
         WHERE auth_method IN ('trust', 'password', 'md5') AND error IS NULL ORDER BY line_number",
    )
    .fetch_all(&mut visit.looking.pg)
    .await?;
    for (line, kind, method) in rows {
        let network = kind != "local";
        let severity = match (&*method, network) {
            ("trust", true) => Severity::Critical,
            ("password" | "md5", true) => Severity::Warning,
            _ => Severity::Info,
        };
        visit.found(
            Finding::new(
                Area::Security,
                severity,
                "weak-authentication",
                format!("pg_hba.conf line {line}"),
            )
            .title(format!("{kind} connections are let in by {method}"))
            .evidence(format!("pg_hba.conf line {line}: {kind} … {method}"))
            .fix("use scram-sha-256 there (peer for local), then SELECT pg_reload_conf()"),
        );
    }
    Ok(())
}

pub(super) async fn stored_passwords(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    // Names only: nothing of a password leaves the server.
    let roles: Vec<String> = sqlx::query_scalar(
        "SELECT rolname::text FROM pg_authid WHERE rolcanlogin AND rolpassword IS NOT NULL \
         AND rolpassword NOT LIKE 'SCRAM-SHA-256$%'",
    )
    .fetch_all(&mut visit.looking.pg)
    .await?;
    if !roles.is_empty() {
        visit.found(
            Finding::new(Area::Security, Severity::Warning, "md5-roles", roles.join(", "))
                .title("roles have passwords that are not stored by SCRAM")
                .evidence(format!("{} roles", roles.len()))
                .fix("set their passwords anew with password_encryption = 'scram-sha-256'"),
        );
    }
    Ok(())
}
