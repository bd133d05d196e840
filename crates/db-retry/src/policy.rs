//! What the layer, transactions and loops of one database share: settings, budget, counts.

use crate::{
    backoff::{Backoff, BackoffPolicy, Pace},
    books::Books,
    budget::RetryBudget,
    classify::Verdict,
    config::RetryConfig,
    stats::RetryStats,
};
use arc_swap::{ArcSwap, Guard};
use db_core::{
    Observers, QueryClass, RetryCause,
    config::{Checks, InvalidConfig},
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// When and how one database's failed calls are tried again. Cheap to clone; all clones, and everything that is made of
/// them ([`RetryLayer`](crate::RetryLayer), [`around`](crate::around), [`RetryPolicy::transaction`]), share settings,
/// budget and counts. One per database: with two, each has a budget of its own.
#[derive(Clone)]
pub struct RetryPolicy {
    pub(crate) shared: Arc<Shared>,
}

/// What a caller may bring of its own.
#[derive(Clone, Default)]
pub struct RetryParts {
    /// Pauses other than those of [`RetryConfig::strategy`]; the settings about delays are then without effect.
    pub backoff: Option<Arc<dyn BackoffPolicy>>,
    /// A budget that others share as well, such as hedges; the settings about it are then without effect.
    pub budget: Option<RetryBudget>,
    /// Which classes of calls may be tried again; a stale plan is for any class, since nothing ran. Asked when a call
    /// has failed. Default: all.
    pub classes: Option<Arc<dyn Fn(QueryClass) -> bool + Send + Sync>>,
    /// Makes all pauses the same in every run. Default: different in every process.
    pub seed: Option<u64>,
}

pub(crate) struct Shared {
    settings: ArcSwap<Settings>,
    parts: RetryParts,
    budget: RetryBudget,
    seeds: AtomicU64,
    pub(crate) observers: Observers,
    pub(crate) books: Books,
}

/// A configuration that has been checked.
pub(crate) struct Settings {
    pub(crate) config: RetryConfig,
    backoff: Arc<dyn BackoffPolicy>,
}

impl Settings {
    fn new(config: RetryConfig, parts: &RetryParts) -> Result<Self, InvalidConfig> {
        let mut checks = Checks::default();
        config.validate("retry", &mut checks);
        checks.finish()?;
        let backoff = parts.backoff.clone().unwrap_or_else(|| config.backoff());
        Ok(Self { config, backoff })
    }
}

impl RetryPolicy {
    /// A policy that tells `observers` what happens.
    ///
    /// # Errors
    /// [`InvalidConfig`] names each key that is out of range.
    pub fn new(config: RetryConfig, observers: Observers) -> Result<Self, InvalidConfig> {
        Self::with_parts(config, observers, RetryParts::default())
    }

    /// The same with parts of the caller's own.
    ///
    /// # Errors
    /// [`InvalidConfig`], as for [`RetryPolicy::new`].
    pub fn with_parts(config: RetryConfig, observers: Observers, parts: RetryParts) -> Result<Self, InvalidConfig> {
        let settings = Settings::new(config, &parts)?;
        let RetryConfig {
            budget_ratio,
            budget_floor,
            budget_span,
            ..
        } = settings.config;
        let own = || RetryBudget::new(budget_ratio, budget_floor.into(), budget_span);
        let shared = Shared {
            budget: parts.budget.clone().unwrap_or_else(own),
            seeds: AtomicU64::new(parts.seed.unwrap_or_else(|| fastrand::u64(..))),
            settings: ArcSwap::from_pointee(settings),
            parts,
            observers,
            books: Books::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Swaps the settings. They hold from the next failure on; what was counted and saved stays.
    ///
    /// # Errors
    /// [`InvalidConfig`]; the settings in force stay.
    pub fn reload(&self, config: RetryConfig) -> Result<(), InvalidConfig> {
        let settings = Settings::new(config, &self.shared.parts)?;
        if self.shared.parts.budget.is_none() {
            let RetryConfig {
                budget_ratio,
                budget_floor,
                budget_span,
                ..
            } = settings.config;
            self.shared
                .budget
                .adjust(budget_ratio, budget_floor.into(), budget_span);
        }
        self.shared.settings.store(Arc::new(settings));
        Ok(())
    }

    /// The settings in force.
    pub fn config(&self) -> RetryConfig {
        self.shared.settings().config.clone()
    }

    /// The budget, for whoever else sends calls twice.
    pub fn budget(&self) -> &RetryBudget {
        &self.shared.budget
    }

    /// What has been counted up to now.
    pub fn stats(&self) -> RetryStats {
        self.shared.books.snapshot(self.shared.budget.balance())
    }
}

impl Default for RetryPolicy {
    /// The default settings, and nobody listens.
    fn default() -> Self {
        Self::new(RetryConfig::default(), Observers::default()).expect("the default settings are valid")
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("mode", &self.shared.settings().config.mode)
            .field("budget", &self.shared.budget)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RetryParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryParts")
            .field("backoff", &self.backoff.is_some())
            .field("budget", &self.budget)
            .field("classes", &self.classes.is_some())
            .field("seed", &self.seed)
            .finish()
    }
}

impl Shared {
    pub(crate) fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    pub(crate) fn budget(&self) -> &RetryBudget {
        &self.budget
    }

    /// What the class of a call leaves of a verdict.
    pub(crate) fn allowed(&self, verdict: Verdict, class: QueryClass) -> Verdict {
        let cause = match verdict {
            Verdict::Never | Verdict::Ambiguous => return verdict,
            Verdict::Once(cause) | Verdict::Backoff(cause) | Verdict::RerunTransaction(cause) => cause,
        };
        let heals = matches!(cause, RetryCause::StalePlan | RetryCause::LostPlan);
        if heals || self.parts.classes.as_ref().is_none_or(|may| may(class)) {
            verdict
        } else {
            Verdict::Never
        }
    }

    pub(crate) fn start_backoff(&self, pace: Pace) -> Box<dyn Backoff> {
        let count = self.seeds.fetch_add(1, Ordering::Relaxed);
        self.settings().backoff.start(pace, scatter(count))
    }
}

/// Turns numbers that follow each other into seeds that have nothing to do with each other (splitmix64).
fn scatter(count: u64) -> u64 {
    let mut z = count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
