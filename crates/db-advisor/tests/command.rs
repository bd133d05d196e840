//! The command as a user runs it: exit codes, formats, migrations, and a pgbouncer.ini that starts.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_testkit::{PgBouncer, Postgres};
use sqlx::{Connection, PgConnection};
use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Command, Output, Stdio},
    time::Duration,
};
use tokio::time::{Instant, sleep};

fn db_stack(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_db-stack"))
        .args(args)
        .env_remove("DATABASE_URL")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn exit_codes_tell_the_worst_and_every_format_is_whole() {
    let database = db_testkit::database().await;
    let url = database.url();
    // The throwaway server has fsync off, which is the worst that there is.
    let report = db_stack(&["doctor", &url]);
    assert_eq!(report.status.code(), Some(2), "{}", text(&report.stderr));
    assert!(text(&report.stdout).contains("fsync is off"));
    let json = db_stack(&["doctor", "--format", "json", &url]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(
        json["findings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|f| f["id"] == "dangerous-setting")
    );
    assert!(text(&db_stack(&["doctor", "--format", "html", &url]).stdout).ends_with("</html>\n"));
    assert!(text(&db_stack(&["doctor", "--format", "markdown", &url]).stdout).contains("| Area | Score |"));
    let nobody = db_stack(&["doctor", "postgres://u:hush@127.0.0.1:1/x"]);
    assert_eq!(nobody.status.code(), Some(3));
    assert!(!text(&nobody.stderr).contains("hush"));
    let refused = db_stack(&["explain", &url, "DELETE FROM pg_class"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains("stronger lock"));
    let plan = db_stack(&["explain", &url, "--analyze", "SELECT count(*) FROM pg_class"]);
    assert_eq!(
        plan.status.code(),
        Some(3),
        "a table that is not in the text's own path is not proven"
    );
    let plan = db_stack(&["explain", &url, "SELECT * FROM pg_class WHERE oid = $1"]);
    assert!(text(&plan.stdout).contains("pg_class"), "{}", text(&plan.stderr));
    assert!(text(&db_stack(&["top", "--once", &url]).stdout).contains("active"));
}

#[tokio::test]
async fn migrations_go_up_twice_and_down_and_take_only_their_own() {
    let database = db_testkit::database().await;
    let url = database.url();
    let up = db_stack(&["migrate", "--schema", "own", &url]);
    assert_eq!(up.status.code(), Some(0), "{}", text(&up.stderr));
    assert!(text(&up.stdout).contains("0001 roles: installed"));
    assert!(text(&db_stack(&["migrate", "--schema", "own", &url]).stdout).contains("0001 roles: nothing to do"));
    let mut pg = PgConnection::connect(&url).await.unwrap();
    let elsewhere: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = 'public'",
    )
    .fetch_one(&mut pg)
    .await
    .unwrap();
    assert_eq!(elsewhere, 0, "something was installed outside the schema");
    let down = db_stack(&["migrate", "--schema", "own", "--down-to", "0", &url]);
    assert_eq!(down.status.code(), Some(0), "{}", text(&down.stderr));
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_namespace WHERE nspname = 'own'")
        .fetch_one(&mut pg)
        .await
        .unwrap();
    assert_eq!(left, 0);
    assert_eq!(
        db_stack(&["migrate", "--schema", "public", &url]).status.code(),
        Some(3)
    );
}

#[tokio::test]
async fn the_written_pgbouncer_ini_starts_and_lets_scram_in() {
    let programs = PgBouncer::programs();
    let Some(program) = programs.last() else {
        return db_testkit::skip("pgbouncer-config", "PgBouncer is not installed");
    };
    let server = Postgres::builder().password_auth("s3cret").start().await.unwrap();
    let mut admin = server.admin().await.unwrap();
    let secret: String = sqlx::query_scalar("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'")
        .fetch_one(&mut admin)
        .await
        .unwrap();
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let users = dir.path().join("users.txt");
    fs::write(&users, format!("\"postgres\" \"{secret}\"\n")).unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
        .to_string();
    let server_port = server.port().to_string();
    let mut args = vec![
        "pgbouncer-config",
        "postgres",
        "--port",
        &server_port,
        "--listen-port",
        &port,
    ];
    let users = users.to_str().unwrap().to_owned();
    args.extend(["--auth-file", &users, "--clients", "200"]);
    if program.version < (1, 21) {
        args.push("--old");
    }
    let config = dir.path().join("pgbouncer.ini");
    fs::write(&config, db_stack(&args).stdout).unwrap();
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let mut command = Command::new(&program.path);
    command.arg(&config).stdout(Stdio::null()).stderr(log);
    if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        // It refuses to run as root.
        command.uid(65534).gid(65534);
    }
    let mut bouncer = command.spawn().unwrap();
    let url = format!("postgres://postgres:s3cret@127.0.0.1:{port}/postgres");
    let options = url
        .parse::<sqlx::postgres::PgConnectOptions>()
        .unwrap()
        .extra_float_digits(None);
    let until = Instant::now() + Duration::from_secs(10);
    let one = loop {
        match PgConnection::connect_with(&options).await {
            Ok(mut pg) => break sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(&mut pg).await,
            Err(_) if Instant::now() < until => sleep(Duration::from_millis(50)).await,
            Err(error) => break Err(error),
        }
    };
    bouncer.kill().unwrap();
    bouncer.wait().unwrap();
    assert_eq!(
        one.unwrap(),
        1,
        "{}",
        fs::read_to_string(dir.path().join("log")).unwrap()
    );
    // And looking through it is refused: the settings that make looking safe would be dropped.
    assert_ne!(db_stack(&["doctor", &url]).status.code(), Some(0));
}
