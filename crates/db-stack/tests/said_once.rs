//! sqlx's own logging of statements is off, however the database was made: the stack tells of every statement itself.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Rig, rig};
use db_stack::{Db, OptionsSource};
use sqlx::{PgPool, postgres::PgConnectOptions};
use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tracing::{Event, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
};

/// Counts what sqlx says of statements; by itself it says something of each one, at the level `DEBUG`.
#[derive(Clone, Default)]
struct Ear(Arc<AtomicUsize>);

impl<S: Subscriber> Layer<S> for Ear {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("sqlx::query") {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Ear {
    fn heard(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Options as sqlx reads them from a URL, where those of the rig are quiet.
fn loud(rig: &Rig) -> PgConnectOptions {
    PgConnectOptions::from_str(&rig.database.url()).unwrap()
}

async fn work(db: &Db) {
    sqlx::query("SELECT 1").execute(db).await.unwrap();
    sqlx::query("SELECT $1::int").bind(1).fetch_all(db).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    sqlx::query("SELECT 2").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let mut lease = db.acquire().await.unwrap();
    sqlx::query("SELECT 3").execute(&mut *lease).await.unwrap();
}

#[tokio::test]
async fn sqlx_says_nothing_of_statements_however_the_database_was_made() {
    let rig = rig().await;
    let ear = Ear::default();
    let subscriber = tracing_subscriber::registry().with(ear.clone().with_filter(LevelFilter::TRACE));
    let _guard = tracing::subscriber::set_default(subscriber);

    let pool = PgPool::connect_lazy_with(loud(&rig));
    let asked = loud(&rig);
    let source: OptionsSource = Arc::new(move || {
        let asked = asked.clone();
        Box::pin(async move { Ok(asked) })
    });
    let made = [
        ("options", Db::builder().options(loud(&rig)).build().unwrap()),
        ("a pool", Db::builder().build_from_pool(&pool).unwrap()),
        (
            "a source",
            Db::builder().options(loud(&rig)).options_from(source).build().unwrap(),
        ),
    ];
    for (from, db) in made {
        work(&db).await;
        assert_eq!(ear.heard(), 0, "said twice by a database made from {from}");
        db.close().await;
    }
    // The pool that one was made from keeps its own ways, and the ear hears.
    sqlx::query("SELECT 1").execute(&pool).await.unwrap();
    assert!(ear.heard() >= 1);
}
