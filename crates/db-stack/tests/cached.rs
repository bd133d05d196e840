//! Answers from the cache, on a real server.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Rig, rig, until};
use db_stack::{Db, Freshness};
use sqlx::{Row, postgres::PgRow};
use std::{sync::Arc, time::Duration};

const TTL: Duration = Duration::from_secs(600);

async fn ready(rig: &Rig) -> Db {
    let db = rig.db(4);
    assert!(db.cache().ready(common::SOON).await);
    db
}

async fn number(db: &Db) -> i64 {
    let sum = sqlx::query_scalar("SELECT coalesce(sum(n), 0) FROM t");
    *db.cached(TTL).fetch_one(sum).await.unwrap()
}

fn hits(db: &Db) -> u64 {
    db.cache().stats().total.hits
}

#[tokio::test]
async fn every_kind_of_query_is_answered_from_memory() {
    let rig = rig().await.with_table().await;
    let db = ready(&rig).await;
    sqlx::query("INSERT INTO t VALUES (1), (2)").execute(&db).await.unwrap();
    for round in 0..2 {
        let cached = db.cached(TTL);
        let rows = cached
            .fetch_all(sqlx::query("SELECT n FROM t WHERE n < $1 ORDER BY n").bind(9))
            .await
            .unwrap();
        assert_eq!(rows.iter().map(|row| row.get::<i32, _>(0)).collect::<Vec<_>>(), [1, 2]);
        let pairs = sqlx::query_as::<_, (i32, i32)>("SELECT n, n + 1 FROM t ORDER BY n");
        assert_eq!(*cached.fetch_all(pairs).await.unwrap(), [(1, 2), (2, 3)]);
        let one = sqlx::query_scalar::<_, i32>("SELECT n FROM t WHERE n = $1").bind(2);
        assert_eq!(*cached.fetch_one(one).await.unwrap(), 2);
        let first = sqlx::query("SELECT n, n * 10 FROM t WHERE n = 2").try_map(|row: PgRow| row.try_get::<i32, _>(0));
        assert_eq!(*cached.fetch_one(first).await.unwrap(), 2);
        // The same text under another mapper is another answer.
        let second = sqlx::query("SELECT n, n * 10 FROM t WHERE n = 2").try_map(|row: PgRow| row.try_get::<i32, _>(1));
        assert_eq!(*cached.fetch_all(second).await.unwrap(), [20]);
        let none = sqlx::query_scalar::<_, i32>("SELECT n FROM t WHERE n = 77");
        assert!(cached.fetch_optional(none).await.unwrap().is_none());
        let missing = cached
            .fetch_one(sqlx::query_scalar::<_, i32>("SELECT n FROM t WHERE n = 77"))
            .await;
        assert!(matches!(
            missing,
            Err(db_stack::Error::Client(sqlx::Error::RowNotFound))
        ));
        assert_eq!(hits(&db), [1, 8][round]);
    }
    // A mapper with a state of its own is run each time.
    for state in [1, 2] {
        let mapped = sqlx::query("SELECT n FROM t WHERE n = 1").map(move |row: PgRow| row.get::<i32, _>(0) + state);
        assert_eq!(*db.cached(TTL).fetch_one(mapped).await.unwrap(), 1 + state);
    }
    assert_eq!(hits(&db), 8);
}

#[tokio::test]
async fn own_writes_are_seen_at_once_whichever_way_they_go() {
    let rig = rig().await.with_table().await;
    let db = ready(&rig).await;
    let mut sum = 0;
    for round in 1..=3 {
        assert_eq!((number(&db).await, number(&db).await), (sum, sum));
        sqlx::query("INSERT INTO t VALUES ($1)")
            .bind(round)
            .execute(&db)
            .await
            .unwrap();
        sum += i64::from(round);
        assert_eq!((number(&db).await, number(&db).await), (sum, sum));

        let mut tx = db.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES ($1)")
            .bind(round)
            .execute(&mut *tx)
            .await
            .unwrap();
        assert_eq!(number(&db).await, sum, "not committed yet");
        tx.commit().await.unwrap();
        sum += i64::from(round);
        assert_eq!(number(&db).await, sum);

        let mut tx = db.begin().await.unwrap();
        let raw: &mut sqlx::PgConnection = &mut tx;
        sqlx::query("INSERT INTO t VALUES ($1)")
            .bind(round)
            .execute(raw)
            .await
            .unwrap();
        assert_eq!(number(&db).await, sum);
        tx.commit().await.unwrap();
        sum += i64::from(round);
        assert_eq!(number(&db).await, sum);

        let mut lease = db.acquire().await.unwrap();
        assert_eq!(number(&db).await, sum);
        sqlx::query("INSERT INTO t VALUES ($1)")
            .bind(round)
            .execute(&mut *lease)
            .await
            .unwrap();
        sum += i64::from(round);
        assert_eq!(number(&db).await, sum, "the lease is still out");
        drop(lease);

        let mut copy = db.copy_in_raw("COPY t FROM STDIN").await.unwrap();
        assert_eq!(number(&db).await, sum);
        copy.send(format!("{round}\n").into_bytes()).await.unwrap();
        copy.finish().await.unwrap();
        sum += i64::from(round);
        assert_eq!(number(&db).await, sum, "COPY");

        let mut sqlx_tx = sqlx::Acquire::begin(&db).await.unwrap();
        sqlx::query("INSERT INTO t VALUES ($1)")
            .bind(round)
            .execute(&mut *sqlx_tx)
            .await
            .unwrap();
        assert_eq!(number(&db).await, sum);
        sqlx_tx.commit().await.unwrap();
        sum += i64::from(round);
        assert_eq!(number(&db).await, sum, "a transaction of sqlx's own");
        let returned: Vec<i32> = sqlx::query_scalar("UPDATE t SET n = n + 0 RETURNING n")
            .fetch_all(&db)
            .await
            .unwrap();
        assert!(!returned.is_empty());
        assert_eq!(number(&db).await, sum);
        // All of them give their connections back.
        until("answers are kept again", async || {
            let before = hits(&db);
            assert_eq!(number(&db).await, sum);
            hits(&db) > before
        })
        .await;
    }
}

#[tokio::test]
async fn cascades_views_functions_partitions_and_triggers_are_followed() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    admin
        .run(
            "CREATE TABLE parents (id int PRIMARY KEY); \
             CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE CASCADE); \
             CREATE TABLE other (n int); CREATE TABLE log (n int); \
             CREATE VIEW grown AS SELECT c.id FROM children AS c; \
             CREATE VIEW twice AS SELECT count(*) AS n FROM grown; \
             CREATE FUNCTION family() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM children'; \
             CREATE FUNCTION opaque() RETURNS bigint LANGUAGE plpgsql STABLE AS 'BEGIN RETURN (SELECT count(*) FROM children); END'; \
             CREATE TABLE parts (k int, n int) PARTITION BY LIST (k); \
             CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1); \
             CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2); \
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (1); RETURN NULL; END'; \
             CREATE TRIGGER noted AFTER INSERT ON other FOR EACH STATEMENT EXECUTE FUNCTION note()",
        )
        .await;
    let db = ready(&rig).await;
    let count = async |sql: &'static str| {
        *db.cached(TTL)
            .fetch_one(sqlx::query_scalar::<_, i64>(sql))
            .await
            .unwrap()
    };
    let run = async |sql: &'static str| sqlx::query(sql).execute(&db).await.unwrap().rows_affected();
    run("INSERT INTO parents VALUES (1), (2)").await;
    run("INSERT INTO children VALUES (1, 1), (2, 2)").await;
    for (sql, before, write, after) in [
        (
            "SELECT count(*) FROM children",
            2,
            "DELETE FROM parents WHERE id = 1",
            1,
        ),
        ("SELECT n FROM twice", 1, "INSERT INTO children VALUES (3, 2)", 2),
        ("SELECT family()", 2, "INSERT INTO children VALUES (4, 2)", 3),
        ("SELECT count(*) FROM parts", 0, "INSERT INTO part_1 VALUES (1, 1)", 1),
        ("SELECT count(*) FROM part_2", 0, "INSERT INTO parts VALUES (2, 1)", 1),
        ("SELECT count(*) FROM log", 0, "INSERT INTO other VALUES (1)", 1),
        ("SELECT count(*) FROM children", 3, "DELETE FROM grown WHERE id = 4", 2),
    ] {
        let kept = hits(&db);
        assert_eq!((count(sql).await, count(sql).await), (before, before), "{sql}");
        assert_eq!(hits(&db), kept + 1, "{sql} was not kept");
        run(write).await;
        assert_eq!(count(sql).await, after, "{sql} after {write}");
    }
    let kept = hits(&db);
    let opaque = "SELECT opaque()";
    assert_eq!((count(opaque).await, count(opaque).await), (2, 2));
    assert_eq!(hits(&db), kept, "nobody can know what it reads");
    let tagged = db.cached(TTL).tag("family");
    for _ in 0..2 {
        assert_eq!(
            *tagged
                .fetch_one(sqlx::query_scalar::<_, i64>("SELECT opaque()"))
                .await
                .unwrap(),
            2
        );
    }
    assert_eq!(hits(&db), kept + 1);
    db.cache().invalidate_tag("family");
    tagged
        .fetch_one(sqlx::query_scalar::<_, i64>("SELECT opaque()"))
        .await
        .unwrap();
    assert_eq!(hits(&db), kept + 1);
}

#[tokio::test]
async fn what_depends_on_more_than_tables_is_not_kept() {
    let rig = rig().await.with_table().await;
    let db = ready(&rig).await;
    for sql in [
        "SELECT count(*) FROM t WHERE random() > 2",
        "SELECT count(*) FROM t WHERE now() > '2000-01-01'",
        "SELECT count(*) FROM t WHERE current_user = 'x'",
        "SELECT count(*) FROM (SELECT 1 FROM t FOR UPDATE) AS x",
        "SELECT count(*) FROM pg_class",
        "SELECT nextval(pg_get_serial_sequence('s', 'id'))",
    ] {
        if sql.contains("nextval") {
            rig.admin().await.run("CREATE TABLE s (id serial)").await;
        }
        for _ in 0..2 {
            db.cached(TTL)
                .fetch_one(sqlx::query_scalar::<_, i64>(sql))
                .await
                .unwrap();
        }
    }
    let stats = db.cache().stats();
    assert_eq!((stats.total.hits, stats.total.misses), (0, 0), "{stats:?}");
}

#[tokio::test]
async fn other_writers_are_heard_of_and_a_gap_drops_everything() {
    let rig = rig().await.with_table().await;
    let mut admin = rig.admin().await;
    let db = ready(&rig).await;
    db.cache().install().await.unwrap();
    assert_eq!(db.cache().watch("t").await.unwrap(), 1);
    until("the schema is known again", async || {
        db.cache().watched() == ["public.t"]
    })
    .await;
    until("it is kept", async || {
        let before = hits(&db);
        assert_eq!(number(&db).await, 0);
        hits(&db) > before
    })
    .await;
    admin.run("INSERT INTO t VALUES (5)").await;
    until("the write is heard of", async || number(&db).await == 5).await;
    number(&db).await;
    // Everything that was written while nobody listened is seen once somebody does.
    admin.terminate_all().await;
    admin
        .run("SET session_replication_role = replica; ALTER TABLE t DISABLE TRIGGER ALL; INSERT INTO t VALUES (7)")
        .await;
    until("it listens again", async || db.cache().stats().listening == Some(true)).await;
    assert_eq!(number(&db).await, 12);
}

#[tokio::test]
async fn many_callers_of_one_cold_key_make_one_query() {
    let rig = rig().await.with_table().await;
    let db = ready(&rig).await;
    let slow = "SELECT count(*) FROM t, generate_series(1, 300000) AS g WHERE g > 0";
    let asked = (0..64).map(|_| {
        let db = db.clone();
        tokio::spawn(async move {
            db.cached(TTL)
                .answer_one(sqlx::query_scalar::<_, i64>(slow))
                .await
                .unwrap()
        })
    });
    let mut read = 0;
    for answer in asked.collect::<Vec<_>>() {
        let answer = answer.await.unwrap();
        assert_eq!(*answer, 0);
        read += u32::from(answer.freshness() == Freshness::Read);
    }
    assert_eq!(read, 1);
    let same = sqlx::query_scalar::<_, i64>(slow);
    let a = db.cached(TTL).fetch_one(same).await.unwrap();
    let b = db
        .cached(TTL)
        .fetch_one(sqlx::query_scalar::<_, i64>(slow))
        .await
        .unwrap();
    assert!(Arc::ptr_eq(&a, &b), "shared, not copied");
}

/// Waiting for another caller's read and reading oneself are one call, with one limit.
#[tokio::test]
async fn who_has_waited_for_another_has_less_time_to_read() {
    let rig = rig().await.with_table().await;
    let db = ready(&rig).await;
    let mut admin = rig.admin().await;
    admin.run("BEGIN; LOCK TABLE t").await;
    let ask = async |limit: u64| {
        let since = std::time::Instant::now();
        let sum = sqlx::query_scalar::<_, i64>("SELECT coalesce(sum(n), 0) FROM t");
        let limited = db.timeout(Duration::from_millis(limit)).cached(TTL);
        let out = limited.fetch_one(sum).await;
        assert!(matches!(out, Err(db_stack::Error::Timeout(_))), "{out:?}");
        since.elapsed()
    };
    let later = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        ask(1500).await
    };
    let (_, waited) = tokio::join!(ask(1000), later);
    assert!(waited < Duration::from_millis(2000), "{waited:?}");
    admin.run("ROLLBACK").await;
    assert_eq!(number(&db).await, 0);
}
