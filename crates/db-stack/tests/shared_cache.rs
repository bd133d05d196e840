//! Answers that several caches share over a Redis, and what that Redis may do to them: nothing but be of no use.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Admin, Rig, SOON, rig, until};
use db_stack::{Answer, Db, Freshness, RedisTier, TierSharing, TierStats};
use db_testkit::Redis;
use std::{
    sync::atomic::{AtomicI32, Ordering},
    time::{Duration, Instant},
};

const TTL: Duration = Duration::from_secs(600);
const SECRET: &[u8] = b"a secret of the tests' own";

/// A database with a watched table `t (n)` of one row, and a Redis; `None` where there is no Redis to be had.
async fn stage() -> Option<(Rig, Redis, Admin)> {
    if Redis::program().is_none() {
        db_testkit::skip("the cache's shared tier", "no redis-server");
        return None;
    }
    let (rig, redis) = (rig().await.with_table().await, Redis::start().await.unwrap());
    let mut admin = rig.admin().await;
    admin.run("INSERT INTO t VALUES (1)").await;
    let db = rig.db(2);
    db.cache().install().await.unwrap();
    db.cache().watch("t").await.unwrap();
    db.close().await;
    Some((rig, redis, admin))
}

/// One that shares, as a process of its own would.
fn sharing(rig: &Rig, redis: &Redis) -> Db {
    let tier = RedisTier::new(&redis.url()).unwrap();
    let sharing = TierSharing::new(tier, SECRET).unwrap();
    rig.builder(4)
        .configure(|config| config.cache.heartbeat = Duration::from_millis(300))
        .share_cache(sharing)
        .build()
        .unwrap()
}

async fn joined(db: &Db) {
    assert!(db.cache().ready(SOON).await);
    until("it shares", async || tier(db).joined).await;
}

/// Without names of its own the catalogue's view of the session has to be the same.
fn tier(db: &Db) -> TierStats {
    db.cache().stats().tier.unwrap()
}

async fn read(db: &Db) -> Answer<i32> {
    ask(db, 0).await
}

/// The number, by one of many questions.
async fn ask(db: &Db, below: i32) -> Answer<i32> {
    let n = sqlx::query_scalar::<_, i32>("SELECT n FROM t WHERE n > $1").bind(below);
    db.cached(TTL).shared("n").answer_optional(n).await.unwrap().unwrap()
}

/// A question that nobody has asked before.
fn new_question() -> i32 {
    static NEXT: AtomicI32 = AtomicI32::new(-1);
    NEXT.fetch_sub(1, Ordering::Relaxed)
}

/// Asks until `reader` has the answer by what `filler` has read.
async fn until_shared(reader: &Db, filler: &Db) -> i32 {
    let before = tier(reader).hits;
    let began = Instant::now();
    loop {
        let question = new_question();
        let puts = tier(filler).puts;
        ask(filler, question).await;
        let asked = Instant::now();
        while tier(filler).puts == puts && asked.elapsed() < Duration::from_millis(200) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let answer = ask(reader, question).await;
        if tier(reader).hits > before {
            return *answer;
        }
        assert!(began.elapsed() < SOON, "{:?} {:?}", tier(reader), tier(filler));
    }
}

#[tokio::test]
async fn what_one_has_read_another_need_not() {
    let Some((rig, redis, _admin)) = stage().await else {
        return;
    };
    let (a, b) = (sharing(&rig, &redis), sharing(&rig, &redis));
    joined(&a).await;
    joined(&b).await;
    let first = read(&a).await;
    assert_eq!((*first, first.freshness()), (1, Freshness::Read));
    until("it has been put there", async || tier(&a).puts > 0).await;
    let second = read(&b).await;
    assert_eq!((*second, second.freshness()), (1, Freshness::Shared));
    assert!(second.age() < SOON);
    let third = read(&b).await;
    assert_eq!((*third, third.freshness()), (1, Freshness::Fresh));
    let stats = b.cache().stats();
    assert_eq!((stats.total.misses, stats.total.shared, stats.total.hits), (0, 1, 1));
    // One that comes later finds its place by what the others tell it.
    let c = sharing(&rig, &redis);
    joined(&c).await;
    let fourth = read(&c).await;
    assert_eq!(fourth.freshness(), Freshness::Shared, "{:?}", tier(&c));
}

#[tokio::test]
async fn no_answer_is_older_than_what_its_reader_knows() {
    let Some((rig, redis, mut admin)) = stage().await else {
        return;
    };
    let all = [sharing(&rig, &redis), sharing(&rig, &redis), sharing(&rig, &redis)];
    for db in &all {
        joined(db).await;
    }
    let mut n = 1;
    for round in 0..120 {
        let writer = &all[round % 3];
        n += 1;
        if round % 4 == 3 {
            // Somebody who knows of no cache: it is heard of soon.
            admin.run(&format!("UPDATE t SET n = {n}")).await;
            for db in &all {
                let began = Instant::now();
                while *read(db).await != n {
                    assert!(began.elapsed() < SOON, "still {} for {n}", *read(db).await);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        } else {
            sqlx::query("UPDATE t SET n = $1")
                .bind(n)
                .execute(writer)
                .await
                .unwrap();
            assert_eq!(*read(writer).await, n, "its own write, at once");
            // The others may still have the one before; never one from before that.
            for db in &all {
                let seen = *read(db).await;
                assert!(seen == n || seen == n - 1, "{seen} for {n}");
            }
            until_all_see(&all, n).await;
        }
    }
    let hits: u64 = all.iter().map(|db| tier(db).hits).sum();
    assert!(hits > 20, "{:?}", all.each_ref().map(tier));
}

async fn until_all_see(all: &[Db], n: i32) {
    let began = Instant::now();
    for db in all {
        while *read(db).await != n {
            assert!(began.elapsed() < SOON);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The keys of answers in the store.
async fn keys(redis: &Redis) -> Vec<String> {
    let answer = redis
        .ask(&[b"KEYS", b"db_cache:????????????????????????????????"])
        .await
        .unwrap();
    let text = String::from_utf8(answer).unwrap();
    text.lines()
        .filter(|line| line.starts_with("db_cache:"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn an_old_answer_in_a_new_ones_place_is_refused() {
    let Some((rig, redis, mut admin)) = stage().await else {
        return;
    };
    let (a, b) = (sharing(&rig, &redis), sharing(&rig, &redis));
    joined(&a).await;
    joined(&b).await;
    assert_eq!(*read(&a).await, 1);
    until("it has been put there", async || tier(&a).puts == 1).await;
    let old = keys(&redis).await;
    assert_eq!(old.len(), 1);
    admin.run("UPDATE t SET n = 2").await;
    until_all_see(std::slice::from_ref(&a), 2).await;
    until("it has been put there", async || tier(&a).puts >= 2).await;
    let new = keys(&redis).await.into_iter().filter(|key| *key != old[0]);
    for key in new {
        let copied = redis
            .ask(&[b"COPY", old[0].as_bytes(), key.as_bytes(), b"REPLACE"])
            .await
            .unwrap();
        assert_eq!(copied, b":1\r\n");
    }
    // It is no answer to this question, whatever it is called.
    assert_eq!(*read(&b).await, 2);
    assert!(tier(&b).refused > 0, "{:?}", tier(&b));
    assert_eq!(tier(&b).hits, 0);
}

#[tokio::test]
async fn another_shape_or_name_is_another_answer() {
    let Some((rig, redis, _admin)) = stage().await else {
        return;
    };
    let (a, b) = (sharing(&rig, &redis), sharing(&rig, &redis));
    joined(&a).await;
    joined(&b).await;
    read(&a).await;
    until("it has been put there", async || tier(&a).puts > 0).await;
    // The same name for another type: what lies there can't be read as one.
    let text = || sqlx::query_scalar::<_, String>("SELECT n::text FROM t WHERE n > $1").bind(0);
    let number = || sqlx::query_scalar::<_, i32>("SELECT n FROM t WHERE n > $1").bind(0);
    let pair = sqlx::query_as::<_, (i32,)>("SELECT n FROM t WHERE n > $1").bind(0);
    assert_eq!(*b.cached(TTL).shared("n").fetch_one(pair).await.unwrap(), (1,));
    assert!(tier(&b).refused > 0, "{:?}", tier(&b));
    assert_eq!(*b.cached(TTL).shared("n").fetch_one(text()).await.unwrap(), "1");
    let hits = tier(&b).hits;
    assert_eq!(*b.cached(TTL).shared("other").fetch_one(number()).await.unwrap(), 1);
    assert_eq!(tier(&b).hits, hits, "another name");
}

#[tokio::test]
async fn what_others_may_write_unheard_is_not_shared() {
    let Some((rig, redis, mut admin)) = stage().await else {
        return;
    };
    admin.run("CREATE TABLE u (n int); INSERT INTO u VALUES (1)").await;
    let a = sharing(&rig, &redis);
    joined(&a).await;
    let unwatched = sqlx::query_scalar::<_, i32>("SELECT n FROM u");
    a.cached(TTL).shared("u").fetch_one(unwatched).await.unwrap();
    let tagged = sqlx::query_scalar::<_, i32>("SELECT n FROM t");
    a.cached(TTL).tag("x").shared("t").fetch_one(tagged).await.unwrap();
    let shared = sqlx::query_scalar::<_, i32>("SELECT n + 1 FROM t");
    a.cached(TTL).shared("t").fetch_one(shared).await.unwrap();
    until("the third has been put there", async || tier(&a).puts > 0).await;
    assert_eq!(keys(&redis).await.len(), 1);
}

#[tokio::test]
async fn a_store_that_hangs_costs_little_and_is_used_again() {
    let Some((rig, redis, _admin)) = stage().await else {
        return;
    };
    let (a, b) = (sharing(&rig, &redis), sharing(&rig, &redis));
    joined(&a).await;
    joined(&b).await;
    assert_eq!(until_shared(&b, &a).await, 1);
    redis.freeze().unwrap();
    let began = Instant::now();
    for _ in 0..50 {
        assert_eq!(*ask(&a, new_question()).await, 1);
    }
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    assert!(tier(&a).away, "{:?}", tier(&a));
    redis.thaw().unwrap();
    assert_eq!(until_shared(&b, &a).await, 1);
}

#[tokio::test]
async fn a_store_that_was_lost_begins_anew() {
    let Some((rig, mut redis, mut admin)) = stage().await else {
        return;
    };
    let (a, b) = (sharing(&rig, &redis), sharing(&rig, &redis));
    joined(&a).await;
    joined(&b).await;
    assert_eq!(until_shared(&b, &a).await, 1);
    redis.kill().await.unwrap();
    admin.run("UPDATE t SET n = 2").await;
    let both = [a, b];
    until_all_see(&both, 2).await;
    // One that comes while it is away has a cache of its own, and finds the others once it is back.
    let c = sharing(&rig, &redis);
    assert!(c.cache().ready(SOON).await);
    assert_eq!(*read(&c).await, 2);
    redis.start_again().await.unwrap();
    admin.run("UPDATE t SET n = 3").await;
    until_all_see(&both, 3).await;
    assert_eq!(until_shared(&both[1], &both[0]).await, 3);
    until("the newcomer shares as well", async || tier(&c).joined).await;
    assert_eq!(until_shared(&c, &both[0]).await, 3);
}

#[tokio::test]
async fn those_who_come_together_share() {
    let Some((rig, redis, _admin)) = stage().await else {
        return;
    };
    let all: Vec<Db> = (0..4).map(|_| sharing(&rig, &redis)).collect();
    futures::future::join_all(all.iter().map(joined)).await;
    for db in &all[1..] {
        assert_eq!(until_shared(db, &all[0]).await, 1);
    }
}

#[tokio::test]
async fn a_listener_that_was_cut_off_shares_again() {
    let Some((rig, redis, mut admin)) = stage().await else {
        return;
    };
    let (a, b) = (sharing(&rig, &redis), sharing(&rig, &redis));
    joined(&a).await;
    joined(&b).await;
    assert_eq!(until_shared(&b, &a).await, 1);
    admin
        .run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
             AND pid <> pg_backend_pid() AND (query LIKE 'LISTEN%' OR query = 'SELECT pg_backend_pid()')",
        )
        .await;
    admin.run("UPDATE t SET n = 5").await;
    until("they listen again", async || tier(&a).joined && tier(&b).joined).await;
    let both = [a, b];
    until_all_see(&both, 5).await;
    assert_eq!(until_shared(&both[1], &both[0]).await, 5);
}
