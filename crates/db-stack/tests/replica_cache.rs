//! Answers in memory that were read on replicas: never from one that had not replayed what was known to be written, and
//! never for a caller who has seen more.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_stack::{CausalToken, Db, DbBuilder, Error, Event, Freshness, Mode, Observer};
use db_testkit::Postgres;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};

const SOON: Duration = Duration::from_secs(20);
const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(3600);

async fn servers() -> (Postgres, Postgres) {
    let primary = Postgres::start().await.unwrap();
    let mut admin = primary.admin().await.unwrap();
    sqlx::raw_sql(
        "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 0); CREATE TABLE other (n int); \
         INSERT INTO other VALUES (0)",
    )
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
        config.cache.heartbeat = 100 * MS;
    })
}

async fn connect(builder: DbBuilder) -> Db {
    let db = builder.connect().await.unwrap();
    assert!(db.nodes_ready(SOON).await && db.cache().ready(SOON).await);
    db
}

async fn write(db: &Db, n: i32) {
    sqlx::query("UPDATE t SET n = $1").bind(n).execute(db).await.unwrap();
}

async fn answer(db: &Db) -> Result<(i32, Freshness), Error> {
    let query = sqlx::query_scalar::<_, i32>("SELECT n FROM t WHERE id = 1");
    let answer = db.cached(LONG).answer_one(query).await?;
    Ok((*answer, answer.freshness()))
}

async fn kept(db: &Db) -> i32 {
    answer(db).await.unwrap().0
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done().await {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        sleep(5 * MS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_fill_the_cache_once_they_have_what_was_written() {
    let (primary, replica) = servers().await;
    let db = connect(builder(&primary, &replica)).await;
    assert_eq!(kept(&db).await, 0);
    until("a replica fills the cache", async || {
        db.cache().invalidate_all();
        assert_eq!(kept(&db).await, 0);
        db.replicas().replica_reads > 0
    })
    .await;

    replica.pause_replay().await.unwrap();
    for n in 1..=3 {
        write(&db, n).await;
        let before = db.replicas();
        assert_eq!(kept(&db).await, n, "the replica has not replayed it");
        let after = db.replicas();
        assert_eq!(after.replica_reads, before.replica_reads, "{after:?}");
        assert_eq!(answer(&db).await.unwrap(), (n, Freshness::Fresh));
    }
    replica.resume_replay().await.unwrap();
    let before = db.replicas().replica_reads;
    let mut n = 3;
    until("the replica fills again", async || {
        n += 1;
        write(&db, n).await;
        assert_eq!(kept(&db).await, n);
        db.replicas().replica_reads > before
    })
    .await;
    // For whoever asks for the primary it is read there.
    let before = db.replicas().replica_reads;
    for _ in 0..5 {
        db.cache().invalidate_all();
        assert_eq!(kept(&db.primary()).await, n);
    }
    assert_eq!(db.replicas().replica_reads, before);
    db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_older_than_the_token_is_read_again() {
    let (primary, replica) = servers().await;
    let db = connect(builder(&primary, &replica)).await;
    let other = connect(builder(&primary, &replica)).await;
    assert_eq!(kept(&db).await, 0);
    assert_eq!(answer(&db).await.unwrap(), (0, Freshness::Fresh));

    // Nobody watches the table: this process is not told of the other one's write.
    let elsewhere = other.session();
    write(&elsewhere, 1).await;
    let token = elsewhere.token().await.unwrap().unwrap();
    assert_eq!(
        answer(&db).await.unwrap(),
        (0, Freshness::Fresh),
        "who knows nothing is content"
    );
    let session = db.session_from(token);
    assert_eq!(answer(&session).await.unwrap(), (1, Freshness::Read));
    assert_eq!(
        answer(&session).await.unwrap(),
        (1, Freshness::Fresh),
        "now it is new enough"
    );
    assert_eq!(answer(&db).await.unwrap(), (1, Freshness::Fresh), "for everybody");

    // What a session did itself counts, too.
    let session = db.session();
    write(&elsewhere, 2).await;
    sqlx::query("UPDATE other SET n = 1").execute(&session).await.unwrap();
    assert_eq!(answer(&db).await.unwrap(), (1, Freshness::Fresh));
    assert_eq!(answer(&session).await.unwrap(), (2, Freshness::Read));

    // A token is worth what it stands for, not when it comes: once the primary is known to be beyond, kept answers of
    // since then are new enough.
    let token = elsewhere.token().await.unwrap().unwrap();
    sqlx::query("UPDATE other SET n = 2").execute(&other).await.unwrap();
    until("the primary is known to be beyond the token", async || {
        sleep(120 * MS).await;
        db.cache().invalidate_all();
        kept(&db).await;
        answer(&db.session_from(token)).await.unwrap() == (2, Freshness::Fresh)
    })
    .await;

    // What can't be honoured is said, whatever is in memory.
    let foreign = CausalToken {
        system: token.system ^ 1,
        ..token
    };
    assert!(matches!(answer(&db.session_from(foreign)).await, Err(Error::Causal(_))));

    // An answer counts as seen: a read of the session's own never shows less.
    replica.pause_replay().await.unwrap();
    write(&db, 3).await;
    let session = db.session();
    assert_eq!(kept(&session).await, 3);
    let own = sqlx::query_scalar::<_, i32>("SELECT n FROM t WHERE id = 1");
    assert_eq!(own.fetch_one(&session).await.unwrap(), 3);
    replica.resume_replay().await.unwrap();
    db.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_heard_of_all_writers_serves_sessions_as_well() {
    let (primary, replica) = servers().await;
    let db = connect(builder(&primary, &replica)).await;
    db.cache().install().await.unwrap();
    db.cache().watch("t").await.unwrap();
    let other = connect(builder(&primary, &replica)).await;
    until("the table is known to be watched", async || {
        !db.cache().watched().is_empty()
    })
    .await;
    until("the answer is kept", async || {
        kept(&db).await;
        answer(&db).await.unwrap().1 == Freshness::Fresh
    })
    .await;
    // Nothing was heard of a write since the session's own: the answer is as good as one of now.
    let mut session = db.session();
    until("a proof of life that is later than the session's write", async || {
        session = db.session();
        sqlx::query("UPDATE other SET n = 1").execute(&session).await.unwrap();
        sleep(250 * MS).await;
        answer(&session).await.unwrap().1 == Freshness::Fresh
    })
    .await;
    write(&other, 5).await;
    until("the other's write is heard of", async || kept(&session).await == 5).await;
    db.close().await;
    other.close().await;
}

/// Counts how often the cache begins to listen.
#[derive(Default)]
struct Listening(AtomicU32);

impl Observer for Listening {
    fn event(&self, event: &Event) {
        if matches!(event, Event::CacheListening { live: true }) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_nothing_of_before_is_given_and_the_new_primary_is_heard() {
    let (primary, replica) = servers().await;
    let listening = Arc::new(Listening::default());
    let mode = |config: &mut db_stack::DbConfig| config.cache.mode = Mode::Enforce;
    let db = connect(builder(&primary, &replica).configure(mode).observer(listening.clone())).await;
    db.cache().install().await.unwrap();
    db.cache().watch("t").await.unwrap();
    write(&db, 1).await;
    replica.wait_caught_up(&primary, SOON).await.unwrap();
    until("the answer is kept", async || {
        kept(&db).await;
        answer(&db).await.unwrap().1 == Freshness::Fresh
    })
    .await;
    let before = listening.0.load(Ordering::SeqCst);

    // The old primary lives on, and so does the connection on which it is heard.
    replica.promote().await.unwrap();
    until("writes have moved", async || db.replicas().cluster.moves == 1).await;
    let mut admin = replica.admin().await.unwrap();
    sqlx::raw_sql("UPDATE t SET n = 7").execute(&mut admin).await.unwrap();
    until("the answers are the new primary's", async || {
        matches!(answer(&db).await, Ok((7, _)))
    })
    .await;
    until("the new primary is heard", async || {
        // The address may have been looked at once more: it is a cached query that begins to listen anew.
        let _ = answer(&db).await;
        listening.0.load(Ordering::SeqCst) > before && db.cache().stats().listening == Some(true)
    })
    .await;
    // A write of somebody else's there is heard of.
    until("the answer is kept again", async || {
        answer(&db)
            .await
            .is_ok_and(|(_, freshness)| freshness == Freshness::Fresh)
    })
    .await;
    sqlx::raw_sql("UPDATE t SET n = 8").execute(&mut admin).await.unwrap();
    until("the write is heard of", async || {
        matches!(answer(&db).await, Ok((8, _)))
    })
    .await;
    db.close().await;
}
