//! What an answer from the cache may be: how old, for whom, and where it is counted.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Admin, Rig, SOON, rig, until};
use db_stack::{CacheCalls, Db, Error, Freshness, QueryClass, StatementFacts};
use std::time::Duration;
use tokio::time::sleep;

const TTL: Duration = Duration::from_secs(600);
const MS: Duration = Duration::from_millis(1);

async fn ready(rig: &Rig) -> Db {
    let db = rig.db(4);
    assert!(db.cache().ready(SOON).await);
    db
}

fn calls(db: &Db, sql: &str) -> CacheCalls {
    let statement = StatementFacts::of(sql).fingerprint();
    let stats = db.cache().stats();
    let found = stats.statements.iter().find(|(known, _)| *known == statement);
    found.map(|(_, calls)| *calls).unwrap_or_default()
}

/// Around the stack, unheard: what is in memory stays.
async fn set(admin: &mut Admin, n: i32) {
    admin.run(&format!("DELETE FROM t; INSERT INTO t VALUES ({n})")).await;
}

#[derive(Debug, PartialEq)]
struct Pair {
    n: i32,
    next: i32,
}

#[tokio::test]
async fn queries_of_the_macros_are_answered_from_memory() {
    let rig = rig().await.with_table().await;
    let db = ready(&rig).await;
    sqlx::query("INSERT INTO t VALUES (1), (2)").execute(&db).await.unwrap();
    let cached = db.cached(TTL);
    for round in 0..2 {
        let one = cached
            .fetch_one(sqlx::query!("SELECT n FROM t WHERE n = $1", 2))
            .await
            .unwrap();
        assert_eq!(one.n, Some(2));
        let scalar = cached
            .fetch_one(sqlx::query_scalar!("SELECT n FROM t WHERE n = $1", 1))
            .await
            .unwrap();
        assert_eq!(*scalar, Some(1));
        let pairs = sqlx::query_as!(
            Pair,
            "SELECT n AS \"n!\", n + 1 AS \"next!\" FROM t WHERE n > $1 ORDER BY n",
            0
        );
        let pairs = cached.fetch_all(pairs).await.unwrap();
        assert_eq!(*pairs, [Pair { n: 1, next: 2 }, Pair { n: 2, next: 3 }]);
        assert_eq!(db.cache().stats().total.hits, [0, 3][round]);
    }
    // Another argument is another answer, and a write is seen by these, too.
    let none = sqlx::query_scalar!("SELECT n FROM t WHERE n = $1", 7);
    assert!(cached.fetch_optional(none).await.unwrap().is_none());
    sqlx::query("INSERT INTO t VALUES (7)").execute(&db).await.unwrap();
    let seven = sqlx::query_scalar!("SELECT n FROM t WHERE n = $1", 7);
    assert_eq!(*cached.fetch_one(seven).await.unwrap(), Some(7));
}

#[tokio::test]
async fn no_such_row_is_believed_for_a_time_of_its_own() {
    const BELIEVED: Duration = Duration::from_secs(2);
    let rig = rig().await.with_table().await;
    let mut admin = rig.admin().await;
    let db = ready(&rig).await;
    let seven = || sqlx::query_scalar::<_, i32>("SELECT n FROM t WHERE n = 7");
    let all = || sqlx::query_scalar::<_, i32>("SELECT n FROM t");
    let cached = db.cached(TTL).negative_ttl(BELIEVED);
    assert!(cached.fetch_optional(seven()).await.unwrap().is_none());
    assert!(cached.fetch_all(all()).await.unwrap().is_empty());
    set(&mut admin, 7).await;
    assert!(
        cached.fetch_optional(seven()).await.unwrap().is_none(),
        "still believed"
    );
    assert!(matches!(
        cached.fetch_one(seven()).await,
        Err(Error::Client(sqlx::Error::RowNotFound))
    ));
    sleep(BELIEVED).await;
    assert_eq!(*cached.fetch_one(seven()).await.unwrap(), 7);
    assert_eq!(
        *cached.fetch_all(all()).await.unwrap(),
        [7],
        "no rows are no answer for long either"
    );
    // A row is believed for the whole time.
    set(&mut admin, 8).await;
    sleep(BELIEVED).await;
    assert_eq!(*cached.fetch_one(seven()).await.unwrap(), 7);
}

#[tokio::test]
async fn an_old_answer_is_given_while_it_is_read_again() {
    let rig = rig().await.with_table().await;
    let mut admin = rig.admin().await;
    let db = ready(&rig).await;
    let n = || sqlx::query_scalar::<_, i32>("SELECT n FROM t");
    set(&mut admin, 1).await;
    let cached = db.cached(100 * MS).stale_while_revalidate(TTL);
    assert_eq!(*cached.fetch_one(n()).await.unwrap(), 1);
    set(&mut admin, 2).await;
    sleep(150 * MS).await;
    let old = cached.answer_one(n()).await.unwrap();
    assert_eq!((*old, old.freshness()), (1, Freshness::Revalidating));
    assert!(old.age() >= 100 * MS, "{:?}", old.age());
    until("it has been read again", async || {
        *cached.fetch_one(n()).await.unwrap() == 2
    })
    .await;
    // Without it the caller waits for what is true.
    set(&mut admin, 3).await;
    sleep(150 * MS).await;
    let strict = db.cached(100 * MS);
    assert_eq!(*strict.fetch_one(n()).await.unwrap(), 3);
    assert!(calls(&db, "SELECT n FROM t").stale >= 1);
}

#[tokio::test]
async fn an_answer_tells_its_age_and_how_it_came_about() {
    let rig = rig().await.with_table().await;
    let db = ready(&rig).await;
    let count = || sqlx::query_scalar::<_, i64>("SELECT count(*) FROM t");
    let cached = db.cached(TTL);
    let read = cached.answer_one(count()).await.unwrap();
    assert_eq!((read.freshness(), read.age()), (Freshness::Read, Duration::ZERO));
    sleep(50 * MS).await;
    let kept = cached.answer_one(count()).await.unwrap();
    assert_eq!(kept.freshness(), Freshness::Fresh);
    assert!(kept.age() >= 50 * MS && kept.age() < SOON, "{:?}", kept.age());
    // Younger than that is asked for: it is read again.
    sleep(50 * MS).await;
    let young = db.cached(40 * MS).answer_one(count()).await.unwrap();
    assert_eq!(young.freshness(), Freshness::Read);
}

#[tokio::test]
async fn a_policy_decides_by_statement_and_by_class() {
    let rig = rig().await.with_table().await;
    let db = rig
        .builder(4)
        .configure(|config| config.timeout.fast.cache_ttl = Some(TTL))
        .build()
        .unwrap();
    assert!(db.cache().ready(SOON).await);
    let ask = async |db: &Db, n: i32| {
        let query = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM t WHERE n = $1").bind(n);
        db.cached_by_policy().answer_one(query).await.unwrap().freshness()
    };
    for _ in 0..2 {
        assert_eq!(ask(&db, 1).await, Freshness::Read, "the class has none");
    }
    let fast = db.class(QueryClass::Fast);
    assert_eq!(ask(&fast, 1).await, Freshness::Read);
    assert_eq!(ask(&fast, 1).await, Freshness::Fresh);
    // By statement: whatever its white space is.
    db.cache().set_policy("SELECT  count(*) FROM t WHERE n = $1", TTL);
    assert_eq!(ask(&db, 2).await, Freshness::Read);
    assert_eq!(ask(&db, 2).await, Freshness::Fresh);
    db.cache().set_policy("SELECT count(*) FROM t WHERE n = $1", MS);
    sleep(10 * MS).await;
    assert_eq!(ask(&db, 2).await, Freshness::Read, "its own time is over");
    db.cache().set_policy("SELECT count(*) FROM t WHERE n = $1", None);
    for _ in 0..2 {
        assert_eq!(ask(&db, 3).await, Freshness::Read);
    }
}

#[tokio::test]
async fn hits_are_counted_by_statement() {
    let rig = rig().await.with_table().await;
    let db = ready(&rig).await;
    let cached = db.cached(TTL);
    for n in [1, 2, 1, 2, 1] {
        let query = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM t WHERE n = $1").bind(n);
        cached.fetch_one(query).await.unwrap();
    }
    let other = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM t");
    cached.fetch_one(other).await.unwrap();
    let one = calls(&db, "SELECT count(*) FROM t WHERE n = $1");
    assert_eq!((one.hits, one.misses, one.fills), (3, 2, 2));
    assert!((one.hit_rate() - 0.6).abs() < 1e-9);
    assert!(one.fill_time > Duration::ZERO);
    let other = calls(&db, "SELECT count(*) FROM t");
    assert_eq!((other.hits, other.misses), (0, 1));
    let total = db.cache().stats().total;
    assert_eq!((total.hits, total.misses), (3, 3));
}
