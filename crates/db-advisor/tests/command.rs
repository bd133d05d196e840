//! The command as a user runs it: exit codes, formats, migrations, and a pgbouncer.ini that starts.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_testkit::{PgBouncer, Postgres};
use sqlx::{Connection, PgConnection};
use std::{
    fs,
    io::{Read, Write},
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
async fn top_refreshes_until_a_key_ends_it_and_prints_once_without_a_terminal() {
    let database = db_testkit::database().await;
    let url = database.url();
    let once = db_stack(&["top", &url]);
    assert_eq!(once.status.code(), Some(0), "{}", text(&once.stderr));
    assert!(
        text(&once.stdout).contains("idle in transaction"),
        "no terminal: one look"
    );
    if Command::new("script").arg("--version").output().is_err() {
        return db_testkit::skip("top in a terminal", "script of util-linux is not installed");
    }
    for key in ["q", "\u{3}"] {
        let program = env!("CARGO_BIN_EXE_db-stack");
        let line = format!("stty rows 40 cols 160; exec {program} top --every 100ms '{url}'");
        let mut terminal = Command::new("script")
            .args(["-qefc", &line, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut keys = terminal.stdin.take().unwrap();
        let mut shown = terminal.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            shown.read_to_end(&mut all).map(|_| all)
        });
        // Some looks.
        sleep(Duration::from_millis(1500)).await;
        assert!(terminal.try_wait().unwrap().is_none(), "it ended by itself");
        keys.write_all(key.as_bytes()).unwrap();
        keys.flush().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        let status = loop {
            match terminal.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() < until => sleep(Duration::from_millis(20)).await,
                None => {
                    terminal.kill().unwrap();
                    panic!("{key:?} does not end it");
                }
            }
        };
        assert_eq!(status.code(), Some(0));
        let all = String::from_utf8_lossy(&reader.join().unwrap().unwrap()).into_owned();
        // What is blank already is not drawn: words stand alone.
        assert!(all.contains("transaction"), "{all:?}");
        // It leaves the other screen, and the cursor is back.
        assert!(all.contains("\u{1b}[?1049l") && all.contains("\u{1b}[?25h"), "{all:?}");
    }
}

#[tokio::test]
async fn the_clients_figures_meet_the_servers() {
    let server = Postgres::builder().preload("pg_stat_statements").start().await.unwrap();
    let mut pg = PgConnection::connect(&server.url()).await.unwrap();
    sqlx::raw_sql("CREATE EXTENSION pg_stat_statements; CREATE TABLE waits (id int)")
        .execute(&mut pg)
        .await
        .unwrap();
    for n in 0..30 {
        sqlx::query("SELECT * FROM waits WHERE id = $1")
            .bind(n)
            .execute(&mut pg)
            .await
            .unwrap();
    }
    let fingerprint = db_core::StatementFacts::of("SELECT * FROM waits WHERE id = $1").fingerprint();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("client.json");
    let figures = format!(r#"[{{"fingerprint": "{fingerprint}", "uses": 30, "mean_ms": 250.0}}]"#);
    fs::write(&file, figures).unwrap();
    let report = db_stack(&["doctor", "--client", file.to_str().unwrap(), &server.url()]);
    let report = text(&report.stdout);
    assert!(report.contains("callers of a statement wait longer"), "{report}");
    assert!(
        report.contains("For the caller, on the server, and between"),
        "{report}"
    );
    fs::write(&file, "{}").unwrap();
    let wrong = db_stack(&["doctor", "--client", file.to_str().unwrap(), &server.url()]);
    assert_eq!(wrong.status.code(), Some(3));
}

#[tokio::test]
async fn joins_and_sorts_get_advice_and_a_foreign_keys_index_is_not_called_unused() {
    let server = Postgres::builder().preload("pg_stat_statements").start().await.unwrap();
    let mut pg = PgConnection::connect(&server.url()).await.unwrap();
    let seed = "CREATE EXTENSION pg_stat_statements;
        CREATE TABLE people (id int PRIMARY KEY, town text);
        CREATE TABLE letters (id int PRIMARY KEY, to_id int REFERENCES people, sent int, state int);
        CREATE TABLE stamps (id int PRIMARY KEY, letter_id int REFERENCES letters);
        CREATE INDEX stamps_letter ON stamps (letter_id);
        INSERT INTO people SELECT i, 'town ' || i FROM generate_series(1, 20000) AS i;
        CREATE INDEX people_town ON people (town);
        INSERT INTO letters SELECT i, i % 20000 + 1, i, i % 3 FROM generate_series(1, 60000) AS i;
        INSERT INTO stamps SELECT i, i FROM generate_series(1, 20000) AS i;";
    sqlx::raw_sql(seed).execute(&mut pg).await.unwrap();
    let hypopg = sqlx::raw_sql("CREATE EXTENSION hypopg").execute(&mut pg).await.is_ok();
    sqlx::raw_sql("VACUUM ANALYZE").execute(&mut pg).await.unwrap();
    sqlx::raw_sql("SELECT pg_stat_statements_reset()")
        .execute(&mut pg)
        .await
        .unwrap();
    for n in 0..30 {
        let join = "SELECT l.id FROM people AS p JOIN letters AS l ON l.to_id = p.id WHERE p.town = $1";
        sqlx::query(join)
            .bind(format!("town {n}"))
            .fetch_all(&mut pg)
            .await
            .unwrap();
        let sort = "SELECT * FROM letters ORDER BY sent DESC LIMIT 10";
        sqlx::query(sort).fetch_all(&mut pg).await.unwrap();
    }
    for n in 0..150 {
        sqlx::query("SELECT * FROM stamps WHERE id = $1")
            .bind(n)
            .fetch_all(&mut pg)
            .await
            .unwrap();
    }
    pg.close().await.unwrap();
    sleep(Duration::from_millis(1500)).await;
    let report = text(&db_stack(&["indexes", &server.url()]).stdout);
    assert!(!report.contains("stamps_letter"), "a foreign key looks by it: {report}");
    // Also what the foreign key of letters wants.
    assert!(report.contains("ON public.letters (to_id)"), "{report}");
    if hypopg {
        assert!(
            report.contains("join 1 with them") || report.contains("to join"),
            "{report}"
        );
        // Without the planner's answer the rule can't tell how few rows `LIMIT $1` leaves of the sort.
        assert!(report.contains("ON public.letters (sent)"), "{report}");
    }
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
