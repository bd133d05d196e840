//! What all services of one layer share: settings in force, books, observers.

use crate::{
    books::{ClassBook, Statements},
    class::ClassLimits,
    config::TimeoutConfig,
    stats::ClassStats,
};
use arc_swap::ArcSwap;
use db_core::{
    Observers, QueryClass,
    config::{Checks, InvalidConfig},
};
use std::sync::Arc;

/// The name under which custom classes are reported that are not configured.
const OTHER: &str = "other";

pub(crate) struct Ledger {
    settings: ArcSwap<Settings>,
    statements: Statements,
    observers: Observers,
}

/// A configuration that has been checked, with its classes laid out for look-up.
pub(crate) struct Settings {
    pub(crate) config: TimeoutConfig,
    /// The five built-in ones, the custom ones by name, and `other`.
    classes: Vec<Class>,
}

pub(crate) struct Class {
    name: Box<str>,
    pub(crate) limits: ClassLimits,
    pub(crate) book: Arc<ClassBook>,
}

impl Settings {
    /// Classes that exist in `before` keep their books.
    fn new(config: TimeoutConfig, before: Option<&Self>) -> Result<Self, InvalidConfig> {
        let mut checks = Checks::default();
        config.validate("timeout", &mut checks);
        checks.finish()?;
        let class = |name: &str, limits: &ClassLimits| Class {
            name: name.into(),
            limits: *limits,
            book: before
                .and_then(|before| before.book(name))
                .unwrap_or_else(|| Arc::new(ClassBook::new())),
        };
        let mut classes = vec![
            class("instant", &config.instant),
            class("fast", &config.fast),
            class("normal", &config.normal),
            class("slow", &config.slow),
            class("batch", &config.batch),
        ];
        classes.extend(config.custom.iter().map(|(name, limits)| class(name, limits)));
        classes.push(class(OTHER, &config.normal));
        Ok(Self { config, classes })
    }

    fn book(&self, name: &str) -> Option<Arc<ClassBook>> {
        self.classes
            .iter()
            .find(|class| &*class.name == name)
            .map(|class| Arc::clone(&class.book))
    }

    pub(crate) fn class(&self, class: QueryClass) -> &Class {
        let other = self.classes.len() - 1;
        let at = match class {
            QueryClass::Instant => 0,
            QueryClass::Fast => 1,
            QueryClass::Normal => 2,
            QueryClass::Slow => 3,
            QueryClass::Batch => 4,
            QueryClass::Custom(name) => match self.classes[5..other].binary_search_by(|c| (*c.name).cmp(name)) {
                Ok(at) => 5 + at,
                Err(_) => other,
            },
            _ => other,
        };
        &self.classes[at]
    }
}

impl Ledger {
    pub(crate) fn new(config: TimeoutConfig, observers: Observers) -> Result<Self, InvalidConfig> {
        let settings = Settings::new(config, None)?;
        let statements = Statements::new(settings.config.max_statements);
        Ok(Self {
            settings: ArcSwap::from_pointee(settings),
            statements,
            observers,
        })
    }

    pub(crate) fn reload(&self, config: TimeoutConfig) -> Result<(), InvalidConfig> {
        let settings = Settings::new(config, Some(&self.settings.load()))?;
        self.statements.resize(settings.config.max_statements);
        self.settings.store(Arc::new(settings));
        Ok(())
    }

    pub(crate) fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    pub(crate) fn statements(&self) -> &Statements {
        &self.statements
    }

    pub(crate) fn observers(&self) -> &Observers {
        &self.observers
    }

    pub(crate) fn class_stats(&self) -> Vec<ClassStats> {
        let settings = self.settings.load();
        let window = settings.config.window;
        settings
            .classes
            .iter()
            .map(|class| class.book.stats(&class.name, class.limits, window))
            .collect()
    }
}
