//! A database for one test, on whichever server there is.

use std::{env, error::Error, str::FromStr, sync::mpsc, thread, time::Duration};

use sqlx::postgres::PgConnectOptions;

use crate::{
    cluster::Cluster,
    database::{self, Database},
    error::ServerError,
    postgres::Postgres,
    template::Template,
};

/// How long a drop may wait for the server.
const CLEANUP: Duration = Duration::from_secs(2);

/// A fresh database, on the server named by `DB_STACK_PG_URL` (a superuser's URL) or else on an own one.
///
/// On the server of others, dropping the value drops the database, best effort: on a thread of its own, so that it works
/// with and without a runtime, waiting for 2 s at most and never panicking. An own server just goes.
#[derive(Debug)]
pub struct TestDatabase {
    database: Database,
    cluster: Cluster,
    server: Option<Postgres>,
}

/// A fresh database; see [`TestDatabase::create`].
///
/// # Panics
/// When there is no server and none can be started.
pub async fn database() -> TestDatabase {
    match TestDatabase::create().await {
        Ok(database) => database,
        Err(error) => panic!("no test database: {}", chain(&error)),
    }
}

impl TestDatabase {
    /// An empty database.
    ///
    /// # Errors
    /// When the named server can't be used, or no own one started.
    pub async fn create() -> Result<Self, ServerError> {
        let (cluster, server) = server().await?;
        let database = Database::create(&cluster, "template0").await?;
        Ok(Self {
            database,
            cluster,
            server,
        })
    }

    /// A copy of the template `name`, which the first process to ask makes with `seed` (it gets the template's URL) while
    /// the others wait. On the server of others it stays, so a changed seed wants a changed name.
    ///
    /// # Errors
    /// As for [`create`](Self::create), or [`ServerError::Seed`].
    pub async fn from_template<S, F, E>(name: &str, seed: S) -> Result<Self, ServerError>
    where
        S: FnOnce(String) -> F,
        F: Future<Output = Result<(), E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let (cluster, server) = server().await?;
        let template = Template::prepare_once(&cluster, name, seed).await?;
        Ok(Self {
            database: template.database().await?,
            cluster,
            server,
        })
    }

    /// The database's URL.
    pub fn url(&self) -> String {
        self.database.url()
    }

    /// What [`url`](Self::url) says, with sqlx's statement logging off.
    pub fn options(&self) -> PgConnectOptions {
        self.database.options()
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        self.database.name()
    }

    /// The own server, when `DB_STACK_PG_URL` names none.
    pub fn server(&self) -> Option<&Postgres> {
        self.server.as_ref()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if self.server.is_some() {
            return;
        }
        let (cluster, name) = (self.cluster.clone(), self.database.name().to_owned());
        let (done, wait) = mpsc::sync_channel::<()>(1);
        let cleaner = thread::Builder::new()
            .name("db-testkit-cleaner".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                if let Ok(runtime) = runtime {
                    // The runner throws the server away, so a leftover costs little.
                    let _ = runtime.block_on(database::drop_named(&cluster, &name));
                }
                drop(done);
            });
        if cleaner.is_ok() {
            // Nobody sends: it ends when the thread is done or the time is up.
            let _ = wait.recv_timeout(CLEANUP);
        }
    }
}

async fn server() -> Result<(Cluster, Option<Postgres>), ServerError> {
    match env::var("DB_STACK_PG_URL") {
        Ok(url) if !url.is_empty() => {
            PgConnectOptions::from_str(&url)?;
            Ok((Cluster::new(url.clone(), url), None))
        }
        _ => {
            let server = Postgres::start().await?;
            Ok((server.cluster.clone(), Some(server)))
        }
    }
}

/// An error with all its causes: a panic shows only the first otherwise.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
