//! The handle: what is counted, and where it goes.

use crate::{
    config::{Exporter, MetricsConfig},
    live::{Happenings, Live, SlowLine},
    measures::Measures,
    publish::{Publisher, Sums, Target},
    readings::Read,
    scraped::Scraped,
};
use db_core::{
    Observers,
    config::{Checks, InvalidConfig},
};
use parking_lot::Mutex;
use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// Counts what happens in a stack and shows it. Cheap to clone.
#[derive(Clone)]
pub struct Meter {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    measures: Option<Arc<Measures>>,
    publisher: Mutex<Publisher>,
    sources: Mutex<Vec<Arc<dyn Read>>>,
    prometheus: Option<Scraped>,
    pub(crate) config: MetricsConfig,
    pub(crate) live: Live,
    pub(crate) happenings: Arc<Happenings>,
    pub(crate) slow: OnceLock<Arc<dyn SlowLines>>,
}

/// Who knows the slow statements.
pub(crate) trait SlowLines: Send + Sync {
    fn lines(&self) -> Vec<SlowLine>;
}

impl Meter {
    /// Counts what `observers` are told from now on.
    ///
    /// # Errors
    /// [`InvalidConfig`] names each key that can't be used.
    pub fn new(config: MetricsConfig, observers: &Observers) -> Result<Self, InvalidConfig> {
        let mut checks = Checks::default();
        config.validate("metrics", &mut checks);
        checks.finish()?;
        let names = config.names();
        let (target, prometheus) = match config.exporter {
            Exporter::Global => (Target::Global, None),
            Exporter::Prometheus => {
                let (recorder, scraped) = Scraped::new(&names)?;
                (Target::Own(recorder), Some(scraped))
            }
        };
        let measures = config.enabled.then(|| {
            let measures = Arc::new(Measures::new(
                config.max_statements,
                config.max_tables,
                config.max_tenants,
            ));
            observers.add(measures.clone());
            measures
        });
        let happenings = Arc::<Happenings>::default();
        if config.enabled {
            observers.add(happenings.clone());
        }
        Ok(Self {
            shared: Arc::new(Shared {
                measures,
                publisher: Mutex::new(Publisher::new(target, names, config.constant_labels())),
                sources: Mutex::default(),
                prometheus,
                config,
                live: Live::new(),
                happenings,
                slow: OnceLock::new(),
            }),
        })
    }

    /// Somebody whose figures are read at each scrape.
    pub fn add_source(&self, source: Arc<dyn Read>) {
        self.shared.sources.lock().push(source);
    }

    /// From which duration on a call counts as slow; `None` counts none.
    pub fn set_slow_threshold(&self, threshold: Option<Duration>) {
        if let Some(measures) = &self.shared.measures {
            measures.set_slow_threshold(threshold);
        }
    }

    /// Begins to take the live page's samples, twice a second, in the runtime of the caller; another recorder than the
    /// built-in exporter gets its metrics then. The exporter does so by itself. Ends with the last handle.
    pub fn start(&self) {
        self.shared.live.start(&self.shared);
    }

    /// Hands on what was counted since the last time. The exporter does so at each scrape.
    pub fn publish(&self) {
        drop(self.shared.publish());
    }

    /// This moment in Prometheus's text format; empty when another recorder gets the metrics, or none are counted.
    pub fn render(&self) -> String {
        self.publish();
        match &self.shared.prometheus {
            Some(scraped) if self.shared.config.enabled => scraped.render(),
            _ => String::new(),
        }
    }

    /// How many series have been made, and how many statements are remembered.
    pub fn size(&self) -> (usize, usize) {
        let statements = self
            .shared
            .measures
            .as_ref()
            .map_or(0, |measures| measures.statements());
        (self.shared.publisher.lock().series(), statements)
    }

    /// The settings, as they were at the start.
    pub fn config(&self) -> &MetricsConfig {
        &self.shared.config
    }
}

impl Shared {
    pub(crate) fn slow_lines(&self) -> Vec<SlowLine> {
        self.slow.get().map_or_else(Vec::new, |slow| slow.lines())
    }

    /// The newest sums, once they are published.
    pub(crate) fn publish(&self) -> Sums {
        let Some(measures) = &self.measures else {
            return Sums::default();
        };
        let sources = self.sources.lock().clone();
        let sums = {
            let mut publisher = self.publisher.lock();
            publisher.publish(measures, &sources);
            publisher.sums().clone()
        };
        // Else the values of histograms are kept one by one until the next scrape.
        if let Some(scraped) = &self.prometheus {
            scraped.run_upkeep();
        }
        sums
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}
