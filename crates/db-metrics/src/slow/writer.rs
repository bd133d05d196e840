//! The task that writes rows, over a connection that belongs to nobody else.

use super::{Address, Counts, Row, SlowQueryConfig};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use std::{
    str::FromStr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, UNIX_EPOCH},
};
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, sleep, timeout},
};

/// Rows of one INSERT.
const BATCH: usize = 500;
/// How long connecting, or one INSERT, may take.
const LIMIT: Duration = Duration::from_secs(5);
/// A log must not wait for locks, nor keep the server busy. Set each time and gone with the transaction: behind a pooler
/// the session is somebody else's next.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '5s'";
/// How often the days are looked after.
const TURN: Duration = Duration::from_secs(3600);
/// The pause after a failure, doubled up to the cap.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub(super) async fn write(
    mut rows: Receiver<Row>,
    address: Address,
    config: Arc<SlowQueryConfig>,
    counts: Arc<Counts>,
) {
    let mut table = Table {
        address,
        config,
        conn: None,
        turned: None,
    };
    let (mut batch, mut failures) = (Vec::with_capacity(BATCH), 0_u32);
    loop {
        let closing = tokio::select! {
            received = rows.recv_many(&mut batch, BATCH) => received == 0,
            () = counts.closing.notified() => true,
        };
        if closing {
            rows.close();
            rows.recv_many(&mut batch, BATCH).await;
        }
        let more = batch.len() == BATCH;
        if !batch.is_empty() {
            let size = batch.len() as u64;
            if table.insert(&batch).await {
                counts.written.fetch_add(size, Ordering::Relaxed);
                failures = 0;
            } else {
                counts.failed.fetch_add(size, Ordering::Relaxed);
                failures += 1;
            }
            batch.clear();
        }
        if closing {
            return table.close().await;
        }
        let pause = if failures == 0 && more {
            Duration::ZERO
        } else if failures == 0 {
            table.config.write_every
        } else {
            PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE)
        };
        tokio::select! {
            () = sleep(pause) => {}
            // Found again at the top, with the rows that wait.
            () = counts.closing.notified() => counts.closing.notify_one(),
        }
    }
}

struct Table {
    address: Address,
    config: Arc<SlowQueryConfig>,
    conn: Option<PgConnection>,
    turned: Option<Instant>,
}

impl Table {
    /// Whether the rows are in the table. A failure is told once a while, without the rows.
    async fn insert(&mut self, rows: &[Row]) -> bool {
        let written = timeout(2 * LIMIT, self.try_insert(rows)).await;
        let failure = match written {
            Ok(Ok(())) => return true,
            Ok(Err(sqlx::Error::Database(error))) => format!("SQLSTATE {}", error.code().unwrap_or_default()),
            Ok(Err(_)) => "no connection".to_owned(),
            Err(_) => "no answer".to_owned(),
        };
        self.conn = None;
        tracing::warn!(target: "db_stack::slow", rows = rows.len(), failure, "slow queries were not written to their table");
        false
    }

    async fn try_insert(&mut self, rows: &[Row]) -> sqlx::Result<()> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.connect().await?,
        };
        conn.execute(sqlx::raw_sql(BEGIN)).await?;
        if self.turned.is_none_or(|at| at.elapsed() >= TURN) {
            sqlx::query("SELECT slow_queries_turn(make_interval(secs => $1))")
                .bind(self.config.keep.as_secs_f64())
                .persistent(false)
                .execute(&mut conn)
                .await?;
            self.turned = Some(Instant::now());
        }
        insert(&mut conn, rows).await?;
        conn.execute(sqlx::raw_sql("COMMIT")).await?;
        self.conn = Some(conn);
        Ok(())
    }

    async fn connect(&self) -> sqlx::Result<PgConnection> {
        let dress = |options: PgConnectOptions| {
            options
                .application_name("db-stack-slow-log")
                // Floats come and go as bytes here; a pooler refuses what it does not know.
                .extra_float_digits(None)
                .disable_statement_logging()
        };
        let options = (self.address)();
        let connect = async {
            match dress(options.clone()).connect().await {
                // A pooler refuses the settings of the application's own address, which its URL leaves out.
                Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("08P01") => {
                    let bare = PgConnectOptions::from_str(options.to_url_lossy().as_str())?;
                    dress(bare).connect().await
                }
                connected => connected,
            }
        };
        timeout(LIMIT, connect).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    async fn close(mut self) {
        if let Some(conn) = self.conn.take() {
            drop(timeout(LIMIT, conn.close()).await);
        }
    }
}

async fn insert(conn: &mut PgConnection, rows: &[Row]) -> sqlx::Result<()> {
    fn all<T>(rows: &[Row], of: impl Fn(&Row) -> T) -> Vec<T> {
        rows.iter().map(of).collect()
    }
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let text = "INSERT INTO slow_queries (at, fingerprint, summary, statement, class, outcome, duration_ms, waited_ms, \
                threshold_ms, skipped, site, arguments) \
                SELECT to_timestamp(at), f, s, t, c, o, d, w, l, n, p, a FROM unnest($1::float8[], $2::int8[], \
                $3::text[], $4::text[], $5::text[], $6::text[], $7::float8[], $8::float8[], $9::float8[], $10::int8[], \
                $11::text[], $12::text[]) AS r (at, f, s, t, c, o, d, w, l, n, p, a)";
    sqlx::query(text)
        .bind(all(rows, |row| {
            row.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
        }))
        .bind(all(rows, |row| row.fingerprint().cast_signed()))
        .bind(all(rows, |row| row.summary().to_owned()))
        .bind(all(rows, |row| row.statement().to_owned()))
        .bind(all(rows, |row| row.class.to_owned()))
        .bind(all(rows, |row| row.outcome.to_string()))
        .bind(all(rows, |row| ms(row.took)))
        .bind(all(rows, |row| ms(row.waited)))
        .bind(all(rows, |row| ms(row.threshold)))
        .bind(all(rows, |row| row.skipped.cast_signed()))
        .bind(all(rows, |row| row.site.map(|site| site.to_string())))
        // PostgreSQL's texts hold no NUL.
        .bind(all(rows, |row| row.arguments.as_ref().map(|a| a.replace('\0', ""))))
        // A name would stay behind at a pooler that does not follow it.
        .persistent(false)
        .execute(conn)
        .await
        .map(drop)
}
