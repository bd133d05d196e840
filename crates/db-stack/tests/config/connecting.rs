//! What reaches sqlx and the server.

use crate::{in_child, message};
use db_pool::SessionConfig;
use db_stack::config::{ConnectionConfig, DbConfig, SslMode};
use std::time::Duration;

#[test]
fn a_nul_is_refused_in_every_part_of_a_url() {
    for url in [
        "postgres://a%00b@localhost/d",
        "postgres://u@localhost/d%00options",
        "postgres://u@%2Ftmp%00/d",
        "postgres://u:p%00@localhost/d",
        "postgres://u@localhost/d?user=a%00",
        "postgres://u@localhost/d?dbname=a%00",
        "postgres://u@localhost/d?host=a%00",
        "postgres://u@localhost/d?application_name=a%00b",
        "postgres://u@localhost/d?options=-c%00x",
        "postgres://u@localhost/d?options[x]=a%00b",
        "postgres://u@localhost/d?options[x%00]=a",
        "postgres://u@localhost/d?password=a%00",
        "postgres://a%0Ab@h/d",
        "postgres://u@localhost/d?application_name=%1b[31m",
    ] {
        let error = DbConfig::from_url(url).map(|_| url).unwrap_err();
        assert_eq!(error.keys()[0].key, "connection.url", "{url}");
        assert!(error.to_string().contains("without"), "{url}: {error}");
        let raw = DbConfig {
            connection: ConnectionConfig {
                url: Some(url.into()),
                ..ConnectionConfig::default()
            },
            ..DbConfig::default()
        };
        assert!(raw.connect_options().is_err(), "{url}");
    }
}

#[test]
fn urls_and_parts_reach_sqlx() {
    if !in_child("connecting::urls_and_parts_reach_sqlx", &[]) {
        return;
    }
    let get = |url: &str| {
        let o = DbConfig::from_url(url).unwrap().connect_options().unwrap();
        let socket = o.get_socket().map(|path| path.display().to_string());
        (
            socket.unwrap_or(o.get_host().to_owned()),
            o.get_port(),
            o.get_username().to_owned(),
            o.get_database().map(str::to_owned),
        )
    };
    let is = |host: &str, port, user: &str, database: &str| {
        (host.to_owned(), port, user.to_owned(), Some(database.to_owned()))
    };
    assert_eq!(get("postgres://u:p@localhost:5433/d"), is("localhost", 5433, "u", "d"));
    assert_eq!(get("postgresql://u@localhost/d"), is("localhost", 5432, "u", "d"));
    assert_eq!(
        get("postgres:///d?host=/var/run/pg&port=5&user=u"),
        is("/var/run/pg", 5, "u", "d")
    );
    assert_eq!(
        get("postgres:///d?host=%2Ftmp%2Fx&user=u"),
        is("/tmp/x", 5432, "u", "d")
    );
    assert_eq!(get("postgres://u@%2Ftmp%2Fx/d"), is("/tmp/x", 5432, "u", "d"));
    assert_eq!(
        get("postgres://u%40corp:p%2F%3F@localhost/d%20e"),
        is("localhost", 5432, "u@corp", "d e")
    );
    assert_eq!(get("postgres://u@[::1]:5433/d"), is("[::1]", 5433, "u", "d"));

    let parts = DbConfig::load()
        .with("connection.host", "db.internal")
        .with("connection.port", 6000);
    let parts = parts
        .with("connection.user", "ü&=")
        .with("connection.database", "a/b c%41")
        .build()
        .unwrap();
    let options = parts.connect_options().unwrap();
    assert_eq!((options.get_host(), options.get_port()), ("db.internal", 6000));
    assert_eq!(
        (options.get_username(), options.get_database()),
        ("ü&=", Some("a/b c%41"))
    );

    let both = DbConfig::load()
        .with("connection.url", "postgres://localhost/d")
        .with("connection.user", "u");
    let error = message(both.with("connection.port", 1).build());
    assert!(
        error.ends_with("either a URL or its parts, and port, user is set too"),
        "{error}"
    );

    // What nobody reads is told, not sent to sqlx, and a misspelt parameter is an error.
    let ignored = DbConfig::from_url("postgres://localhost/d?channel_binding=require&sslmode=require").unwrap();
    assert_eq!(ignored.inactive_keys(), ["connection.url?channel_binding"]);
    for (url, expected) in [
        (
            "postgres://h/d?ssmode=require",
            "ssmode=***: allowed is a known parameter; the nearest is sslmode",
        ),
        (
            "postgres://h/d?sslmode=on",
            "sslmode=on: allowed is disable, allow, prefer, require, verify-ca or verify-full",
        ),
        ("postgres://h/d?port=x", "port=x: allowed is 1..=65535"),
        ("postgres://h/d?hostaddr=x", "hostaddr=x: allowed is an IP address"),
        (
            "postgres://h/d?statement-cache-capacity=x",
            "statement-cache-capacity=x: allowed is a number",
        ),
        (
            "postgres://%2Ftmp/d?host=h",
            "host=h: allowed is one host: the URL names a socket before",
        ),
    ] {
        assert_eq!(message(DbConfig::from_url(url)), format!("connection.url = {expected}"));
    }
}

#[test]
fn a_remote_server_needs_a_verified_certificate() {
    if in_child("connecting::a_remote_server_needs_a_verified_certificate", &[]) {
        let mode = |url: &str| ssl_mode(DbConfig::from_url(url).unwrap());
        for local in ["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "%2Ftmp", "LOCALHOST"] {
            assert_eq!(mode(&format!("postgres://u@{local}/d")), "Prefer", "{local}");
        }
        assert_eq!(mode("postgres://u@h/d?host=/tmp"), "Prefer");
        for remote in ["db.internal", "10.0.0.1", "[2001:db8::1]", "localhost.evil.com"] {
            assert_eq!(mode(&format!("postgres://u@{remote}/d")), "VerifyFull", "{remote}");
        }
        assert_eq!(mode("postgres://u@localhost/d?host=db.internal"), "VerifyFull");
        assert_eq!(mode("postgres://u@localhost/d?hostaddr=10.0.0.1"), "VerifyFull");
        for stated in ["disable", "prefer", "require"] {
            let expected = stated.to_uppercase();
            assert_eq!(
                mode(&format!("postgres://u@h/d?sslmode={stated}")).to_uppercase(),
                expected
            );
            let key = DbConfig::load()
                .with("connection.host", "h")
                .with("connection.ssl_mode", stated);
            assert_eq!(ssl_mode(key.build().unwrap()).to_uppercase(), expected);
        }
        let key = DbConfig::load().with("connection.url", "postgres://h/d?sslmode=disable");
        assert_eq!(
            ssl_mode(key.with("connection.ssl_mode", SslMode::VerifyCa).build().unwrap()),
            "VerifyCa"
        );
    }
}

#[test]
fn libpqs_variable_states_the_mode() {
    if in_child(
        "connecting::libpqs_variable_states_the_mode",
        &[("PGSSLMODE", "require"), ("PGHOST", "db.internal")],
    ) {
        assert_eq!(ssl_mode(DbConfig::default()), "Require");
    }
}

#[test]
fn a_misspelt_libpq_variable_does_not_weaken() {
    if in_child(
        "connecting::a_misspelt_libpq_variable_does_not_weaken",
        &[("PGSSLMODE", "requre"), ("PGHOST", "db.internal")],
    ) {
        assert_eq!(ssl_mode(DbConfig::default()), "VerifyFull");
    }
}

fn ssl_mode(config: DbConfig) -> String {
    format!("{:?}", config.connect_options().expect("valid").get_ssl_mode())
}

#[test]
fn session_settings_travel_in_the_start_up_message() {
    if !in_child("connecting::session_settings_travel_in_the_start_up_message", &[]) {
        return;
    }
    let options = |config: &DbConfig| {
        let options = config.connect_options().unwrap();
        (
            options.get_application_name().unwrap().to_owned(),
            options.get_options().unwrap().to_owned(),
        )
    };
    let defaults = "-c statement_timeout=130000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=30000 \
                    -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 \
                    -c tcp_user_timeout=10000";
    let mut config = DbConfig::from_url("postgres://localhost/d").unwrap();
    assert_eq!(options(&config), ("db-stack".to_owned(), defaults.to_owned()));
    config.session = SessionConfig {
        statement_timeout: None,
        idle_in_transaction_session_timeout: None,
        tcp_keepalives_idle: None,
        tcp_user_timeout: None,
        lock_timeout: Some(Duration::from_millis(1)),
        extra: [("search_path".to_owned(), r"a, b\c".to_owned())].into(),
        ..SessionConfig::default()
    };
    assert_eq!(options(&config).1, r"-c lock_timeout=1 -c search_path=a,\ b\\c");

    // The URL wins over a default, a key that was set wins over the URL: the server takes the last.
    let url = "postgres://localhost/d?application_name=me&options=-c%20lock_timeout%3D7%20--statement-timeout%3D8";
    let mut config = DbConfig::from_url(url).unwrap();
    config.session.statement_timeout = Some(Duration::from_secs(1));
    let (name, text) = options(&config);
    assert_eq!(name, "me");
    assert!(
        text.starts_with("-c lock_timeout=7 --statement-timeout=8 -c statement_timeout=1000 -c idle"),
        "{text}"
    );
    config.session.application_name = "you".to_owned();
    assert_eq!(options(&config).0, "you");
    let beside = config.session.startup_options_beside(Some(&text));
    assert!(beside.is_empty(), "nothing is sent twice: {beside:?}");
    let kept = SessionConfig::default().startup_options_beside(Some(r"-c x=lock_timeout=1 -cTCP_USER_TIMEOUT=1"));
    assert_eq!(kept.len(), 6, "{kept:?}");
}
