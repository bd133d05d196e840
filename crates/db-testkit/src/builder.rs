//! Settings of a server before it starts.

use std::path::PathBuf;

use tokio::task::spawn_blocking;

use crate::{
    account::Account,
    binaries::Binaries,
    error::StartError,
    home::{self, Home},
    postgres::Postgres,
    recipe::Recipe,
    sweep,
};

/// Made by [`Postgres::builder`].
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct PostgresBuilder {
    bin_dir: Option<PathBuf>,
    recipe: Recipe,
}

impl PostgresBuilder {
    /// Takes the programs from this folder and looks nowhere else.
    pub fn bin_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.bin_dir = Some(dir.into());
        self
    }

    /// A line for `postgresql.conf`; wins over all defaults and over earlier lines of the same name.
    pub fn setting(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.recipe.settings.push((name.into(), value.to_string()));
        self
    }

    /// `max_connections`, 200 by default. Three of them are reserved for superusers.
    pub fn max_connections(mut self, connections: u16) -> Self {
        self.recipe.max_connections = connections;
        self
    }

    /// Whether to listen on 127.0.0.1, true by default. Without it only the Unix socket remains.
    pub fn listen_tcp(mut self, listen: bool) -> Self {
        self.recipe.listen_tcp = listen;
        self
    }

    /// Adds to `shared_preload_libraries`, in the order of the calls.
    pub fn preload(mut self, library: impl Into<String>) -> Self {
        self.recipe.preload.push(library.into());
        self
    }

    /// Keeps `fsync` and `full_page_writes` on and the data on a disk, for measurements that must pay for durability.
    ///
    /// Without it a killed *server* loses nothing, only a crashed *machine* would.
    pub fn durable(mut self) -> Self {
        self.recipe.durable = true;
        self
    }

    /// TCP asks for this password of the user `postgres` (scram-sha-256); the Unix socket stays open.
    pub fn password_auth(mut self, password: impl Into<String>) -> Self {
        self.recipe.password = Some(password.into());
        self
    }

    /// Starts the server and waits until it accepts connections.
    ///
    /// Also removes some folders that killed test processes left behind. Cancel safe: dropping the future ends and
    /// removes what was started.
    ///
    /// # Errors
    /// [`StartError`] when there are no server binaries or the server does not come up within 30 s.
    pub async fn start(self) -> Result<Postgres, StartError> {
        let Self { bin_dir, recipe } = self;
        let durable = recipe.durable;
        let found = spawn_blocking(move || {
            let account = Account::choose()?;
            sweep::sweep(&home::bases(durable));
            Ok((
                account,
                Binaries::find(bin_dir.as_deref()),
                Home::create(account, durable)?,
            ))
        });
        let (account, binaries, home) = found
            .await
            .map_err(|error| StartError::io("prepare a folder")(error.into()))??;
        #[cfg(feature = "fetch")]
        let binaries = match binaries {
            Err(StartError::NoBinaries { looked }) => crate::fetch::fetch(looked).await,
            found => found,
        };
        let binaries = binaries?;
        recipe.cook(&binaries, account, &home).await?;
        Postgres::launch(recipe, account, binaries, home).await
    }
}
