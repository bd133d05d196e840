//! How a database is made and what its handle is: bounds, lazy and eager connecting, sqlx's own pools and traits.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, builder, quiet, rig, until};
use db_stack::{AcquireFailure, Call, Db, Error, Events, Lease, Listener, QueryClass, Tx};
use db_testkit::FaultProxy;
use futures::TryStreamExt;
use sqlx::{Acquire, Executor, PgExecutor, Postgres, postgres::PgConnectOptions, postgres::PgPoolOptions};
use std::{error::Error as _, io, str::FromStr, time::Duration};
use tokio::time::{Instant, timeout};

fn shareable<T: Send + Sync + 'static>() {}
fn sendable<T: Send + 'static>() {}
fn sent<T: Send>(value: T) -> T {
    value
}

/// Compiles, which is the test.
#[test]
fn handles_and_futures_can_be_sent() {
    shareable::<Db>();
    shareable::<Error>();
    shareable::<Call>();
    sendable::<Lease>();
    sendable::<Tx>();
    sendable::<Events>();
    sendable::<Listener>();
    #[expect(dead_code, reason = "only its types matter")]
    async fn every_future(db: &Db) {
        drop(sent(Db::connect("")));
        drop(sent(db.acquire()));
        drop(sent(db.begin()));
        drop(sent(db.begin_with("BEGIN")));
        drop(sent(db.try_begin()));
        drop(sent(db.close()));
        drop(sent(db.listener()));
        drop(sent(db.copy_in_raw("")));
        drop(sent(sqlx::query("").execute(db)));
        drop(sent(sqlx::query("").fetch(db)));
        drop(sent(sqlx::query_as::<_, (i32,)>("").fetch_all(db)));
        drop(sent(Acquire::begin(db)));
        let mut tx = db.begin().await.unwrap();
        drop(sent(sqlx::query("").execute(&mut *tx)));
        drop(sent(tx.begin()));
        drop(sent(tx.commit()));
    }
}

async fn by_executor<'e>(executor: impl PgExecutor<'e>) -> i32 {
    sqlx::query_scalar("SELECT 1").fetch_one(executor).await.unwrap()
}

async fn by_acquire<'a, A: Acquire<'a, Database = Postgres>>(source: A) -> i32 {
    let mut conn = source.acquire().await.unwrap();
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut *conn).await.unwrap();
    let mut tx = conn.begin().await.unwrap();
    let two: i32 = sqlx::query_scalar("SELECT 2").fetch_one(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    one + two
}

async fn by_begin<'a, A: Acquire<'a, Database = Postgres>>(source: A) {
    let mut tx = source.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn generic_code_takes_it() {
    let rig = rig().await.with_table().await;
    let db = rig.db(2);
    assert_eq!(by_executor(&db).await, 1);
    assert_eq!(by_acquire(&db).await, 3);
    by_begin(&db).await;
    let mut tx = timeout(SOON, db.begin()).await.unwrap().unwrap();
    assert_eq!(by_executor(&mut *tx).await, 1);
    assert_eq!(by_acquire(&mut *tx).await, 3);
    by_begin(&mut *tx).await;
    tx.commit().await.unwrap();
    let mut lease = db.acquire().await.unwrap();
    assert_eq!(by_executor(&mut *lease).await, 1);
    assert_eq!(by_acquire(&mut *lease).await, 3);
    by_begin(&mut *lease).await;
    drop(lease);
    assert_eq!(rig.admin().await.rows().await, [1, 1, 1]);
    let stats = quiet(&db).await;
    assert!(stats.size <= 2, "{stats:?}");
    // As a trait object's owner would hold it.
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn({
                let db = db.clone();
                async move { by_executor(&db).await }
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), 1);
    }
}

#[test]
fn lazy_needs_no_runtime_and_no_server() {
    let lazy = Db::connect_lazy("postgres://me:secret@127.0.0.1:1/nowhere").unwrap();
    assert_eq!((lazy.size(), lazy.num_idle(), lazy.is_closed()), (0, 0, false));
    assert!(lazy.try_acquire().is_none());
    assert!(!format!("{lazy:?}").contains("secret"));
    let other = lazy.class(QueryClass::Slow);
    drop(lazy);
    assert!(!other.is_closed());
    assert!(matches!(
        Db::connect_lazy("not a url"),
        Err(Error::Config(_) | Error::Client(_))
    ));
}

#[tokio::test]
async fn warming_up_opens_so_many_and_tells_how_far_it_is() {
    let rig = rig().await;
    let db = rig.db(3);
    let (tell, told) = std::sync::mpsc::channel();
    let open = db
        .warm_up(3)
        .on_progress(move |open, of| tell.send((open, of)).unwrap());
    assert_eq!(open.await.unwrap(), 3);
    assert_eq!(db.size(), 3);
    let told: Vec<_> = told.iter().collect();
    assert_eq!(told.last(), Some(&(3, 3)), "{told:?}");
    assert!(told.is_sorted(), "{told:?}");
    assert_eq!(db.warm_up(100).await.unwrap(), 3, "as many as may be");
    db.close().await;
}

#[tokio::test]
async fn lazy_connects_at_the_first_call() {
    let rig = rig().await;
    let db = Db::connect_lazy(&db_testkit::pooled_url(&rig.database.url())).unwrap();
    let mut admin = rig.admin().await;
    assert_eq!(admin.sessions().await, 0);
    assert_eq!(by_executor(&db).await, 1);
    assert!(admin.sessions().await > 0);
}

#[tokio::test]
async fn connecting_to_nothing_fails_with_the_io_error() {
    let rig = rig().await;
    let proxy = FaultProxy::start_for_url(&rig.database.url()).await.unwrap();
    proxy.close_port().await.unwrap();
    let options = PgConnectOptions::from_str(&proxy.through(&rig.database.url())).unwrap();
    let limit = Duration::from_millis(500);
    let since = Instant::now();
    let connecting = builder(options, 1)
        .configure(|config| config.pool.acquire_timeout = limit)
        .connect();
    let error = timeout(SOON, connecting).await.unwrap().unwrap_err();
    assert!(
        since.elapsed() < limit + Duration::from_secs(2),
        "{:?}",
        since.elapsed()
    );
    assert!(
        matches!(&error, Error::Acquire(why) if why.failure == AcquireFailure::Down),
        "{error:?}"
    );
    // And for a caller that knows only sqlx: an I/O error, with the reason behind it.
    let error = sqlx::Error::from(error);
    let sqlx::Error::Io(io) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(io.kind(), io::ErrorKind::ConnectionRefused);
    let mut reason = error.source();
    let mut chain = Vec::new();
    while let Some(error) = reason {
        chain.push(error.to_string());
        reason = error.source();
    }
    assert!(
        chain.iter().any(|text| text.to_lowercase().contains("refused")),
        "{chain:?}"
    );
}

#[tokio::test]
async fn connect_with_waits_for_the_first_connection() {
    let rig = rig().await;
    let db = Db::connect_with(db_testkit::pooled(rig.options())).await.unwrap();
    assert!(db.size() >= 1);
    let nowhere = Db::connect_with(rig.options().database("no_such_database"));
    let error = timeout(SOON, nowhere).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, Error::Acquire(why) if why.failure == AcquireFailure::Refused),
        "{error:?}"
    );
}

/// As `#[sqlx::test]` hands a pool to a test, with a schema of its own set by a hook.
#[tokio::test]
async fn from_a_pool_with_a_hook() {
    let rig = rig().await;
    rig.admin()
        .await
        .run("CREATE SCHEMA mine; CREATE TABLE mine.thing (n int)")
        .await;
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .after_connect(|conn, _| Box::pin(async move { conn.execute("SET search_path = mine").await.map(drop) }))
        .connect_lazy_with(rig.options());
    let db = Db::from_pool(&pool).unwrap();
    assert_eq!(db.pool().config().max_connections, 2);
    for _ in 0..3 {
        sqlx::query("INSERT INTO thing VALUES (1)").execute(&db).await.unwrap();
        let mut tx = timeout(SOON, db.begin()).await.unwrap().unwrap();
        sqlx::query("INSERT INTO thing VALUES (2)")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        // Raw, and reset on its way back.
        let mut lease = timeout(SOON, db.acquire()).await.unwrap().unwrap();
        sqlx::query("SET search_path = public")
            .execute(&mut *lease)
            .await
            .unwrap();
        drop(lease);
        quiet(&db).await;
    }
    assert_eq!(rig.admin().await.number("SELECT sum(n) FROM mine.thing").await, 9);
    assert_eq!(
        (pool.size(), pool.is_closed()),
        (0, false),
        "the sqlx pool is left alone"
    );
    // What only an sqlx pool can make has the hook too.
    let mut tx = Acquire::begin(&db).await.unwrap();
    let path: String = sqlx::query_scalar("SHOW search_path")
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    assert_eq!(path, "mine");
}

#[tokio::test]
async fn copy_counts_and_comes_back() {
    let rig = rig().await.with_table().await;
    let db = rig
        .builder(1)
        .configure(|config| config.pool.acquire_timeout = Duration::from_millis(400))
        .build()
        .unwrap();
    let mut copy = db.copy_in_raw("COPY t FROM STDIN").await.unwrap();
    assert_eq!(db.stats().lent, 1);
    copy.send(&b"1\n2\n"[..]).await.unwrap();
    let busy = Error::from(sqlx::query("SELECT 1").execute(&db).await.unwrap_err());
    assert!(
        matches!(&busy, Error::Acquire(why) if why.failure == AcquireFailure::TimedOut),
        "{busy:?}"
    );
    assert_eq!(copy.finish().await.unwrap(), 2);
    until("it is back", async || db.stats().lent == 0).await;
    // Abandoned: nothing is copied.
    let mut copy = timeout(SOON, db.copy_in_raw("COPY t FROM STDIN"))
        .await
        .unwrap()
        .unwrap();
    copy.send(&b"3\n"[..]).await.unwrap();
    drop(copy);
    until("it is back", async || db.stats().lent == 0).await;
    assert_eq!(by_executor(&db).await, 1);
    assert_eq!(rig.admin().await.rows().await, [1, 2]);
    let out = timeout(SOON, db.copy_out_raw("COPY t TO STDOUT"))
        .await
        .unwrap()
        .unwrap();
    let text: Vec<_> = out.try_collect().await.unwrap();
    assert_eq!(text.concat(), b"1\n2\n");
    until("it is back", async || db.stats().lent == 0).await;
    db.copy_in_raw("SELECT 1").await.map(drop).unwrap_err();
    until("it is back", async || db.stats().lent == 0).await;
    // On a lease of one's own it costs no connection.
    let mut lease = timeout(SOON, db.acquire()).await.unwrap().unwrap();
    let mut copy = lease.copy_in_raw("COPY t FROM STDIN").await.unwrap();
    copy.send(&b"4\n"[..]).await.unwrap();
    assert_eq!(copy.finish().await.unwrap(), 1);
    // And abandoned in the midst of it, the lease is clean all the same.
    let mut copy = lease.copy_in_raw("COPY t FROM STDIN").await.unwrap();
    copy.send(&b"5\n"[..]).await.unwrap();
    drop(copy);
    drop(lease);
    assert_eq!(timeout(SOON, by_executor(&db)).await.unwrap(), 1);
    assert_eq!(rig.admin().await.rows().await, [1, 2, 4]);
}

#[tokio::test]
async fn prepare_and_describe_leave_the_lease_clean() {
    use sqlx::{Column, SqlSafeStr, Statement};
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let prepared = (&db)
        .prepare("SELECT n, $1::text AS x FROM t".into_sql_str())
        .await
        .unwrap();
    assert_eq!(
        prepared
            .columns()
            .iter()
            .map(|column| column.name())
            .collect::<Vec<_>>(),
        ["n", "x"]
    );
    let described = (&db).describe("SELECT n FROM t".into_sql_str()).await.unwrap();
    assert_eq!(described.columns().len(), 1);
    let stats = db.stats();
    assert_eq!((stats.idle, stats.quarantined), (1, 0), "{stats:?}");
    (&db)
        .prepare("SELECT nonsense".into_sql_str())
        .await
        .map(drop)
        .unwrap_err();
    (&db)
        .describe("SELECT nonsense".into_sql_str())
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(timeout(SOON, by_executor(&db)).await.unwrap(), 1);
    assert_eq!(quiet(&db).await.connects, 1);
}

#[tokio::test]
async fn no_debug_and_no_error_shows_the_password() {
    const CANARY: &str = "canary-91c4";
    let clean = |what: &str, text: String| assert!(!text.contains(CANARY), "{what} shows the password: {text}");
    let server = db_testkit::Postgres::builder()
        .password_auth(CANARY)
        .start()
        .await
        .unwrap();
    clean("a builder", format!("{:#?}", Db::builder().url(&server.url())));
    let db = Db::connect(&server.url()).await.unwrap();
    assert!(server.url().contains(CANARY));
    let mut tx = db.begin().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut *tx).await.unwrap();
    clean("a transaction", format!("{tx:#?} {:#?}", &*tx));
    clean("the handle", format!("{db:#?} {:#?} {:#?}", db.events(), db.stats()));
    clean("the configuration", format!("{:#?}", db.config()));
    clean("a listener", format!("{:#?}", db.listener().await.unwrap()));
    let wrong = server.url().replace(CANARY, &format!("{CANARY}-wrong"));
    let error = timeout(SOON, Db::connect(&wrong)).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, Error::Acquire(why) if why.failure == AcquireFailure::Refused),
        "{error:?}"
    );
    clean("the error", format!("{error} {error:#?}"));
    for odd in [
        "postgres://me:canary-91c4@host:port/x",
        "mysql://me:canary-91c4@host/x",
        "canary-91c4",
    ] {
        let Err(error) = Db::connect_lazy(odd) else { continue };
        // Text that is no URL at all is no password either.
        if odd.contains('@') {
            clean("a URL's error", format!("{error} {error:#?}"));
        }
    }
}

/// Options given in sqlx's terms stay, whatever else is changed at run time.
#[tokio::test]
async fn reloading_changes_the_session_and_not_the_address() {
    let rig = rig().await;
    let db = rig.db(2);
    assert_eq!(by_executor(&db).await, 1);
    let mut config = db.config().as_ref().clone();
    config.session.statement_timeout = Some(Duration::from_secs(17));
    config.pool.max_connections = 3;
    db.reload(config).unwrap();
    let (database, limit): (String, String) = timeout(
        SOON,
        sqlx::query_as("SELECT current_database()::text, current_setting('statement_timeout')").fetch_one(&db),
    )
    .await
    .unwrap()
    .unwrap();
    assert_eq!((database.as_str(), limit.as_str()), (rig.database.name(), "17s"));
    assert_eq!(db.stats().max, 3);
}

#[tokio::test]
async fn close_reports_transactions_of_sqlx_that_are_still_out() {
    let rig = rig().await;
    let db = rig
        .builder(2)
        .configure(|config| config.pool.drain_timeout = Duration::from_millis(200))
        .build()
        .unwrap();
    let tx = Acquire::begin(&db).await.unwrap();
    let report = db.close().await;
    assert_eq!((report.lent_out, report.still_out.len()), (1, 0));
    assert!(report.took < SOON, "{report:?}");
    // Its connection goes with it.
    drop(tx);
    until("it is gone", async || db.stats().lent == 0).await;
}

#[tokio::test]
async fn the_wait_for_a_lease_ends_at_the_timeout_of_the_handle() {
    let rig = rig().await;
    let db = rig.db(1);
    let held = db.acquire().await.unwrap();
    let since = Instant::now();
    let limited = db.timeout(Duration::from_millis(100));
    let error = limited.acquire().await.err().unwrap();
    assert!(matches!(error, Error::Acquire(_)), "{error:?}");
    // `pool.acquire_timeout` is five seconds and more.
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    let since = Instant::now();
    assert!(Acquire::acquire(&limited).await.is_err());
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    drop(held);
    limited.acquire().await.unwrap();
}
