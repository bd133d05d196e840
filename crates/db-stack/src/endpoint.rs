//! One server as the stack sees it: its pool, and the breaker before it.

use crate::DbConfig;
use db_core::{BreakerCause, BreakerState, Error, Observers, Result, Sent, config::InvalidConfig};
use db_health::{Boxed, Breaker, BreakerConfig, Probe};
use db_pool::{OptionsSource, Pool};
use sqlx::ConnectOptions;
use std::{future::ready, sync::Arc};

/// The options of a configuration, made anew for each connection: the password file and the environment are read then.
pub(crate) fn options_of(config: &DbConfig) -> OptionsSource {
    let parts = DbConfig {
        connection: config.connection.clone(),
        session: config.session.clone(),
        ..DbConfig::default()
    };
    let parts = Arc::new(parts);
    Arc::new(move || {
        let options = parts.connect_options();
        Box::pin(ready(options.map_err(|error| sqlx::Error::Configuration(error.into()))))
    })
}

/// The same options, with sqlx logging no statement: the stack tells of every one itself.
pub(crate) fn unlogged(source: OptionsSource) -> OptionsSource {
    Arc::new(move || {
        let asked = source();
        Box::pin(async move { Ok(asked.await?.disable_statement_logging()) })
    })
}

/// The breaker before the server of `pool`.
pub(crate) fn breaker(pool: &Pool, config: BreakerConfig, observers: Observers) -> Result<Breaker, InvalidConfig> {
    let probe = EndpointProbe { pool: pool.clone() };
    Ok(Breaker::new(config, observers)?.probed_by(Arc::new(probe)))
}

/// Tries the server on a connection beside the pool, and keeps the pool from dialling meanwhile.
struct EndpointProbe {
    pool: Pool,
}

impl Probe for EndpointProbe {
    fn probe(&self, cause: BreakerCause) -> Boxed<'_, Result<(), Error>> {
        Box::pin(async move {
            let limit = self.pool.config().connect_timeout;
            // Opening it takes a round trip with a statement, and tells which server it is.
            let beside = self.pool.beside(limit).await?;
            if cause == BreakerCause::WrongNode && beside.server().standby {
                return Err(still_a_standby());
            }
            self.pool.hold(false);
            Ok(())
        })
    }

    fn changed(&self, state: BreakerState) {
        match state {
            BreakerState::Open | BreakerState::ForcedOpen => self.pool.hold(true),
            BreakerState::Closed | BreakerState::Disabled => self.pool.hold(false),
            _ => {}
        }
    }
}

fn still_a_standby() -> Error {
    Error::Network {
        sent: Sent::No,
        source: Box::new(sqlx::Error::Protocol("the node is still a standby".to_owned())),
    }
}
