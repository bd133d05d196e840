//! A transaction pooler before the server: how it is found out, and what a connection through it is.

use crate::{
    config::SessionConfig,
    dial::{CHECKS_CLIENT, watch_client},
};
use db_core::SharedSession;
use serde::{Deserialize, Serialize};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection,
    postgres::{PgConnectOptions, PgDatabaseError},
};
use std::{str::FromStr, sync::Arc};

/// Whether a transaction pooler, such as PgBouncer, stands before the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Pooler {
    /// Found out when connecting: a pooler refuses or drops the settings in the start-up message.
    #[default]
    Auto,
    /// None: a session is ours for as long as its connection lives.
    None,
    /// One that lends server sessions for a transaction at a time.
    Transaction,
}

/// The setting by which a session shows that the start-up message reached it. The server keeps any name with a dot.
const MARK: &str = "db_stack.dialled";

/// A mark that no other session bears.
pub(crate) struct Mark(String);

impl Mark {
    pub(crate) fn new() -> Self {
        Self(format!("{:016x}", fastrand::u64(..)))
    }

    pub(crate) fn on(&self, options: PgConnectOptions) -> PgConnectOptions {
        options.options([(MARK, &self.0)])
    }

    /// True in SQL where the session bears it.
    pub(crate) fn arrived(&self) -> String {
        format!("current_setting('{MARK}', true) IS NOT DISTINCT FROM '{}'", self.0)
    }
}

/// Whether this is how a pooler refuses the settings of the start-up message.
pub(crate) fn refuses_settings(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return false;
    };
    error.code().as_deref() == Some("08P01")
        && error
            .try_downcast_ref::<PgDatabaseError>()
            .is_some_and(|error| error.message().contains("unsupported startup parameter"))
}

/// The options without any setting in the start-up message but those that PgBouncer itself follows.
pub(crate) fn bare(options: &PgConnectOptions, application_name: &str) -> sqlx::Result<PgConnectOptions> {
    // sqlx can't take options back, and its URL leaves out just these.
    let name = options.get_application_name().unwrap_or(application_name).to_owned();
    Ok(PgConnectOptions::from_str(options.to_url_lossy().as_str())?
        .extra_float_digits(None)
        .application_name(&name)
        .disable_statement_logging())
}

/// What a session through the pooler is: found out in a transaction of its own.
pub(crate) async fn session(pg: &mut PgConnection, config: &SessionConfig) -> sqlx::Result<Arc<SharedSession>> {
    pg.execute(sqlx::raw_sql("BEGIN")).await?;
    let named_statements = follows_names(pg).await?;
    let mut limits = vec![config.local_limits()];
    // Asked last: where the server's platform can't watch sockets, this ends the transaction.
    if let Some(watch) = watch_client(config, "SET LOCAL")
        && pg.server_version_num().is_some_and(|version| version >= CHECKS_CLIENT)
    {
        match pg.execute(sqlx::raw_sql(AssertSqlSafe(watch.clone()))).await {
            Ok(_) => limits.push(watch),
            Err(sqlx::Error::Database(_)) => {}
            Err(error) => return Err(error),
        }
    }
    pg.execute(sqlx::raw_sql("ROLLBACK")).await?;
    limits.retain(|limit| !limit.is_empty());
    Ok(Arc::new(SharedSession {
        named_statements,
        limits: limits.join("; ").into(),
        afresh: None,
    }))
}

/// Whether the pooler follows prepared statements: it then gives them names of its own on the server. In a transaction, which
/// it may leave aborted.
async fn follows_names(pg: &mut PgConnection) -> sqlx::Result<bool> {
    // The text of another question, asked earlier through another pooler, must not answer for this one.
    let ours = format!("{:016x}", fastrand::u64(..));
    let question = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE NOT from_sql \
         AND name NOT LIKE 'sqlx\\_s\\_%' AND statement LIKE '%{ours}%')"
    );
    let answer = sqlx::query_scalar::<_, bool>(AssertSqlSafe(question))
        .fetch_one(&mut *pg)
        .await;
    match answer {
        // The name must not stay on a server session that goes on to other clients, nor take a place in the cache.
        Ok(_) if pg.cached_statements_size() > 0 => pg.clear_cached_statements().await?,
        Ok(true) => {}
        Ok(false) => {
            pg.execute(sqlx::raw_sql("DEALLOCATE \"sqlx_s_1\"")).await?;
        }
        // Another client's statement had the name.
        Err(sqlx::Error::Database(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(answer.unwrap_or(false))
}
