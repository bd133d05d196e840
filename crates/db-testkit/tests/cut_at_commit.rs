//! The connection breaks exactly at a certain message.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::time::Duration;

use db_testkit::{Cut, CutStyle, Database, FaultProxy, Matches, When};
use sqlx::{Connection, PgConnection};
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(5);

struct Bench {
    database: Database,
    proxy: FaultProxy,
}

impl Bench {
    async fn new() -> Self {
        let server = db_testkit::shared().await;
        let database = server.database().await.unwrap();
        let mut direct = PgConnection::connect(&database.url()).await.unwrap();
        sqlx::raw_sql("CREATE TABLE t (n int)")
            .execute(&mut direct)
            .await
            .unwrap();
        Self {
            database,
            proxy: FaultProxy::start(server.addr()).await.unwrap(),
        }
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.proxy.through(&self.database.url()))
            .await
            .unwrap()
    }

    /// Inserts `n` in a transaction; the error is that of the commit.
    async fn insert(&self, n: i32) -> sqlx::Result<()> {
        let mut connection = self.connect().await;
        let mut transaction = connection.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES ($1)")
            .bind(n)
            .execute(&mut *transaction)
            .await
            .unwrap();
        timeout(LONG, transaction.commit()).await.unwrap()
    }

    async fn rows(&self) -> i64 {
        let mut direct = PgConnection::connect(&self.database.url()).await.unwrap();
        sqlx::query_scalar("SELECT count(*) FROM t")
            .fetch_one(&mut direct)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn before_commit_nothing_is_written() {
    let bench = Bench::new().await;
    bench.proxy.cut_at(Cut::before("COMMIT"));
    assert_eq!(bench.proxy.cuts_waiting(), 1);
    let error = bench.insert(1).await.unwrap_err();
    assert!(matches!(error, sqlx::Error::Io(_)), "{error:?}");
    assert_eq!(bench.proxy.cuts_waiting(), 0);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(bench.rows().await, 0);
    bench.insert(2).await.unwrap();
    assert_eq!(bench.rows().await, 1);
}

#[tokio::test]
async fn after_commit_it_is_written_though_the_client_sees_an_error() {
    let bench = Bench::new().await;
    for round in 0..10 {
        bench.proxy.cut_at(Cut::after("COMMIT"));
        assert!(bench.insert(1).await.is_err());
        // The server may still be at it when the client learns of the break.
        let mut waited = 0;
        while bench.rows().await == round {
            waited += 1;
            assert!(waited < 500, "the commit did not get through");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn after_the_reply_it_is_written_for_certain() {
    let bench = Bench::new().await;
    for round in 0..20 {
        bench.proxy.cut_at(Cut::after_reply("COMMIT").style(if round % 2 == 0 {
            CutStyle::Reset
        } else {
            CutStyle::Finish
        }));
        assert!(bench.insert(1).await.is_err());
        assert_eq!(bench.rows().await, round + 1);
    }
}

#[tokio::test]
async fn the_nth_of_all_connections() {
    let bench = Bench::new().await;
    bench.proxy.cut_at(Cut::before("COMMIT").nth(3));
    for round in 1..=4 {
        assert_eq!(bench.insert(1).await.is_err(), round == 3);
    }
    assert_eq!(bench.rows().await, 3);
}

#[tokio::test]
async fn a_prepared_insert_that_ran_or_did_not() {
    let bench = Bench::new().await;
    let insert = async |connection: &mut PgConnection| {
        let insert = sqlx::query("INSERT INTO t VALUES ($1)").bind(1).execute(connection);
        timeout(LONG, insert).await.unwrap()
    };
    // Once with the statement still to be prepared, once with it known.
    for (warm, before, after) in [(false, 0, 1), (true, 2, 3)] {
        let mut connection = bench.connect().await;
        if warm {
            insert(&mut connection).await.unwrap();
        }
        bench.proxy.cut_at(Cut::before("insert into t"));
        insert(&mut connection).await.unwrap_err();
        assert_eq!(bench.rows().await, before);
        let mut connection = bench.connect().await;
        bench.proxy.cut_at(Cut::after_reply("insert into t"));
        insert(&mut connection).await.unwrap_err();
        assert_eq!(bench.rows().await, after);
    }
}

#[tokio::test]
async fn by_text_of_a_parse_and_by_type() {
    let bench = Bench::new().await;
    for cut in [
        Cut::before("").matching(Matches::Text("from t".to_owned())),
        Cut::before("").matching(Matches::Message(b'B')),
        Cut {
            when: When::AfterForward,
            ..Cut::before("").matching(Matches::Message(b'E'))
        },
    ] {
        let mut connection = bench.connect().await;
        bench.proxy.cut_at(cut);
        let query = sqlx::query("SELECT n FROM t").fetch_all(&mut connection);
        assert!(timeout(LONG, query).await.unwrap().is_err());
        assert_eq!(bench.proxy.cuts_waiting(), 0);
    }
}
