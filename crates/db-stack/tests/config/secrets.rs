//! What never shows.

use crate::{message, toml_error};
use db_stack::config::{ConnectionConfig, DatabaseUrl, DbConfig, Secret, Setting};

const CANARY: &str = "canary-7f3a";

#[test]
fn secrets_never_show() {
    let url = format!("postgres://app:{CANARY}@localhost:5433/orders?password={CANARY}&x={CANARY}&sslmode=disable");
    let config = DbConfig {
        connection: ConnectionConfig {
            url: Some(DatabaseUrl::from(url)),
            password: Some(Secret::from(CANARY)),
            ..ConnectionConfig::default()
        },
        ..DbConfig::default()
    };
    let loader = DbConfig::load()
        .with("connection.password", CANARY)
        .env_from("X_", [("X_CONNECTION__URL", CANARY)]);
    let shown = [
        format!("{config:?}"),
        format!("{config:#?}"),
        toml::to_string(&config).unwrap(),
        serde_json::to_string(&config).unwrap(),
        format!("{loader:?}"),
        message(loader.build()),
        format!("{:?}", config.inactive_keys()),
        format!("{:?}", Setting::from(CANARY)),
        format!(
            "{:?}",
            serde_json::from_str::<DbConfig>(r#"{"connection":{"password":737373}}"#).unwrap_err()
        ),
        toml_error("connection.password = 737373"),
    ];
    for text in &shown {
        assert!(!text.contains(CANARY) && !text.contains("737373"), "{text}");
    }
    let masked = "postgres://app:***@localhost:5433/orders?password=***&x=***&sslmode=disable";
    assert_eq!(config.connection.url.unwrap().to_string(), masked);
    assert_eq!(config.connection.password.unwrap().to_string(), "***");
}

#[test]
fn errors_never_show_a_password() {
    let toml = [
        format!("connection.password = {CANARY}"),
        format!("connection.password = \"{CANARY}"),
        format!("connection.pasword = \"{CANARY}\""),
        format!("connection = \"postgres://u:{CANARY}@h/d\""),
        format!("connection.password = [\"{CANARY}\"]"),
        format!("connection.host = \"postgres://u:{CANARY}@h/d\""),
        format!("connection.password = \"{CANARY}\\u0000\""),
    ];
    for text in &toml {
        let error = toml_error(text);
        assert!(!error.contains(CANARY), "{error}");
    }
    // A password that was not percent-encoded ends up in odd places.
    for url in [
        "postgres://u:{}/x@h/d",
        "postgres://u:{}?x@h/d",
        "postgres://u:{}#x@h/d",
        "postgres://u:1/{}@h/d",
        "postgres://u:1?{}@h/d",
        "postgres://u:1?x={}@h/d",
        "postgres://u:1#{}@h/d",
        "postgres://u:{}%00@h/d",
        "postgres://u:{}%ff@h/d",
        "postgres://u:{}@h:port/d",
        "mysql://u:{}@h/d",
        "u:{}@h/d",
        "{}",
        "postgres://u:{}@h/d?pasword={}",
        "postgres://u:{}@h/d?password={}%00",
        "postgres://u:{}@h/d?sslmode=x",
    ] {
        let url = url.replace("{}", CANARY);
        let error = DbConfig::from_url(&url).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(CANARY), "{url}: {error}");
        let shown = format!("{:?}", DatabaseUrl::from(url.as_str()));
        assert!(!shown.contains(CANARY), "{shown}");
    }
}
