//! The layer and its handle.

use crate::{class::ClassLimits, config::TimeoutConfig, ledger::Ledger, service::Timeout, stats::TimeoutStats};
use db_core::{Layer, Observers, QueryClass, config::InvalidConfig};
use std::{fmt, sync::Arc};

/// Puts [`Timeout`] around a service. Cheap to clone; all clones, and all services that they wrap, share settings and
/// counts.
#[derive(Clone)]
pub struct TimeoutLayer {
    pub(crate) ledger: Arc<Ledger>,
}

impl TimeoutLayer {
    /// A layer that tells `observers` what happens.
    ///
    /// # Errors
    /// [`InvalidConfig`] names each key that is out of range.
    pub fn new(config: TimeoutConfig, observers: Observers) -> Result<Self, InvalidConfig> {
        Ok(Self {
            ledger: Arc::new(Ledger::new(config, observers)?),
        })
    }

    /// Swaps the settings. Calls that run keep their limit; what was counted and learned stays.
    ///
    /// # Errors
    /// [`InvalidConfig`]; the settings in force stay.
    pub fn reload(&self, config: TimeoutConfig) -> Result<(), InvalidConfig> {
        self.ledger.reload(config)
    }

    /// The settings in force.
    pub fn config(&self) -> TimeoutConfig {
        self.ledger.settings().config.clone()
    }

    /// The limits of a class that are in force; for the layers that retry and cache by class.
    pub fn limits(&self, class: QueryClass) -> ClassLimits {
        self.ledger.settings().class(class).limits
    }

    /// What has been counted, readable at any time.
    pub fn stats(&self) -> TimeoutStats {
        TimeoutStats(Arc::clone(&self.ledger))
    }
}

impl Default for TimeoutLayer {
    /// The default limits, and nobody listens.
    fn default() -> Self {
        Self::new(TimeoutConfig::default(), Observers::default()).expect("the default settings are valid")
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout {
            ledger: Arc::clone(&self.ledger),
            inner,
        }
    }
}

impl fmt::Debug for TimeoutLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutLayer")
            .field("mode", &self.ledger.settings().config.mode)
            .finish_non_exhaustive()
    }
}
