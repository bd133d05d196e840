//! LISTEN that survives a reconnect and says so.

use crate::{Db, cached::ListensOnly};
use db_core::{NeedsSession, Result};
use sqlx::postgres::{PgListener, PgNotification};
use std::{fmt, time::Duration};
use tokio::{sync::watch, time::sleep};

/// Waits between attempts to get the connection back.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What a [`Listener`] hears.
#[derive(Debug)]
pub enum Message {
    /// A notification.
    Notification(PgNotification),
    /// The connection was lost, or the endpoint has moved, and it is back: whatever was sent in between has been missed.
    Reconnected,
}

/// LISTEN on one connection of the budget, until dropped.
pub struct Listener {
    db: Db,
    channels: Vec<String>,
    listener: Option<(PgListener, ListensOnly)>,
    /// Of the endpoint.
    epochs: watch::Receiver<u64>,
}

impl Db {
    /// A connection that listens. It counts against the pool's budget.
    ///
    /// # Errors
    /// When no connection is to be had; [`Error::NeedsSession`](crate::Error::NeedsSession) through a transaction pooler.
    pub async fn listener(&self) -> Result<Listener> {
        self.at_home("LISTEN")?;
        let mut listener = Listener {
            db: self.clone(),
            channels: Vec::new(),
            listener: None,
            epochs: self.inner.pool.epochs(),
        };
        listener.open().await?;
        Ok(listener)
    }
}

impl Listener {
    /// Starts to listen on a channel; after a reconnect it still does.
    ///
    /// # Errors
    /// The server's or the connection's.
    pub async fn listen(&mut self, channel: &str) -> Result<()> {
        self.open().await?.listen(channel).await?;
        self.channels.push(channel.to_owned());
        Ok(())
    }

    /// Stops listening on a channel.
    ///
    /// # Errors
    /// The server's or the connection's.
    pub async fn unlisten(&mut self, channel: &str) -> Result<()> {
        self.channels.retain(|known| known != channel);
        self.open().await?.unlisten(channel).await?;
        Ok(())
    }

    /// The next message. A lost connection is opened again, with jittered waits, for as long as it takes; the first
    /// thing heard then is [`Message::Reconnected`]. Cancel-safe.
    ///
    /// # Errors
    /// When the database has been closed.
    pub async fn recv(&mut self) -> Result<Message> {
        let mut wait = RECONNECT.0;
        loop {
            match self.listener.as_mut() {
                Some((listener, _)) => tokio::select! {
                    heard = listener.try_recv() => match heard {
                        Ok(Some(notification)) => return Ok(Message::Notification(notification)),
                        Ok(None) | Err(_) => self.listener = None,
                    },
                    // The server of before may live on, and nobody tells it anything any more.
                    Ok(()) = self.epochs.changed() => self.listener = None,
                },
                None => match self.open().await.map(drop) {
                    Ok(()) => return Ok(Message::Reconnected),
                    Err(error) if self.db.is_closed() => return Err(error),
                    Err(_) => {
                        sleep(wait.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
                        wait = (wait * 2).min(RECONNECT.1);
                    }
                },
            }
        }
    }

    /// The connection, opened again on the channels of before if it was lost. Always a new one: sqlx's listener keeps
    /// a connection that was reset.
    async fn open(&mut self) -> Result<&mut PgListener> {
        if self.listener.is_none() {
            let pool = &self.db.inner.pool;
            self.db.inner.breaker.check(&self.db.wishes())?;
            if pool.shared_session(&self.db.wishes()).await?.is_some() {
                return Err(NeedsSession::Listen.into());
            }
            self.epochs.mark_unchanged();
            let lent = pool.lend(&self.db.wishes()).await?;
            let mut listener = PgListener::connect_with(pool.inner()).await?;
            lent.taken_over();
            // A gap must never be silent.
            listener.eager_reconnect(false);
            listener.listen_all(self.channels.iter().map(String::as_str)).await?;
            self.listener = Some((listener, ListensOnly::new(&self.db.inner)));
        }
        let (listener, _) = self.listener.as_mut().expect("opened above");
        Ok(listener)
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("channels", &self.channels.len())
            .finish_non_exhaustive()
    }
}
