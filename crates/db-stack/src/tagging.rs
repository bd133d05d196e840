//! Statements as they are sent: with tags behind them, where there are any.

use arc_swap::ArcSwapOption;
use db_core::Statement;
use db_metrics::{Tags, TracingConfig};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// The tags of one database. Clones share them.
#[derive(Clone)]
pub(crate) struct Tagging(Arc<State>);

struct State {
    /// All that a call looks at where there are none.
    any: AtomicBool,
    tags: ArcSwapOption<Tags>,
}

impl Tagging {
    pub(crate) fn new(config: &TracingConfig) -> Self {
        let state = State {
            any: AtomicBool::new(false),
            tags: ArcSwapOption::empty(),
        };
        let tagging = Self(Arc::new(state));
        tagging.reload(config);
        tagging
    }

    pub(crate) fn reload(&self, config: &TracingConfig) {
        let tags = Tags::new(&config.tags).map(Arc::new);
        self.0.any.store(tags.is_some(), Ordering::Relaxed);
        self.0.tags.store(tags);
    }

    /// The statement as it is sent.
    pub(crate) fn on(&self, statement: Statement) -> Statement {
        if !self.0.any.load(Ordering::Relaxed) {
            return statement;
        }
        let tags = self.0.tags.load();
        match tags.as_ref().and_then(|tags| tags.on(statement.sql())) {
            Some(sql) => statement.sent_as(sql),
            None => statement,
        }
    }
}
