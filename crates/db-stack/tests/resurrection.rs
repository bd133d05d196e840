//! The endpoint changes under load: another server, another password, other addresses, or a new beginning by hand. Each
//! time the pool heals by itself.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, builder, quiet, until};
use db_stack::{Db, Event, Message, OptionsSource, config::ConnectionConfig};
use db_testkit::{FaultProxy, Postgres};
use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use std::{
    collections::BTreeSet,
    env,
    net::SocketAddr,
    path::Path,
    process::{Command, Output},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Callers that go on and on, and what became of their calls.
struct Load {
    callers: JoinSet<()>,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Load {
    async fn start(db: &Db, statement: &'static str) -> Self {
        let mut load = Self {
            callers: JoinSet::new(),
            stop: Arc::default(),
            served: Arc::default(),
            failed: Arc::default(),
        };
        for _ in 0..6 {
            let (db, stop) = (db.clone(), load.stop.clone());
            let (served, failed) = (load.served.clone(), load.failed.clone());
            load.callers.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let counter = match sqlx::query(statement).execute(&db).await {
                        Ok(_) => &served,
                        Err(_) => &failed,
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(1)).await;
                }
            });
        }
        load.healthy().await;
        load
    }

    /// Until many calls have succeeded without an error in between.
    async fn healthy(&self) {
        let counts = || (self.served.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        let mut from = counts();
        until("many calls in a row succeed", async || {
            let now = counts();
            if now.1 != from.1 {
                from = now;
            }
            now.0 >= from.0 + 50
        })
        .await;
    }

    async fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(done) = timeout(SOON, self.callers.join_next()).await.expect("nobody hangs") {
            done.unwrap();
        }
        self.failed.load(Ordering::Relaxed)
    }
}

/// Asked anew for each connection.
fn source(options: &Arc<Mutex<PgConnectOptions>>) -> OptionsSource {
    let options = options.clone();
    Arc::new(move || {
        let now = options.lock().clone();
        Box::pin(async move { Ok(now) })
    })
}

async fn port(db: &Db) -> i32 {
    sqlx::query_scalar("SELECT current_setting('port')::int")
        .fetch_one(db)
        .await
        .unwrap()
}

async fn pids(server: &Postgres) -> BTreeSet<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() \
               AND query NOT LIKE '%pg_stat_get_activity%'";
    let pids: Vec<i32> = sqlx::query_scalar(sql)
        .fetch_all(&mut server.admin().await.unwrap())
        .await
        .unwrap();
    pids.into_iter().collect()
}

async fn end_sessions(server: &Postgres) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    sqlx::raw_sql(sql)
        .execute(&mut server.admin().await.unwrap())
        .await
        .unwrap();
}

/// Ends the sessions of before until callers feel it: one that was just beginning is in no list.
async fn refused(server: &Postgres, load: &Load) {
    until("calls fail", async || {
        end_sessions(server).await;
        load.failed.load(Ordering::Relaxed) > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_beginning_by_hand_fails_nobody() {
    let server = Postgres::start().await.unwrap();
    let db = builder(server.options(), 4).build().unwrap();
    let load = Load::start(&db, "SELECT 1").await;
    let mut lease = db.acquire().await.unwrap();
    let mut epochs = db.pool().epochs();
    for _ in 0..5 {
        let before = (db.pool().epoch(), pids(&server).await);
        let epoch = db.reconnect().await.unwrap();
        assert!(epoch > before.0);
        assert!(epochs.has_changed().unwrap(), "those in flight are told");
        epochs.mark_unchanged();
        // A lease that is out stays good until it comes back.
        sqlx::query("SELECT 1").execute(&mut *lease).await.unwrap();
        drop(lease);
        load.healthy().await;
        until("nobody of before is left", async || {
            before.1.is_disjoint(&pids(&server).await)
        })
        .await;
        lease = db.acquire().await.unwrap();
    }
    // Many at once share one.
    let before = db.pool().epoch();
    let mut together = JoinSet::new();
    for _ in 0..8 {
        let db = db.clone();
        together.spawn(async move { db.reconnect().await.unwrap() });
    }
    while let Some(epoch) = together.join_next().await {
        assert!(epoch.unwrap() > before);
    }
    assert!(db.pool().epoch() < before + 8, "each for himself");
    drop(lease);
    assert_eq!(load.end().await, 0, "calls failed");
    assert!(quiet(&db).await.size <= 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_beginning_that_leads_nowhere_changes_nothing() {
    let server = Postgres::start().await.unwrap();
    let proxy = FaultProxy::start(server.addr()).await.unwrap();
    let options = PgConnectOptions::from_str(&proxy.url_for(&server)).unwrap();
    let db = builder(options.disable_statement_logging(), 2).build().unwrap();
    let load = Load::start(&db, "SELECT 1").await;
    proxy.refuse_new();
    let epoch = db.pool().epoch();
    assert!(db.reconnect().await.is_err());
    assert_eq!(db.pool().epoch(), epoch);
    load.healthy().await;
    assert_eq!(load.end().await, 0, "calls failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_password_from_the_source() {
    let server = Postgres::builder().password_auth("before").start().await.unwrap();
    let options = Arc::new(Mutex::new(server.options()));
    let db = builder(server.options(), 3)
        .options_from(source(&options))
        .configure(|config| config.pool.acquire_timeout = Duration::from_secs(2))
        .build()
        .unwrap();
    let load = Load::start(&db, "SELECT 1").await;
    let alter = "ALTER ROLE postgres PASSWORD 'after'";
    sqlx::raw_sql(alter)
        .execute(&mut server.admin().await.unwrap())
        .await
        .unwrap();
    // The old one is refused by now.
    assert!(PgConnection::connect_with(&server.options()).await.is_err());
    refused(&server, &load).await;
    {
        let mut options = options.lock();
        *options = options.clone().password("after");
    }
    load.healthy().await;
    load.end().await;
    // Also what goes through sqlx's own pool.
    let mut listener = db.listener().await.unwrap();
    listener.listen("news").await.unwrap();
    end_sessions(&server).await;
    assert!(matches!(
        timeout(SOON, listener.recv()).await,
        Ok(Ok(Message::Reconnected))
    ));
    assert!(db.cache().ready(SOON).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_in_the_place_of_its_primary() {
    let server = Postgres::start().await.unwrap();
    let standby = server.replica().await.unwrap();
    let proxy = FaultProxy::start(server.addr()).await.unwrap();
    let options = PgConnectOptions::from_str(&proxy.url_for(&server)).unwrap();
    let db = builder(options.disable_statement_logging(), 3)
        .configure(|config| config.pool.acquire_timeout = Duration::from_secs(2))
        .build()
        .unwrap();
    let mut events = db.events();
    sqlx::raw_sql("CREATE TABLE written (n int)")
        .execute(&db)
        .await
        .unwrap();
    standby.wait_caught_up(&server, SOON).await.unwrap();
    let load = Load::start(&db, "INSERT INTO written VALUES (1)").await;
    // First the address leads to the standby, which takes no writes yet; the old primary lives on.
    proxy.set_upstream(standby.addr()).await.unwrap();
    server.kill().await.unwrap();
    until("writes fail", async || load.failed.load(Ordering::Relaxed) > 0).await;
    standby.promote().await.unwrap();
    load.healthy().await;
    load.end().await;
    assert_eq!(port(&db).await, i32::from(standby.port()));
    let mut moved = false;
    while let Some(event) = events.try_next() {
        moved |= matches!(event, Event::EndpointMoved { .. });
    }
    assert!(moved, "it was told");
}

/// The old server lives and serves: only looking at the name shows that it leads elsewhere by now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_name_from_the_source() {
    let (old, new) = (Postgres::start().await.unwrap(), Postgres::start().await.unwrap());
    let options = Arc::new(Mutex::new(old.options().host("localhost")));
    let start = options.lock().clone();
    let db = builder(start, 3).options_from(source(&options)).configure(|config| {
        config.health.interval = Duration::from_millis(100);
        config.health.timeout = Duration::from_millis(100);
    });
    for (server, n) in [(&old, 1), (&new, 2)] {
        let sql = format!("CREATE TABLE t (n int); INSERT INTO t VALUES ({n})");
        let mut admin = server.admin().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
    }
    let db = db.connect().await.unwrap();
    let load = Load::start(&db, "SELECT 1").await;
    assert_eq!(port(&db).await, i32::from(old.port()));
    let mut listener = db.listener().await.unwrap();
    listener.listen("news").await.unwrap();
    assert!(db.cache().ready(SOON).await);
    assert_eq!(cached(&db).await, 1);
    // Looked up at least once.
    sleep(Duration::from_millis(1500)).await;
    *options.lock() = new.options().host("localhost");
    let heard = timeout(SOON, listener.recv()).await.expect("it follows").unwrap();
    assert!(matches!(heard, Message::Reconnected), "{heard:?}");
    until("the connections follow", async || {
        port(&db).await == i32::from(new.port()) && pids(&old).await.is_empty()
    })
    .await;
    assert_eq!(cached(&db).await, 2, "of the server of before");
    // It may connect once more on the way: what is told in between is not heard.
    let listens = async {
        loop {
            sqlx::raw_sql("NOTIFY news").execute(&db).await.unwrap();
            let heard = timeout(Duration::from_millis(500), listener.recv()).await;
            if matches!(heard, Ok(Ok(Message::Notification(_)))) {
                break;
            }
        }
    };
    timeout(SOON, listens).await.expect("it listens there");
    assert_eq!(load.end().await, 0, "calls failed");
}

async fn cached(db: &Db) -> i32 {
    let number = sqlx::query_scalar::<_, i32>("SELECT n FROM t");
    *db.cached(Duration::from_secs(600)).fetch_one(number).await.unwrap()
}

/// Runs another test of this file in a process of its own.
fn again(name: &str, mut command: Command) -> Output {
    command
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .output()
        .unwrap()
}

fn passed(output: &Output) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

/// The system's resolver answers with another address. In a mount namespace the file of host names is ours.
#[test]
fn another_address_for_the_name() {
    let folder = env::temp_dir().join(format!("db-stack-hosts-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let hosts = folder.join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost moving-db\n").unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg("mount --bind \"$HOSTS\" /etc/hosts && exec \"$0\" \"$@\"");
    command.env("HOSTS", &hosts);
    let allowed = Command::new("unshare").args(["--mount", "true"]).output();
    let allowed = allowed.is_ok_and(|tried| tried.status.success());
    let output = allowed.then(|| again("in_a_namespace_with_hosts_of_its_own", command));
    std::fs::remove_dir_all(&folder).unwrap();
    match output {
        Some(output) => passed(&output),
        None => db_testkit::skip("another address for the name", "no right to a mount namespace"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by another_address_for_the_name"]
async fn in_a_namespace_with_hosts_of_its_own() {
    let hosts = env::var("HOSTS").unwrap();
    let (old, new) = (Postgres::start().await.unwrap(), Postgres::start().await.unwrap());
    forward(("127.0.0.2", old.port()), new.addr()).await;
    let db = builder(old.options().host("moving-db"), 3).configure(|config| {
        config.health.interval = Duration::from_millis(100);
        config.health.timeout = Duration::from_millis(100);
    });
    let db = db.connect().await.unwrap();
    let load = Load::start(&db, "SELECT 1").await;
    assert_eq!(port(&db).await, i32::from(old.port()));
    sleep(Duration::from_millis(1500)).await;
    std::fs::write(Path::new(&hosts), "127.0.0.1 localhost\n127.0.0.2 moving-db\n").unwrap();
    until("the connections follow", async || {
        port(&db).await == i32::from(new.port()) && pids(&old).await.is_empty()
    })
    .await;
    assert_eq!(load.end().await, 0, "calls failed");
    db.close().await;
}

/// Passes connections on for as long as the runtime lives.
async fn forward(from: (&str, u16), to: SocketAddr) {
    let listener = TcpListener::bind(from).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut far) = TcpStream::connect(to).await {
                    drop(copy_bidirectional(&mut near, &mut far).await);
                }
            });
        }
    });
}

/// libpq's password file is read anew for each connection.
#[test]
fn another_password_in_the_file() {
    let folder = env::temp_dir().join(format!("db-stack-pass-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let mut command = Command::new("env");
    command
        .env("PGPASSFILE", folder.join("pgpass"))
        .env_remove("PGPASSWORD");
    let output = again("with_a_password_file_of_its_own", command);
    std::fs::remove_dir_all(&folder).unwrap();
    passed(&output);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by another_password_in_the_file"]
async fn with_a_password_file_of_its_own() {
    let write = |password: &str| {
        use std::os::unix::fs::OpenOptionsExt;
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(env::var("PGPASSFILE").unwrap());
        std::io::Write::write_all(&mut file.unwrap(), format!("*:*:*:*:{password}\n").as_bytes()).unwrap();
    };
    let server = Postgres::builder().password_auth("before").start().await.unwrap();
    write("before");
    let db = Db::builder().configure(|config| {
        config.connection = ConnectionConfig {
            host: Some("127.0.0.1".to_owned()),
            port: Some(server.port()),
            user: Some("postgres".to_owned()),
            database: Some("postgres".to_owned()),
            ..ConnectionConfig::default()
        };
        config.pool.acquire_timeout = Duration::from_secs(2);
    });
    let db = db.connect().await.unwrap();
    let load = Load::start(&db, "SELECT 1").await;
    let alter = "ALTER ROLE postgres PASSWORD 'after'";
    sqlx::raw_sql(alter)
        .execute(&mut server.admin().await.unwrap())
        .await
        .unwrap();
    refused(&server, &load).await;
    write("after");
    load.healthy().await;
    load.end().await;
    db.close().await;
}
