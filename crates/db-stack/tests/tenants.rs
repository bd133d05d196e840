//! Tenants: rows, schemas or databases of their own, on one budget of connections.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Rig, SOON, rig};
use db_stack::{AcquireFailure, Db, Error, config::Tenancy};
use futures_util::future::join_all;
use sqlx::Connection;
use std::time::Duration;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

const MS: Duration = Duration::from_millis(1);
const WHERE: &str = "SELECT current_database()::text";

/// Databases of the tenants `ids`, each with a table `t (n int)`.
struct Tenants {
    rig: Rig,
    prefix: String,
}

impl Tenants {
    async fn new(ids: &[&str]) -> Self {
        let rig = rig().await.with_table().await;
        let prefix = rig.options().get_database().unwrap().to_owned();
        let mut admin = rig.admin().await;
        for id in ids {
            let template = match ids.first() {
                Some(first) if first != id => format!("\"{prefix}_{first}\""),
                _ => "template1".to_owned(),
            };
            admin
                .run(&format!("CREATE DATABASE \"{prefix}_{id}\" TEMPLATE {template}"))
                .await;
            if template == "template1" {
                let options = rig.options().database(&format!("{prefix}_{id}"));
                let mut pg = sqlx::PgConnection::connect_with(&options).await.unwrap();
                sqlx::raw_sql("CREATE TABLE t (n int)").execute(&mut pg).await.unwrap();
                pg.close().await.unwrap();
                // A session that has said goodbye may be in the way of a copy for a moment.
                let left = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{prefix}_{id}'");
                while admin.number(&left).await > 0 {
                    sleep(5 * MS).await;
                }
            }
        }
        Self { rig, prefix }
    }

    fn db(&self, max: u32) -> Db {
        self.db_with(max, |_| {})
    }

    fn db_with(&self, max: u32, change: impl FnOnce(&mut db_stack::config::DbConfig)) -> Db {
        let builder = self.rig.builder(max).configure(|config| {
            config.tenants.mode = Tenancy::Database;
            config.tenants.database = format!("{}_{{id}}", self.prefix);
            config.pool.acquire_timeout = SOON;
        });
        builder.configure(change).build().unwrap()
    }

    async fn drop_all(self, ids: &[&str]) {
        let mut admin = self.rig.admin().await;
        for id in ids {
            admin
                .run(&format!("DROP DATABASE \"{}_{id}\" WITH (FORCE)", self.prefix))
                .await;
        }
    }
}

async fn place(db: &Db) -> String {
    sqlx::query_scalar(WHERE).fetch_one(db).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_reaches_its_own_database_and_the_budget_is_one() {
    let ids = ["a", "b", "c", "d"];
    let tenants = Tenants::new(&ids).await;
    let db = tenants.db(2);
    let mut tasks = JoinSet::new();
    for number in 0..20 {
        let id = ids[number % ids.len()];
        let (own, expected) = (db.tenant(id).unwrap(), format!("{}_{id}", tenants.prefix));
        tasks.spawn(async move {
            for _ in 0..5 {
                assert_eq!(place(&own).await, expected);
                let mut tx = own.begin().await.unwrap();
                let seen: String = sqlx::query_scalar(WHERE).fetch_one(&mut *tx).await.unwrap();
                sqlx::query("INSERT INTO t VALUES ($1)")
                    .bind(1)
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                tx.commit().await.unwrap();
                assert_eq!(seen, expected);
            }
        });
    }
    // The handle itself stays where it was.
    let (own, expected) = (db.clone(), tenants.prefix.clone());
    tasks.spawn(async move {
        for _ in 0..10 {
            assert_eq!(place(&own).await, expected);
            sleep(MS).await;
        }
    });
    let watch = async {
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
            assert!(db.stats().size <= 2, "{:?}", db.stats());
        }
    };
    timeout(6 * SOON, watch).await.unwrap();
    for id in ids {
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM t")
            .fetch_one(&db.tenant(id).unwrap())
            .await
            .unwrap();
        assert_eq!(rows, 25, "{id}");
    }
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM t")
        .fetch_one(&db)
        .await
        .unwrap();
    assert_eq!(rows, 0);
    db.close().await;
    tenants.drop_all(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_there_is_its_own_tenants_trouble() {
    let tenants = Tenants::new(&["a"]).await;
    let db = tenants.db(4);
    // The first call of all, when nothing is open yet.
    let nobody = db.tenant("nobody").unwrap();
    let since = Instant::now();
    let (refused, served) = tokio::join!(
        join_all((0..10).map(|_| sqlx::query("SELECT 1").execute(&nobody))),
        async {
            let a = db.tenant("a").unwrap();
            for _ in 0..10 {
                place(&a).await;
            }
        }
    );
    let () = served;
    for error in refused {
        match Error::from(error.unwrap_err()) {
            Error::Acquire(error) => {
                assert_eq!(error.failure, AcquireFailure::NoDatabase);
                assert!(error.to_string().contains("nobody"), "{error}");
            }
            other => panic!("{other}"),
        }
    }
    assert!(since.elapsed() < SOON);
    assert_eq!(place(&db).await, tenants.prefix);
    assert_eq!(db.breaker().state().name(), "closed");
    db.close().await;
    tenants.drop_all(&["a"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_come_together_open_no_more_than_the_tenants_share_and_idle_ones_are_closed() {
    let tenants = Tenants::new(&["a"]).await;
    let db = tenants.db_with(4, |config| config.pool.idle_timeout = Some(500 * MS));
    let a = db.tenant("a").unwrap();
    let calls = (0..50).map(|_| sqlx::query("SELECT pg_sleep(0.01)").execute(&a));
    for done in join_all(calls).await {
        done.unwrap();
    }
    let connects = db.stats().connects;
    assert!(
        (1..=2).contains(&connects),
        "a share of one half of 4, and {connects} were opened"
    );
    // One after the other needs one.
    for _ in 0..10 {
        place(&a).await;
    }
    assert_eq!(db.stats().connects, connects);
    let since = Instant::now();
    while db.stats().size > 0 {
        assert!(since.elapsed() < SOON, "{:?}", db.stats());
        sleep(20 * MS).await;
    }
    db.close().await;
    tenants.drop_all(&["a"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_who_wants_everything_does_not_keep_the_others_out() {
    let ids = ["loud", "quiet", "third"];
    let tenants = Tenants::new(&ids).await;
    // A share of all: nothing but turns helps.
    let db = tenants.db_with(1, |config| config.pool.tenant_share = 1.0);
    let loud = db.tenant("loud").unwrap();
    let mut crowd = JoinSet::new();
    for _ in 0..20 {
        let loud = loud.clone();
        crowd.spawn(async move {
            loop {
                // Shed is what it gets for it.
                let _ = sqlx::query("SELECT pg_sleep(0.005)").execute(&loud).await;
            }
        });
    }
    sleep(300 * MS).await;
    for id in ["quiet", "third", "quiet"] {
        let own = db.tenant(id).unwrap();
        let seen = timeout(SOON, place(&own)).await.unwrap();
        assert_eq!(seen, format!("{}_{id}", tenants.prefix));
    }
    crowd.shutdown().await;
    db.close().await;
    tenants.drop_all(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_and_answers_are_the_tenants_own_and_what_can_not_be_is_refused() {
    let ids = ["a", "b"];
    let tenants = Tenants::new(&ids).await;
    let db = tenants.db(4);
    let expected = |id: &str| format!("{}_{id}", tenants.prefix);
    for id in ids {
        let own = db.tenant(id).unwrap();
        let mut lease = own.acquire().await.unwrap();
        let seen: String = sqlx::query_scalar(WHERE).fetch_one(&mut *lease).await.unwrap();
        assert_eq!(seen, expected(id));
        drop(lease);
        place(&own).await;
        // Idle now, and the other's too: each gets its own.
        if let Some(mut lease) = own.try_acquire() {
            let seen: String = sqlx::query_scalar(WHERE).fetch_one(&mut *lease).await.unwrap();
            assert_eq!(seen, expected(id));
        }
        for _ in 0..2 {
            let kept = own
                .cached(SOON)
                .fetch_one(sqlx::query_scalar::<_, String>(WHERE))
                .await
                .unwrap();
            assert_eq!(*kept, expected(id));
        }
        assert!(own.copy_out_raw("COPY t TO STDOUT").await.is_err());
        assert!(own.listener().await.is_err());
        let sqlx_own = sqlx::Acquire::begin(&own).await;
        assert!(sqlx_own.is_err());
    }
    db.close().await;
    tenants.drop_all(&ids).await;
}

/// A role that row-level security binds, with a table of rows and a schema for each of two tenants.
async fn shared() -> (Rig, Db, Db) {
    let rig = rig().await;
    let role = format!("app_{}", rig.options().get_database().unwrap());
    let mut admin = rig.admin().await;
    admin
        .run(&format!(
            "CREATE ROLE {role} LOGIN; CREATE TABLE note (tenant text); INSERT INTO note VALUES ('a'), ('b'); \
             ALTER TABLE note ENABLE ROW LEVEL SECURITY; GRANT SELECT, INSERT ON note TO {role}; \
             CREATE POLICY own ON note USING (tenant = current_setting('app.tenant'))"
        ))
        .await;
    for id in ["a", "b"] {
        admin
            .run(&format!(
                "CREATE SCHEMA tenant_{id} AUTHORIZATION {role}; CREATE TABLE tenant_{id}.note AS SELECT '{id}' AS tenant; \
                 GRANT SELECT, INSERT ON tenant_{id}.note TO {role}"
            ))
            .await;
    }
    let db = |mode: Tenancy| {
        let builder = common::builder(rig.options().username(&role), 2);
        let db = builder.configure(|config| {
            config.tenants.mode = mode;
            config.tenants.shared_schemas = String::new();
        });
        db.build().unwrap()
    };
    let (rows, schemas) = (db(Tenancy::Row), db(Tenancy::Schema));
    (rig, rows, schemas)
}

async fn seen(db: &Db) -> Vec<String> {
    sqlx::query_scalar("SELECT tenant FROM note ORDER BY 1")
        .fetch_all(db)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_and_schemas_are_the_tenants_own_and_nothing_stays_on_the_connection() {
    let (rig, rows, schemas) = shared().await;
    for db in [&rows, &schemas] {
        let (a, b) = (db.tenant("a").unwrap(), db.tenant("b").unwrap());
        for _ in 0..5 {
            assert_eq!(seen(&a).await, ["a"]);
            assert_eq!(seen(&b).await, ["b"]);
        }
        let mut tx = a.begin().await.unwrap();
        sqlx::query("INSERT INTO note VALUES ('a')")
            .execute(&mut *tx)
            .await
            .unwrap();
        let own: Vec<String> = sqlx::query_scalar("SELECT tenant FROM note")
            .fetch_all(&mut *tx)
            .await
            .unwrap();
        assert_eq!(own, ["a", "a"]);
        drop(tx);
        // Rolled back, and the connection is nobody's again.
        assert_eq!(seen(&a).await, ["a"]);
        let path: String = sqlx::query_scalar("SHOW search_path").fetch_one(db).await.unwrap();
        assert!(!path.contains("tenant_"), "{path}");
        let setting: Option<String> = sqlx::query_scalar("SELECT nullif(current_setting('app.tenant', true), '')")
            .fetch_one(db)
            .await
            .unwrap();
        assert_eq!(setting, None);
        // What could outlive the transaction, and ids that are none.
        assert!(a.acquire().await.is_err());
        assert!(a.try_acquire().is_none());
        assert!(a.copy_out_raw("COPY note TO STDOUT").await.is_err());
        assert!(a.listener().await.is_err());
        for id in ["", "A", "a b", "a'", "a\"", "a\0b", "\u{430}", &"a".repeat(65_536)] {
            assert!(db.tenant(id).is_err(), "{id:?}");
        }
    }
    rows.close().await;
    schemas.close().await;
    let role = format!("app_{}", rig.options().get_database().unwrap());
    let mut admin = rig.admin().await;
    admin
        .run(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"))
        .await;
}
