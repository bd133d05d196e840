//! The commands as they are called, with a script in cargo's place that records what it was asked to do.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may panic too, but clippy knows only functions marked #[test]"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Held while a script is written and while a process starts: a fork in between would keep the script open for writing,
/// and the kernel runs no file that is.
static FORK: Mutex<()> = Mutex::new(());

/// Prints its arguments, then does what the test says.
struct Fake(TempDir);

impl Fake {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cargo");
        let _no_fork = FORK.lock().unwrap_or_else(PoisonError::into_inner);
        fs::write(
            &path,
            format!(
                "#!/bin/sh\ncd '{}'\necho \"cargo $*\"\n{script}\n",
                folder.path().display()
            ),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn xtask(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(args).env("CARGO", self.file("cargo")).stdin(Stdio::null());
        command.env_remove("DB_STACK_PG_URL").env_remove("DB_STACK_REQUIRE_ALL");
        command
    }

    fn test(&self, args: &[&str]) -> Command {
        let mut command = self.xtask(&[&["test"], args].concat());
        command.env("DB_STACK_PG_URL", "postgres://unused");
        command
    }
}

fn start(command: &mut Command) -> Child {
    let _no_write = FORK.lock().unwrap_or_else(PoisonError::into_inner);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

fn output(command: &mut Command) -> Output {
    start(command).wait_with_output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
}

/// No nextest; three tests and two doc tests pass, and one of them writes a skip.
const PASSING: &str = r#"
case "$*" in
  nextest*) exit 1 ;;
  *--doc*) echo "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.0s" ;;
  *) echo "skipped: pgbench (not installed)" >> "$DB_STACK_SKIP_LOG"; echo "$DB_STACK_SKIP_LOG" > log
     echo "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.0s" ;;
esac"#;

#[test]
fn tools_of_the_bench_get_their_arguments_and_give_their_exit_code() {
    let fake = Fake::new("exit 9");
    let cases: [(&[&str], &str); 4] = [
        (
            &["demo", "--for", "10s"],
            "cargo run --release -p db-bench -- demo --for 10s\n",
        ),
        (
            &["bench", "--help"],
            "cargo run --release -p db-bench -- bench --help\n",
        ),
        (
            &["prove", "storm", "--quick"],
            "cargo run --release -p db-bench -- prove storm --quick\n",
        ),
        (&["pg"], "cargo run -q -p db-bench -- pg\n"),
    ];
    for (args, expected) in cases {
        let output = output(&mut fake.xtask(args));
        assert_eq!((text(&output).as_str(), output.status.code()), (expected, Some(9)));
    }
}

#[test]
fn tests_run_again_under_a_server_of_their_own() {
    let fake = Fake::new("exit 0");
    let output = output(&mut fake.xtask(&["test", "cancelled"]));
    let own = env!("CARGO_BIN_EXE_xtask");
    assert_eq!(
        text(&output),
        format!("cargo run -q -p db-bench -- pg --exec -- {own} test cancelled\n")
    );
}

#[test]
fn tests_are_counted_and_skips_are_shown() {
    let fake = Fake::new(PASSING);
    let output = output(&mut fake.test(&[]));
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.ends_with("\nskipped:\n  1 x pgbench (not installed)\n\ntests: 5 passed, 0 failed\n"),
        "{said}"
    );
    let log = fs::read_to_string(fake.file("log")).unwrap();
    assert!(!Path::new(log.trim()).exists(), "the skip log is left behind");
}

#[test]
fn a_skip_fails_where_all_is_required() {
    let fake = Fake::new(PASSING);
    let output = output(fake.test(&[]).env("DB_STACK_REQUIRE_ALL", "1"));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
}

#[test]
fn a_failing_runner_fails_the_command() {
    let fake = Fake::new("case \"$*\" in *--doc*) exit 101 ;; esac");
    let output = output(&mut fake.test(&[]));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("failed: doc tests"), "{}", text(&output));
}

#[test]
fn an_interrupt_waits_for_the_runner_and_starts_no_other() {
    let fake = Fake::new(
        "case \"$*\" in *--version) exit 1 ;; esac\n: > up\nwhile [ ! -e go ]; do sleep 0.02; done\n: > ended",
    );
    let child = start(&mut fake.test(&[]));
    until("the runner is up", || fake.file("up").exists());
    signal(&child, Signal::INT);
    thread::sleep(Duration::from_millis(100));
    assert!(!fake.file("ended").exists());
    fs::write(fake.file("go"), "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(
        fake.file("ended").exists() && !text(&output).contains("--doc"),
        "{}",
        text(&output)
    );
}

#[test]
fn termination_is_handed_on() {
    let fake = Fake::new(
        "case \"$*\" in *--version) exit 1 ;; esac\ntrap ': > cleaned; exit 1' TERM\n: > up\nwhile :; do sleep 0.02; done",
    );
    let mut child = start(&mut fake.test(&[]));
    until("the runner is up", || fake.file("up").exists());
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(fake.file("cleaned").exists());
}
