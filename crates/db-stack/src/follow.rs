//! Settings that are followed while the program runs: a switch is flipped by writing a file.

use crate::{Db, config::DbConfig, db::Inner};
use db_core::{Call, Error, config::InvalidConfig};
use parking_lot::Mutex;
use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    task::{AbortHandle, spawn_blocking},
    time::{MissedTickBehavior, interval},
};

/// What has come of following.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Followed {
    /// Settings that were taken over.
    pub reloads: u64,
    /// Times that the source was wrong in a new way; the settings in force stayed.
    pub refused: u64,
    /// Why, as long as it is wrong.
    pub problem: Option<String>,
}

/// Ends the following when it is dropped. Made by [`Db::follow`].
#[must_use = "dropping it ends the following"]
pub struct Following {
    task: AbortHandle,
    followed: Arc<Mutex<Followed>>,
}

impl Following {
    /// What has come of it so far.
    pub fn stats(&self) -> Followed {
        self.followed.lock().clone()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Following").field("followed", &self.stats()).finish()
    }
}

impl Db {
    /// Reads the settings again each `every`, on a thread for blocking work, and [reloads](Db::reload) those that differ
    /// from the ones in force. What is wrong is logged once and changes nothing, so a file that is half written, missing
    /// or mistyped is harmless. Comparing what was read, rather than times of files, also sees a link that was switched
    /// to another file, as Kubernetes does it.
    ///
    /// ```no_run
    /// use db_stack::{Db, DbConfig};
    /// use std::time::Duration;
    ///
    /// # async fn example() -> Result<(), db_stack::Error> {
    /// let settings = || DbConfig::load().file("db.toml").env(DbConfig::ENV_PREFIX).build();
    /// let db = Db::builder().config(settings()?).connect().await?;
    /// let _following = db.follow(Duration::from_secs(2), settings);
    /// # Ok(()) }
    /// ```
    ///
    /// It ends with the returned handle, and with the last handle of the database.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn follow(
        &self,
        every: Duration,
        source: impl Fn() -> Result<DbConfig, InvalidConfig> + Send + Sync + 'static,
    ) -> Following {
        let followed = Arc::new(Mutex::new(Followed::default()));
        let task = tokio::spawn(follow(
            Arc::downgrade(&self.inner),
            every.max(Duration::from_millis(1)),
            Arc::new(source),
            followed.clone(),
        ));
        Following {
            task: task.abort_handle(),
            followed,
        }
    }
}

async fn follow(
    inner: Weak<Inner>,
    every: Duration,
    source: Arc<dyn Fn() -> Result<DbConfig, InvalidConfig> + Send + Sync>,
    followed: Arc<Mutex<Followed>>,
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let read = source.clone();
        // A source that panics is one that is wrong.
        let config = match spawn_blocking(move || read()).await {
            Ok(config) => config.map_err(Error::from),
            Err(_) => Err(InvalidConfig::one("settings", "a panic", "settings").into()),
        };
        let Some(inner) = inner.upgrade() else {
            return;
        };
        let db = Db {
            inner,
            call: Call::default(),
            urgency_said: false,
        };
        if db.is_closed() {
            return;
        }
        take_over(&db, config, &followed);
    }
}

fn take_over(db: &Db, config: Result<DbConfig, Error>, followed: &Mutex<Followed>) {
    let taken = config.and_then(|config| {
        let new = config != *db.config();
        if new {
            db.reload(config).map(|()| true)
        } else {
            Ok(false)
        }
    });
    let mut followed = followed.lock();
    match taken {
        Ok(new) => {
            followed.problem = None;
            followed.reloads += u64::from(new);
            if new {
                tracing::info!(target: "db_stack::config", "settings were reloaded");
            }
        }
        Err(error) => {
            let problem = error.to_string();
            if followed.problem.as_deref() != Some(&problem) {
                tracing::warn!(target: "db_stack::config", problem, "settings can't be used: those in force stay");
                followed.refused += 1;
                followed.problem = Some(problem);
            }
        }
    }
}
