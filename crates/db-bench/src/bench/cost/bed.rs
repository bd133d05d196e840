//! What the steps run on.

use super::Step;
use anyhow::{Result, ensure};
use db_core::{Call, Footprint, Layer, Lease, Operation, Run, Service, Source, Statement, Want};
use db_pool::{Pool, PoolConfig};
use db_stack::Db;
use db_timeout::TimeoutLayer;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use sqlx::{
    ConnectOptions, PgConnection,
    postgres::{PgConnectOptions, PgRow},
    query, query_scalar,
};
use std::{
    future::poll_fn,
    hint::black_box,
    ops::{Deref, DerefMut},
    sync::Arc,
    task::Poll,
    time::Duration,
};

/// Needs no table.
const ECHO: &str = "SELECT $1::int4";
/// Longer than anybody measures.
const KEPT: Duration = Duration::from_secs(3600);

/// An operation that is ready when it is asked for the second time.
struct WaitsOnce;

impl Operation for WaitsOnce {
    type Output = ();

    async fn run(&self, _: &mut PgConnection) -> db_core::Result<()> {
        let mut asked = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut asked, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        Ok(())
    }

    fn footprint(&self) -> Footprint {
        Footprint::None
    }
}

/// An operation that does nothing with its connection.
struct Nothing;

impl Operation for Nothing {
    type Output = ();

    async fn run(&self, _: &mut PgConnection) -> db_core::Result<()> {
        Ok(())
    }

    fn footprint(&self) -> Footprint {
        Footprint::None
    }
}

/// A source of one connection, which every lease puts back.
#[derive(Clone)]
struct OneConnection(Arc<Mutex<Option<Box<PgConnection>>>>);

struct Borrowed {
    conn: Option<Box<PgConnection>>,
    home: OneConnection,
}

const TAKEN: &str = "a lease holds its connection until it is dropped";

impl Source for OneConnection {
    type Lease = Borrowed;

    async fn acquire(&self, _: &Call) -> db_core::Result<Borrowed> {
        let conn = self.0.lock().take().ok_or(sqlx::Error::PoolTimedOut)?;
        Ok(Borrowed {
            conn: Some(conn),
            home: self.clone(),
        })
    }
}

impl Lease for Borrowed {}

impl Deref for Borrowed {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.conn.as_ref().expect(TAKEN)
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.conn.as_mut().expect(TAKEN)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        *self.home.0.lock() = self.conn.take();
    }
}

/// The facade's own erasure, for an operation that needs no server.
trait Erased: Send + Sync {
    fn erased<'a>(&'a self, call: &'a Call, op: &'a Nothing) -> BoxFuture<'a, db_core::Result<()>>;
}

impl<S: Service<Nothing>> Erased for S {
    fn erased<'a>(&'a self, call: &'a Call, op: &'a Nothing) -> BoxFuture<'a, db_core::Result<()>> {
        Box::pin(Service::call(self, call, op))
    }
}

/// Everything that a step may need, connected.
pub(super) struct Bed {
    fake: OneConnection,
    fake_erased: Box<dyn Erased>,
    pool: Pool,
    pool_erased: Box<dyn Erased>,
    conn: PgConnection,
    db: Db,
}

impl Bed {
    pub(super) async fn make(options: PgConnectOptions) -> Result<Self> {
        let fake = OneConnection(Arc::new(Mutex::new(Some(Box::new(options.connect().await?)))));
        let pool = Pool::builder(options.clone(), PoolConfig::default()).build()?;
        drop(pool.acquire().await?);
        let db = Db::builder().options(options.clone()).connect().await?;
        ensure!(db.cache().ready(Duration::from_secs(10)).await, "nothing is cached");
        Ok(Self {
            fake_erased: Box::new(Run(fake.clone())),
            fake,
            pool_erased: Box::new(Run(pool.clone())),
            pool,
            conn: options.connect().await?,
            db,
        })
    }

    /// Does the step's work `calls` times.
    pub(super) async fn repeat(&mut self, step: Step, calls: u32) -> Result<()> {
        let call = Call::default();
        match step {
            Step::FakeLease => {
                for _ in 0..calls {
                    drop(black_box(self.fake.acquire(&call).await?));
                }
            }
            Step::FakeRun => {
                let run = Run(self.fake.clone());
                for _ in 0..calls {
                    run.call(&call, &Nothing).await?;
                }
            }
            Step::FakeErased => {
                for _ in 0..calls {
                    self.fake_erased.erased(&call, &Nothing).await?;
                }
            }
            Step::FakeWait => {
                let run = Run(self.fake.clone());
                for _ in 0..calls {
                    run.call(&call, &WaitsOnce).await?;
                }
            }
            Step::FakeTimeout => {
                let run = TimeoutLayer::default().layer(Run(self.fake.clone()));
                let mut call = call;
                call.statement = Some(Statement::all(ECHO)?.facts().fingerprint());
                for _ in 0..calls {
                    run.call(&call, &WaitsOnce).await?;
                }
            }
            Step::PoolLease => {
                for _ in 0..calls {
                    drop(black_box(Source::acquire(&self.pool, &call).await?));
                }
            }
            Step::PoolRun => {
                let run = Run(self.pool.clone());
                for _ in 0..calls {
                    run.call(&call, &Nothing).await?;
                }
            }
            Step::PoolErased => {
                for _ in 0..calls {
                    self.pool_erased.erased(&call, &Nothing).await?;
                }
            }
            Step::Statement => {
                for n in 0..calls {
                    let statement = Statement::new(query(ECHO).bind(black_box(n).cast_signed()), Want::First)?;
                    black_box(statement);
                }
            }
            Step::Hit => {
                let cached = self.db.cached(KEPT);
                for _ in 0..calls {
                    let answer = cached.fetch_one(query_scalar::<_, i32>(ECHO).bind(black_box(7)));
                    black_box(answer.await?);
                }
            }
            Step::Connection => {
                for n in 0..calls {
                    seen(query(ECHO).bind(n.cast_signed()).fetch_one(&mut self.conn).await?);
                }
            }
            Step::Db => {
                for n in 0..calls {
                    seen(query(ECHO).bind(n.cast_signed()).fetch_one(&self.db).await?);
                }
            }
        }
        Ok(())
    }
}

fn seen(row: PgRow) {
    black_box(row);
}
