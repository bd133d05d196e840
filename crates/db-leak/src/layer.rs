//! The layer and its handle.

use crate::{config::LeakConfig, leak::Leak, ledger::Ledger, view::Leases};
use db_core::{Layer, Observers, config::InvalidConfig};
use std::{fmt, sync::Arc};

/// Puts [`Leak`] around a source of leases. Cheap to clone; all clones, and all sources that they wrap, share settings
/// and counts.
#[derive(Clone)]
pub struct LeakLayer {
    pub(crate) ledger: Arc<Ledger>,
}

impl LeakLayer {
    /// A layer that tells `observers` what it finds.
    ///
    /// # Errors
    /// [`InvalidConfig`] names each key that is out of range.
    pub fn new(config: LeakConfig, observers: Observers) -> Result<Self, InvalidConfig> {
        Ok(Self {
            ledger: Arc::new(Ledger::new(config, observers)?),
        })
    }

    /// Swaps the settings, for leases that are out as well. One that was handed out while the mode was `off` stays
    /// unknown.
    ///
    /// # Errors
    /// [`InvalidConfig`]; the settings in force stay.
    pub fn reload(&self, config: LeakConfig) -> Result<(), InvalidConfig> {
        self.ledger.reload(config)
    }

    /// The settings in force.
    pub fn config(&self) -> LeakConfig {
        LeakConfig::clone(&self.ledger.settings())
    }

    /// The leases that are out, what the others were used for, and what was found.
    pub fn leases(&self) -> Leases {
        self.ledger.leases()
    }
}

impl Default for LeakLayer {
    /// The default settings, and nobody listens.
    fn default() -> Self {
        Self::new(LeakConfig::default(), Observers::default()).expect("the default settings are valid")
    }
}

impl<C> Layer<C> for LeakLayer {
    type Service = Leak<C>;

    fn layer(&self, source: C) -> Leak<C> {
        Leak::new(Arc::clone(&self.ledger), source)
    }
}

impl fmt::Debug for LeakLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeakLayer")
            .field("mode", &self.ledger.settings().mode)
            .finish_non_exhaustive()
    }
}
