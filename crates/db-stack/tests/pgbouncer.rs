//! Through a transaction pooler: right answers, no session state, clear errors. Once for each PgBouncer on this machine.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_stack::{Db, Error, Mode, NeedsSession, Pooler, Status};
use db_testkit::{PgBouncer, Postgres};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use std::{collections::HashSet, time::Duration};
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(10);

struct Rig {
    server: Postgres,
    bouncer: PgBouncer,
    named: bool,
}

/// How a PgBouncer takes settings that it does not know.
const REFUSES: &[&str] = &[""];
const BOTH: &[&str] = &["", "extra_float_digits,options"];

/// `test` through each PgBouncer on this machine.
async fn each(ignored: &[&str], test: impl AsyncFn(&Rig)) {
    let programs = PgBouncer::programs();
    for (what, wanted) in [
        ("PgBouncer before 1.21", programs.iter().find(|p| p.version < (1, 21))),
        (
            "PgBouncer 1.21 or newer",
            programs.iter().find(|p| p.version >= (1, 21)),
        ),
    ] {
        let Some(program) = wanted else {
            db_testkit::skip(what, "not installed");
            continue;
        };
        for ignore in ignored {
            let server = Postgres::start().await.unwrap();
            let mut builder = PgBouncer::builder(program, server.addr())
                .setting("default_pool_size", 2)
                .setting("ignore_startup_parameters", ignore);
            if program.version >= (1, 21) {
                builder = builder.setting("max_prepared_statements", 200);
            }
            let rig = Rig {
                bouncer: builder.start().await.unwrap(),
                server,
                named: program.version >= (1, 21),
            };
            timeout(Duration::from_secs(60), test(&rig)).await.unwrap();
        }
    }
}

impl Rig {
    fn db(&self, max: u32) -> Db {
        let url = self.bouncer.url_for("postgres");
        let db = Db::builder().url(&url).max_connections(max).configure(|config| {
            config.session.lock_timeout = Some(Duration::from_millis(4321));
        });
        db.build().unwrap()
    }
}

fn needs_session(result: Result<impl Sized, impl Into<Error>>) -> NeedsSession {
    match result.map(|_| ()).map_err(Into::into) {
        Err(Error::NeedsSession(needs)) => needs,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_over_two_server_connections_get_their_own_answers() {
    each(BOTH, async |rig| {
        let db = rig.db(20);
        let clients = (0..20_i64).map(|client| {
            let db = db.clone();
            tokio::spawn(async move {
                for n in 0..15_i64 {
                    // Many texts in different order, so that the same name means another text for each client.
                    let text = format!("SELECT $1::int8 * {}", (client * 7 + n) % 11);
                    let answer: i64 = sqlx::query_scalar(AssertSqlSafe(text))
                        .bind(n)
                        .fetch_one(&db)
                        .await
                        .unwrap();
                    assert_eq!(answer, n * ((client * 7 + n) % 11));
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        assert!(
            db.stats().size > 2,
            "clients shared connections to the pooler: {:?}",
            db.stats()
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_session_is_refused_before_it_is_sent() {
    each(REFUSES, async |rig| {
        let db = rig.db(4);
        for text in [
            "SET work_mem = '1MB'",
            "SELECT pg_advisory_lock(1)",
            "CREATE TEMP TABLE x (n int)",
            "SELECT set_config('work_mem', '1MB', false)",
            "LISTEN somewhere",
            "PREPARE p AS SELECT 1",
        ] {
            let refused = needs_session(sqlx::query(text).execute(&db).await);
            assert_eq!(refused, NeedsSession::Statement, "{text}");
            let mut tx = db.begin().await.unwrap();
            assert_eq!(
                needs_session(sqlx::query(text).execute(&mut *tx).await),
                NeedsSession::Statement
            );
            // Refused before it was sent: the transaction is whole.
            sqlx::query("SELECT set_config('work_mem', '2MB', true)")
                .execute(&mut *tx)
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
        assert_eq!(needs_session(db.listener().await), NeedsSession::Listen);
        if rig.named {
            let mut lease = db.acquire().await.unwrap();
            sqlx::query("SELECT $1::int4")
                .bind(1)
                .execute(&mut *lease)
                .await
                .unwrap();
        } else {
            assert_eq!(needs_session(db.acquire().await), NeedsSession::Lease);
            use sqlx::{Acquire, Executor};
            assert_eq!(needs_session(Acquire::begin(&db).await), NeedsSession::Lease);
            assert_eq!(
                needs_session((&db).prepare(sqlx::SqlSafeStr::into_sql_str("SELECT 1")).await),
                NeedsSession::Lease
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_bring_their_limits_and_leave_nothing() {
    each(REFUSES, async |rig| {
        let db = rig.db(4);
        let mut tx = db.begin().await.unwrap();
        let limit: String = sqlx::query_scalar("SHOW lock_timeout")
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        assert_eq!(limit, "4321ms");
        // A helper that knows only sqlx.
        let n: i32 = sqlx::query_scalar("SELECT $1::int4")
            .bind(5)
            .fetch_one(&mut **tx)
            .await
            .unwrap();
        assert_eq!(n, 5);
        tx.commit().await.unwrap();
        let mut tx = db.begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE").await.unwrap();
        let level: String = sqlx::query_scalar("SHOW transaction_isolation")
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        assert_eq!(level, "serializable");
        drop(tx);
        let mut tx = db.begin().await.unwrap();
        sqlx::query("SELECT $1::int4").bind(5).execute(&mut **tx).await.unwrap();
        tx.rollback().await.unwrap();
        sqlx::query("CREATE TABLE t (n int)").execute(&db).await.unwrap();
        sqlx::query("CREATE INDEX CONCURRENTLY t_n ON t (n)")
            .execute(&db)
            .await
            .unwrap();
        sqlx::query("INSERT INTO t SELECT generate_series(1, $1)")
            .bind(400)
            .execute(&db)
            .await
            .unwrap();
        assert!(
            sqlx::query("INSERT INTO t VALUES ($1 / 0)")
                .bind(1)
                .execute(&db)
                .await
                .is_err()
        );
        let rows: Vec<(i32,)> = sqlx::query_as("SELECT n FROM t WHERE n <= $1")
            .bind(400)
            .fetch_all(&db)
            .await
            .unwrap();
        assert_eq!(rows.len(), 400);
        db.close().await;
        // What the pooler's two server sessions have kept of all that.
        let mut seen = HashSet::new();
        let bare = "SELECT pg_backend_pid(), current_setting('lock_timeout'), \
            (SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'sqlx%')";
        for _ in 0..20 {
            let mut pg = PgConnection::connect_with(&bare_options(rig)).await.unwrap();
            let row = sqlx::raw_sql(bare).fetch_one(&mut pg).await.unwrap();
            seen.insert(row.get::<i32, _>(0));
            assert_eq!(row.get::<String, _>(1), "0");
            assert_eq!(row.get::<i64, _>(2), 0, "named statements on a session of others");
        }
        assert!(!seen.is_empty());
    })
    .await;
}

fn bare_options(rig: &Rig) -> sqlx::postgres::PgConnectOptions {
    use std::str::FromStr;
    sqlx::postgres::PgConnectOptions::from_str(&rig.bouncer.url_for("postgres"))
        .unwrap()
        .extra_float_digits(None)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_gives_the_slot_back_and_cancels_nobody_else() {
    each(REFUSES, async |rig| {
        let db = rig.db(2);
        let since = Instant::now();
        let slow = sqlx::query("SELECT pg_sleep(5)")
            .execute(&db.timeout(Duration::from_millis(300)))
            .await;
        assert!(matches!(slow.unwrap_err().into(), Error::Timeout(_)));
        for n in 0..20 {
            let answer: i32 = sqlx::query_scalar("SELECT $1::int4")
                .bind(n)
                .fetch_one(&db)
                .await
                .unwrap();
            assert_eq!(answer, n);
        }
        assert!(since.elapsed() < Duration::from_secs(4), "waited for the statement");
        assert_eq!(db.stats().cancelled, 0);
        // In a transaction the server was told to watch for its client.
        let mut tx = db.begin().await.unwrap();
        let lost = sqlx::query("SELECT pg_sleep(60)").execute(&mut *tx);
        assert!(timeout(Duration::from_millis(300), lost).await.is_err());
        drop(tx);
        let mut looking = rig.server.admin().await.unwrap();
        timeout(SOON, async {
            let running =
                "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'";
            while sqlx::query_scalar::<_, i64>(running)
                .fetch_one(&mut looking)
                .await
                .unwrap()
                > 0
            {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the server has ended it");
        // Innocent work on the other server session is still running when the pool is closed.
        let innocent = tokio::spawn({
            let mut admin = rig.server.admin().await.unwrap();
            async move { sqlx::query("SELECT pg_sleep(1)").execute(&mut admin).await.map(drop) }
        });
        sleep(Duration::from_millis(100)).await;
        timeout(SOON, db.close()).await.unwrap();
        innocent.await.unwrap().unwrap();
    })
    .await;
}

/// A statement without a name is bound in a trip of its own, and the pooler may send that to another server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unnamed_statements_of_many_clients_get_their_own_answers() {
    each(REFUSES, async |rig| {
        let db = rig.db(12);
        let clients = (0..12_i64).map(|client| {
            let db = db.clone();
            tokio::spawn(async move {
                for n in 0..20_i64 {
                    let text = format!("SELECT $1::int8 * {client}");
                    let ask = sqlx::query_scalar(AssertSqlSafe(text)).bind(n).persistent(false);
                    let answer: i64 = ask.fetch_one(&db).await.unwrap();
                    assert_eq!(answer, n * client);
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
    })
    .await;
}

/// The pooler keeps statements by their text for as long as the server's session lives, whatever clients forget.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_caller_sees_a_change_of_schema() {
    each(REFUSES, async |rig| {
        let (db, mut admin) = (rig.db(4), rig.server.admin().await.unwrap());
        sqlx::query("CREATE TABLE t (a int)").execute(&mut admin).await.unwrap();
        sqlx::query("INSERT INTO t VALUES (7)")
            .execute(&mut admin)
            .await
            .unwrap();
        let ask = async || {
            for _ in 0..3 {
                let calls = (0..4).map(|_| {
                    let db = db.clone();
                    async move {
                        sqlx::query("SELECT * FROM t WHERE a >= $1")
                            .bind(0)
                            .fetch_one(&db)
                            .await
                    }
                });
                for row in futures::future::join_all(calls).await {
                    assert_eq!(row.expect("nobody sees it").get::<i32, _>(0), 7);
                }
                let mut tx = db.begin().await.unwrap();
                let row = sqlx::query("SELECT * FROM t WHERE a >= $1")
                    .bind(0)
                    .fetch_one(&mut *tx)
                    .await;
                assert_eq!(row.unwrap().get::<i32, _>(0), 7);
                tx.commit().await.unwrap();
            }
        };
        ask().await;
        for name in ["b", "c"] {
            let change = format!("ALTER TABLE t ADD COLUMN {name} int");
            sqlx::query(AssertSqlSafe(change)).execute(&mut admin).await.unwrap();
            ask().await;
        }
    })
    .await;
}

/// Its session can't be ended; its place serves others all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaked_transaction_is_taken_back() {
    each(REFUSES, async |rig| {
        let url = rig.bouncer.url_for("postgres");
        let db = Db::builder().url(&url).max_connections(1).configure(|config| {
            config.leak.mode = Mode::Enforce;
            config.leak.threshold = Duration::from_millis(200);
            config.leak.reclaim_after = Duration::from_millis(400);
            // One task leaks and goes on.
            config.leak.nested = Mode::Off;
            config.pool.admission = Mode::Off;
        });
        let db = db.build().unwrap();
        let leaked = db.begin().await.unwrap();
        let one: i32 = timeout(SOON, sqlx::query_scalar("SELECT 1").fetch_one(&db))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(one, 1);
        assert!(matches!(leaked.commit().await.unwrap_err(), Error::Revoked(_)));
        assert!(db.stats().size <= 1, "{:?}", db.stats());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_says_how_the_server_behind_it_is() {
    each(BOTH, async |rig| {
        let db = rig.db(2);
        for _ in 0..2 {
            let since = Instant::now();
            let report = db.health().await;
            assert!(since.elapsed() < db.config().health.report_timeout + Duration::from_secs(2));
            for name in [
                "connectivity",
                "transaction",
                "tables",
                "replication",
                "transaction_ids",
                "connections",
            ] {
                let check = report.check(name).unwrap();
                assert_eq!(check.status, Status::Healthy, "{name}: {report}");
            }
            assert_eq!(report.http_status(), 200, "{report}");
        }
        rig.server.freeze().await.unwrap();
        let since = Instant::now();
        let report = db.health().await;
        assert!(since.elapsed() < db.config().health.report_timeout + Duration::from_secs(2));
        assert_eq!(
            report.check("connectivity").unwrap().status,
            Status::Unhealthy,
            "{report}"
        );
        rig.server.thaw().await.unwrap();
        timeout(SOON, async {
            while db.health().await.http_status() != 200 {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap();
        timeout(SOON, db.close()).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn said_in_the_configuration_nothing_is_tried_first() {
    each(BOTH, async |rig| {
        let url = rig.bouncer.url_for("postgres");
        let db = Db::builder()
            .url(&url)
            .configure(|config| config.session.pooler = Pooler::Transaction);
        let db = db.connect().await.unwrap();
        let sum: i64 = sqlx::query_scalar("SELECT $1::int8 + 1")
            .bind(1_i64)
            .fetch_one(&db)
            .await
            .unwrap();
        assert_eq!(sum, 2);
        assert_eq!(db.stats().connect_failures, 0);
        // And the other way round: told that there is none, what the pooler refuses is the caller's to see.
        let db = Db::builder()
            .url(&url)
            .configure(|config| config.session.pooler = Pooler::None);
        let refused = db.connect().await;
        if let Err(error) = refused {
            assert!(error.to_string().contains("startup parameter"), "{error}");
        }
    })
    .await;
}
