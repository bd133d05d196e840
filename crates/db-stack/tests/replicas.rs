//! `Db` over a primary and a replica: where calls go, what sessions see, what a failover does to transactions.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_stack::{
    CausalToken, Db, DbBuilder, Error, Mode,
    config::{DbConfig, Tenancy},
};
use db_testkit::Postgres;
use sqlx::Row;
use std::{
    future::ready,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, sleep};

const SOON: Duration = Duration::from_secs(20);
const MS: Duration = Duration::from_millis(1);

async fn servers() -> (Postgres, Postgres) {
    let primary = Postgres::start().await.unwrap();
    let mut admin = primary.admin().await.unwrap();
    sqlx::raw_sql("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 0)")
        .execute(&mut admin)
        .await
        .unwrap();
    let replica = primary.replica().await.unwrap();
    replica.wait_caught_up(&primary, SOON).await.unwrap();
    (primary, replica)
}

fn builder(primary: &Postgres, replica: &Postgres) -> DbBuilder {
    Db::builder().url(&primary.url()).configure(|config| {
        config.replica.urls = replica.url().as_str().into();
        config.replica.poll_interval = 100 * MS;
        config.replica.search_interval = 20 * MS;
    })
}

async fn port(db: &Db) -> i32 {
    sqlx::query_scalar("SELECT inet_server_port()")
        .fetch_one(db)
        .await
        .unwrap()
}

async fn write(db: &Db, n: i32) -> sqlx::Result<()> {
    sqlx::query("UPDATE t SET n = $1").bind(n).execute(db).await.map(drop)
}

async fn read(db: &Db) -> sqlx::Result<i32> {
    sqlx::query_scalar("SELECT n FROM t WHERE id = 1").fetch_one(db).await
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done().await {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        sleep(5 * MS).await;
    }
}

#[tokio::test]
async fn reads_go_to_the_replica_and_writes_to_the_primary() {
    let (primary, replica) = servers().await;
    let db = builder(&primary, &replica).connect().await.unwrap();
    let (there, here) = (i32::from(replica.port()), i32::from(primary.port()));
    assert_eq!(port(&db).await, there);
    assert_eq!(port(&db.primary()).await, here);
    // What locks, writes or is not understood belongs on the primary; it would fail elsewhere.
    for sql in [
        "SELECT n FROM t FOR UPDATE",
        "INSERT INTO t VALUES (2, 2) RETURNING n",
        "WITH gone AS (DELETE FROM t WHERE id = 2 RETURNING n) SELECT n FROM gone",
        "SELECT set_config('a.b', 'c', false)",
    ] {
        sqlx::query(sql).fetch_all(&db).await.unwrap();
    }
    let mut tx = db.begin().await.unwrap();
    let row = sqlx::query("SELECT inet_server_port()")
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    assert_eq!(row.get::<i32, _>(0), here);
    tx.rollback().await.unwrap();

    let mut tx = db.read_only_transaction().await.unwrap();
    let row = sqlx::query("SELECT inet_server_port()")
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    assert_eq!(row.get::<i32, _>(0), there);
    tx.commit().await.unwrap();
    let mut tx = db.primary().read_only_transaction().await.unwrap();
    let refused = sqlx::query("UPDATE t SET n = 1").execute(&mut *tx).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "25006");
    tx.rollback().await.unwrap();
    let stats = db.replicas();
    assert_eq!(stats.fallbacks, 0, "{stats:?}");
    db.close().await;
}

#[tokio::test]
async fn a_tenants_own_database_is_read_on_the_replica_too() {
    let (primary, replica) = servers().await;
    let mut admin = primary.admin().await.unwrap();
    sqlx::raw_sql("CREATE DATABASE tenant_a")
        .execute(&mut admin)
        .await
        .unwrap();
    replica.wait_caught_up(&primary, SOON).await.unwrap();
    let db = builder(&primary, &replica).configure(|config| config.tenants.mode = Tenancy::Database);
    let db = db.connect().await.unwrap();
    let tenant = db.tenant("a").unwrap();
    let place = async |db: &Db| -> (String, i32) {
        let row = sqlx::query("SELECT current_database()::text, inet_server_port()");
        let row = row.fetch_one(db).await.unwrap();
        (row.get(0), row.get(1))
    };
    let own = "tenant_a".to_owned();
    assert_eq!(place(&tenant).await, (own.clone(), i32::from(replica.port())));
    assert_eq!(place(&tenant.primary()).await, (own, i32::from(primary.port())));
    assert_eq!(place(&db).await.0, place(&db.primary()).await.0);
    db.close().await;
}

#[tokio::test]
async fn a_session_sees_its_writes_transactions_and_tokens_included() {
    let (primary, replica) = servers().await;
    let db = builder(&primary, &replica).connect().await.unwrap();
    replica.pause_replay().await.unwrap();
    let session = db.session();
    assert_eq!(session.token().await.unwrap(), None);
    write(&session, 1).await.unwrap();
    assert_eq!(
        read(&db).await.unwrap(),
        0,
        "without a session the replica is good enough"
    );
    assert_eq!(read(&session).await.unwrap(), 1);

    let session = db.session();
    let mut tx = session.begin().await.unwrap();
    sqlx::query("UPDATE t SET n = 2").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(read(&session).await.unwrap(), 2);
    let mut tx = session.read_only_transaction().await.unwrap();
    assert_eq!(
        sqlx::query_scalar::<_, i32>("SELECT n FROM t")
            .fetch_one(&mut *tx)
            .await
            .unwrap(),
        2
    );
    drop(tx);

    let token = session.token().await.unwrap().unwrap();
    let text = serde_json::to_string(&token).unwrap();
    let token: CausalToken = serde_json::from_str(&text).unwrap();
    let other = builder(&primary, &replica).connect().await.unwrap();
    assert_eq!(read(&other.session_from(token)).await.unwrap(), 2);
    let foreign = CausalToken {
        system: token.system ^ 1,
        ..token
    };
    let error = read(&other.session_from(foreign)).await.unwrap_err();
    assert!(matches!(Error::from(error), Error::Causal(_)));

    // Whoever has no replicas makes tokens for those who have.
    let plain = Db::connect(&primary.url()).await.unwrap().session();
    write(&plain, 3).await.unwrap();
    let token = plain.token().await.unwrap().unwrap();
    replica.resume_replay().await.unwrap();
    until("the replica answers", async || {
        assert_eq!(read(&other.session_from(token)).await.unwrap(), 3);
        other.replicas().replica_reads > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_and_pools_follow_a_failover() {
    let (primary, replica) = servers().await;
    let db = builder(&primary, &replica).connect().await.unwrap();
    write(&db, 1).await.unwrap();
    replica.wait_caught_up(&primary, SOON).await.unwrap();
    primary.kill().await.unwrap();
    replica.promote().await.unwrap();
    until("transactions go on", async || {
        let Ok(mut tx) = db.begin().await else { return false };
        sqlx::query("UPDATE t SET n = 7").execute(&mut *tx).await.is_ok() && tx.commit().await.is_ok()
    })
    .await;
    let mut lease = db.acquire().await.unwrap();
    let port: i32 = sqlx::query_scalar("SELECT inet_server_port()")
        .fetch_one(&mut *lease)
        .await
        .unwrap();
    assert_eq!(port, i32::from(replica.port()));
    drop(lease);

    // New settings do not lead back to the first node.
    let mut config: DbConfig = (*db.config()).clone();
    config.session.lock_timeout = Some(Duration::from_secs(3));
    config.pool.max_connections = 4;
    db.reload(config).unwrap();
    write(&db, 8).await.unwrap();
    assert_eq!(read(&db.session()).await.unwrap(), 8);
    assert_eq!(db.replicas().cluster.moves, 1);

    // The old primary comes back as one, which shows for as long as it is one.
    let writable = |nodes: u32| {
        let line = format!("ava_db_writable_nodes {nodes}");
        db.metrics().render().lines().any(|found| found == line)
    };
    until("the one is known", async || writable(1)).await;
    primary.start_again().await.unwrap();
    until("two take writes", async || writable(2)).await;
    let mut admin = primary.admin().await.unwrap();
    for sql in [
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    ] {
        sqlx::raw_sql(sql).execute(&mut admin).await.unwrap();
    }
    until("one takes writes", async || writable(1)).await;
    assert_eq!(db.replicas().cluster.moves, 1);
}

#[tokio::test]
async fn nodes_join_and_leave_while_it_runs() {
    let (primary, replica) = servers().await;
    let db = Db::builder().url(&primary.url()).connect().await.unwrap();
    let (there, here) = (i32::from(replica.port()), i32::from(primary.port()));
    assert_eq!(port(&db).await, here);
    // User, password and database are those of the connection.
    let url = format!("postgres://{}", replica.addr());
    db.add_node(&url).unwrap();
    assert!(db.nodes_ready(SOON).await);
    assert_eq!(port(&db).await, there);
    assert!(db.remove_node(&replica.addr().to_string()));
    assert_eq!(port(&db).await, here);

    let mut config = (*db.config()).clone();
    config.replica.urls = url.as_str().into();
    db.reload(config).unwrap();
    assert!(db.nodes_ready(SOON).await);
    assert_eq!(port(&db).await, there);
    assert!(db.add_node("postgres://host:0x10").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_names_the_nodes() {
    let (primary, replica) = servers().await;
    let second = primary.replica().await.unwrap();
    second.wait_caught_up(&primary, SOON).await.unwrap();
    let named = Arc::new(Mutex::new(vec![format!("postgres://{}", primary.addr())]));
    let asked = named.clone();
    let db = Db::builder()
        .url(&primary.url())
        .discover(move || ready(Ok::<_, std::io::Error>(asked.lock().unwrap().clone())))
        .configure(|config| {
            config.replica.discovery_interval = 100 * MS;
            config.replica.poll_interval = 100 * MS;
            config.replica.search_interval = 20 * MS;
        });
    let db = db.connect().await.unwrap();
    let name = |server: &Postgres| format!("postgres://{}", server.addr());
    let (here, there, beside) = (
        i32::from(primary.port()),
        i32::from(replica.port()),
        i32::from(second.port()),
    );
    assert_eq!(port(&db).await, here, "there is no other node");

    *named.lock().unwrap() = vec![name(&replica), name(&primary)];
    until("reads go to the node that has joined", async || {
        port(&db).await == there
    })
    .await;
    write(&db, 1).await.unwrap();
    assert_eq!(
        db.replicas().cluster.moves,
        0,
        "the primary is found, wherever it stands in the list"
    );

    *named.lock().unwrap() = vec![name(&primary), name(&second)];
    until("reads go to the one that came instead", async || {
        port(&db).await == beside
    })
    .await;
    for _ in 0..20 {
        assert_eq!(port(&db).await, beside);
    }
    // Trouble of whoever names them changes nothing.
    *named.lock().unwrap() = vec!["postgres://host:0x10".to_owned()];
    sleep(300 * MS).await;
    assert_eq!(port(&db).await, beside);
    named.lock().unwrap().clear();
    sleep(300 * MS).await;
    assert_eq!(port(&db).await, beside);

    // The primary dies, and its successor is named only then.
    *named.lock().unwrap() = vec![name(&primary)];
    until("the replica has left", async || port(&db).await == here).await;
    *named.lock().unwrap() = vec![name(&primary), name(&second)];
    until("it is back", async || port(&db).await == beside).await;
    second.wait_caught_up(&primary, SOON).await.unwrap();
    primary.kill().await.unwrap();
    second.promote().await.unwrap();
    *named.lock().unwrap() = vec![name(&second)];
    until("writes go to the only one that is named", async || {
        write(&db, 2).await.is_ok()
    })
    .await;
    assert_eq!(port(&db.primary()).await, beside);
    db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_read_is_sent_to_a_second_replica_and_the_first_is_cancelled() {
    let (primary, stuck) = servers().await;
    let other = primary.replica().await.unwrap();
    other.wait_caught_up(&primary, SOON).await.unwrap();
    let connect = async |share: f64| {
        let db = Db::builder().url(&primary.url()).configure(|config| {
            config.replica.urls = format!("{},{}", stuck.url(), other.url()).as_str().into();
            config.replica.hedge = Mode::Enforce;
            config.replica.hedge_after = 20 * MS;
            config.replica.hedge_share = share;
        });
        let db = db.connect().await.unwrap();
        assert!(db.nodes_ready(SOON).await);
        db
    };
    let (db, strict) = (connect(0.25).await, connect(0.0).await);
    // Something is saved up, and nothing where nothing may be sent twice. A connection that is opened first makes a node
    // look slow.
    for db in [&db, &strict] {
        until("both replicas are read", async || {
            read(db).await.unwrap();
            let nodes = db.replicas().cluster.nodes;
            nodes.iter().filter(|node| node.reads >= 40).count() == 2
        })
        .await;
    }
    let before = db.replicas();

    // One replica is stopped where it holds a lock that the other one has replayed the end of.
    let mut admin = primary.admin().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        .execute(&mut admin)
        .await
        .unwrap();
    // The lock is in the log once something behind it is flushed.
    let mut beside = primary.admin().await.unwrap();
    sqlx::raw_sql("CREATE TABLE behind ()")
        .execute(&mut beside)
        .await
        .unwrap();
    stuck.wait_caught_up(&primary, SOON).await.unwrap();
    stuck.pause_replay().await.unwrap();
    sqlx::raw_sql("ROLLBACK; CREATE TABLE after ()")
        .execute(&mut admin)
        .await
        .unwrap();
    other.wait_caught_up(&primary, SOON).await.unwrap();

    let mut reads = 0;
    until(
        "a read goes to the one that is stuck, and is answered by the other",
        async || {
            let since = Instant::now();
            read(&db).await.unwrap();
            assert!(since.elapsed() < Duration::from_secs(5), "nobody waits for the lock");
            reads += 1;
            db.replicas().hedges_won > before.hedges_won
        },
    )
    .await;
    let after = db.replicas();
    let hedges = after.hedges - before.hedges;
    assert!(
        (1..=11 + reads / 4).contains(&hedges),
        "what is saved up, and a quarter of the reads: {after:?}"
    );
    let mut admin = stuck.admin().await.unwrap();
    let mut waiting = async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'SELECT n%'";
        sqlx::query_scalar::<_, i64>(waiting)
            .fetch_one(&mut admin)
            .await
            .unwrap()
    };
    until("the one that lost is cancelled on its server", async || {
        waiting().await == 0
    })
    .await;

    // Without a budget nothing is sent twice: the read waits where it was sent.
    let impatient = strict.timeout(200 * MS);
    until("a read waits for the lock", async || read(&impatient).await.is_err()).await;
    assert_eq!(strict.replicas().hedges, 0);
    stuck.resume_replay().await.unwrap();
    db.close().await;
    strict.close().await;
}

#[tokio::test]
async fn lag_and_reads_of_each_node_are_exported() {
    let (primary, replica) = servers().await;
    let db = builder(&primary, &replica).connect().await.unwrap();
    assert!(db.nodes_ready(SOON).await);
    for _ in 0..5 {
        read(&db).await.unwrap();
    }
    let text = db.metrics().render();
    let there = replica.addr().to_string();
    let line = |metric: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with(&format!("ava_{metric}{{")));
        lines.find(|line| line.contains(&there)).map(str::to_owned)
    };
    let reads = line("db_replica_reads_total").unwrap_or_else(|| panic!("{text}"));
    assert!(reads.ends_with(" 5"), "{reads}");
    assert!(line("db_replica_lag_seconds").is_some(), "{text}");
    let plain = Db::connect(&primary.url()).await.unwrap();
    read(&plain).await.unwrap();
    assert!(!plain.metrics().render().contains("db_replica_reads_total{node"));
    db.close().await;
    plain.close().await;
}
