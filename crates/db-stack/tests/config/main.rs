//! The configuration: sources and their order, every rule with its message, secrets, and the reference page.

mod connecting;
mod foreign;
mod reference;
mod rules;
mod secrets;
mod sources;

use db_core::config::InvalidConfig;
use db_stack::config::DbConfig;
use std::process::Command;

/// Whether this is the child process, whose environment is known; the parent waits for it.
fn in_child(test: &str, variables: &[(&str, &str)]) -> bool {
    if std::env::var_os("CONFIG_TEST_CHILD").is_some() {
        return true;
    }
    let mut child = Command::new(std::env::current_exe().expect("own path"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("PG") || name.starts_with("DB_STACK_") || name == "DATABASE_URL" {
            child.env_remove(&name);
        }
    }
    child
        .args(["--exact", test, "--nocapture"])
        .env("CONFIG_TEST_CHILD", "1")
        .envs(variables.iter().copied());
    let output = child.output().expect("child runs");
    let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

fn message(result: Result<DbConfig, InvalidConfig>) -> String {
    let text = result.expect_err("refused").to_string();
    text.strip_prefix("invalid configuration: ").expect("prefix").to_owned()
}

fn toml_error(text: &str) -> String {
    message(DbConfig::from_toml_str(text))
}
