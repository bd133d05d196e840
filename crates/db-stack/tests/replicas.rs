//! `Db` over a primary and a replica: where calls go, what sessions see, what a failover does to transactions.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_stack::{CausalToken, Db, DbBuilder, Error, config::DbConfig};
use db_testkit::Postgres;
use sqlx::Row;
use std::time::Duration;
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

#[tokio::test]
async fn kept_answers_come_from_the_primary_and_honour_tokens() {
    let (primary, replica) = servers().await;
    let config = |config: &mut DbConfig| config.cache.mode = db_stack::Mode::Enforce;
    let db = builder(&primary, &replica).configure(config).connect().await.unwrap();
    let other = builder(&primary, &replica).configure(config).connect().await.unwrap();
    let cached = |db: &Db| db.cached(Duration::from_secs(60));
    let n = || sqlx::query_scalar::<_, i32>("SELECT n FROM t WHERE id = 1");
    replica.pause_replay().await.unwrap();
    assert_eq!(*cached(&db).fetch_one(n()).await.unwrap(), 0);
    // The write drops the answer; the replica would still give the old one.
    write(&db, 1).await.unwrap();
    assert_eq!(*cached(&db).fetch_one(n()).await.unwrap(), 1);
    // Another process has written since: whoever knows of it is not content with the answer that is kept.
    let session = other.session();
    write(&session, 2).await.unwrap();
    let token = session.token().await.unwrap().unwrap();
    assert_eq!(
        *cached(&db).fetch_one(n()).await.unwrap(),
        1,
        "nobody has told this process"
    );
    assert_eq!(*cached(&db.session_from(token)).fetch_one(n()).await.unwrap(), 2);
    assert_eq!(*cached(&session).fetch_one(n()).await.unwrap(), 2);
}
