//! How this tool calls cargo.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// `cargo`, without the variables that `cargo run` set for us: build scripts watch some of them and would run again.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_ours_alone) {
            command.env_remove(name);
        }
    }
    command
}

/// `cargo` in the workspace's root.
pub(crate) fn cargo_at_root() -> Command {
    let mut command = cargo();
    command.current_dir(root());
    command
}

/// Whether `cargo TOOL` is installed.
pub(crate) fn has(tool: &str) -> bool {
    let mut version = cargo_at_root();
    version
        .args([tool, "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

/// Replaces this process: Ctrl-C, the exit code and the time to clean up are then the command's own.
pub(crate) fn become_it(command: &mut Command) -> Result<ExitCode> {
    Err(command.exec()).with_context(|| format!("cannot run {}", command.get_program().display()))
}

/// `DB_STACK_REQUIRE_ALL=1`: what would be skipped for want of a tool is a failure (CI sets it).
pub(crate) fn require_all() -> bool {
    env::var_os("DB_STACK_REQUIRE_ALL").is_some_and(|value| value == "1")
}

fn is_ours_alone(name: &str) -> bool {
    const PREFIXES: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || matches!(name, "CARGO_PRIMARY_PACKAGE" | "OUT_DIR")
}

#[cfg(test)]
mod tests {
    use super::is_ours_alone;

    #[test]
    fn only_the_variables_of_cargo_run_are_dropped() {
        for name in [
            "CARGO_PKG_NAME",
            "CARGO_MANIFEST_DIR",
            "CARGO_MANIFEST_PATH",
            "CARGO_BIN_NAME",
            "OUT_DIR",
        ] {
            assert!(is_ours_alone(name), "{name}");
        }
        for name in [
            "CARGO",
            "CARGO_HOME",
            "CARGO_TERM_COLOR",
            "CARGO_INCREMENTAL",
            "CARGO_TARGET_DIR",
            "PATH",
        ] {
            assert!(!is_ours_alone(name), "{name}");
        }
    }
}
