//! Somebody whose question is too big: it ends at its limit, on the server as well.

use std::{sync::Arc, time::Duration};

use db_stack::{Db, Error};
use db_testkit::Postgres;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::demo::APPLICATION;

/// Every pair of quotes: hours of work.
const QUESTION: &str = "SELECT count(*) FROM quotes AS a JOIN quotes AS b ON a.bid < b.ask /* analyst */";
/// What the analyst's question may cost.
const LIMIT: Duration = Duration::from_millis(150);
const PAUSE: Duration = Duration::from_millis(500);
/// When a statement that was given up must be gone.
const GONE: Duration = Duration::from_secs(5);

/// What came of the questions.
#[derive(Clone, Copy, Default)]
pub(crate) struct Answers {
    pub(crate) asked: u64,
    pub(crate) timed_out: u64,
    /// Questions that still run on the server when everything is over; there must be none.
    pub(crate) left_running: i64,
}

/// Asks until the end, and then looks for what its questions have left behind.
pub(crate) async fn ask(db: Db, server: Arc<Postgres>, mut ended: watch::Receiver<bool>) -> Answers {
    let db = db.timeout(LIMIT);
    let mut answers = Answers::default();
    while !*ended.borrow() {
        answers.asked += 1;
        let out = sqlx::query(QUESTION).fetch_one(&db).await;
        answers.timed_out += u64::from(out.is_err_and(|error| matches!(error.into(), Error::Timeout(_))));
        tokio::select! {
            _ = ended.wait_for(|end| *end) => {}
            () = sleep(PAUSE) => {}
        }
    }
    // The last cancel may still be on its way.
    let gone = async {
        loop {
            answers.left_running = running(&server).await.unwrap_or(-1);
            if answers.left_running == 0 {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    // Past it the count stays what it is, and the report shows it.
    let _ = timeout(GONE, gone).await;
    answers
}

async fn running(server: &Postgres) -> anyhow::Result<i64> {
    let count = "SELECT count(*) FROM pg_stat_activity \
                 WHERE application_name = $1 AND state = 'active' AND query LIKE '%/* analyst */'";
    let mut admin = server.admin().await?;
    Ok(sqlx::query_scalar(count)
        .bind(APPLICATION)
        .fetch_one(&mut admin)
        .await?)
}
