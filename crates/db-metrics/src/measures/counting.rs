//! The observer that counts calls: on the path of each of them.

use super::{CANCELLED, CREATE, DONE, Measures, PART, SERVER, USE, WAIT};
use crate::{
    statements::{Known, Operation, TableSeries},
    tally::{Series, Sheet, Tallies, Time},
};
use db_core::{CallReport, Event, Observer, Outcome, Part, Spent, StatementFacts};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

impl Observer for Measures {
    fn event(&self, event: &Event) {
        match event {
            Event::Connected { took } => self.book.open().tallies.note(CREATE, Time::of(*took)),
            // What another caller's read answers is no call of its own.
            Event::CacheCoalesced { waited, .. } => {
                let series = Series(PART + Part::Cache.index() as u32);
                self.book.open().tallies.note(series, Time::of(*waited));
            }
            _ => {}
        }
        self.happened.event(event);
        self.conditions.event(event);
    }

    fn watches_calls(&self) -> bool {
        true
    }

    fn call(&self, report: &CallReport<'_>) {
        let times = Times::of(report);
        let class = self.class(report.call.class);
        let operation = match (report.outcome, report.facts) {
            (Outcome::Done, Some(facts)) => self.done(facts, class, &times),
            (Outcome::Done, None) => {
                let operation = without_text(report);
                let series = Series(DONE + u32::from(operation.0));
                times.note(&mut self.book.open().tallies, series, class, &[]);
                operation
            }
            _ => self.not_done(report, class, &times),
        };
        if let Some(tenant) = &report.call.tenant {
            self.of_tenant(tenant.id(), matches!(report.outcome, Outcome::Done));
        }
        if report.took.as_nanos() > u128::from(self.slow_threshold.load(Ordering::Relaxed)) {
            self.slow[operation.0 as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn leased(&self, waited: Duration) {
        self.book.open().tallies.note(WAIT, Time::of(waited));
    }

    fn returned(&self, held: Duration) {
        self.book.open().tallies.note(USE, Time::of(held));
    }
}

/// The times of one call, each with its cell.
struct Times<'a> {
    took: Time,
    server: Time,
    waited: Option<Time>,
    held: Option<Time>,
    spent: &'a Spent,
}

impl<'a> Times<'a> {
    fn of(report: &CallReport<'a>) -> Self {
        let took = Time::of(report.took);
        let waits = !report.spent.is_nothing();
        Self {
            took,
            server: if waits { Time::of(report.server()) } else { took },
            waited: report.waited.map(Time::of),
            held: report.held.map(Time::of),
            spent: report.spent,
        }
    }

    fn note(&self, tallies: &mut Tallies, series: Series, class: Series, tables: &[TableSeries]) {
        tallies.note(series, self.took);
        tallies.note(class, self.took);
        tallies.note(SERVER, self.server);
        for table in tables {
            tallies.note(table.series, self.took);
        }
        if let Some(waited) = self.waited {
            tallies.note(WAIT, waited);
        }
        if let Some(held) = self.held {
            tallies.note(USE, held);
        }
        if !self.spent.is_nothing() {
            for (part, spent) in self.spent.parts() {
                tallies.note(Series(PART + part.index() as u32), Time::of(spent));
            }
        }
    }
}

impl Measures {
    /// A statement that ended well: one lock, and no look-up beyond this thread's.
    fn done(&self, facts: &StatementFacts, class: Series, times: &Times<'_>) -> Operation {
        let mut sheet = self.book.open();
        let Sheet { tallies, at_hand } = &mut *sheet;
        if let Some(known) = at_hand.find(facts) {
            let series = Series(DONE + u32::from(known.operation.0));
            times.note(tallies, series, class, &known.tables);
            return known.operation;
        }
        drop(sheet);
        let known = self.learn(facts);
        let series = Series(DONE + u32::from(known.operation.0));
        times.note(&mut self.book.open().tallies, series, class, &known.tables);
        known.operation
    }

    /// From the list of all threads; afterwards it is at hand.
    #[cold]
    fn learn(&self, facts: &StatementFacts) -> Arc<Known> {
        let known = self.statements.known(facts, || self.fresh());
        // What had its place is dropped outside of the lock.
        let before = self.book.open().at_hand.keep(facts, known.clone());
        drop(before);
        known
    }

    #[cold]
    fn not_done(&self, report: &CallReport<'_>, class: Series, times: &Times<'_>) -> Operation {
        let known = report.facts.map(|facts| self.learn(facts));
        let operation = known
            .as_ref()
            .map_or_else(|| without_text(report), |known| known.operation);
        let tables = known.as_ref().map_or(&[][..], |known| &known.tables);
        let series = match report.outcome {
            Outcome::Failed(error) => {
                for table in tables {
                    self.failed_on(table.table, table.operation);
                }
                self.failed(operation, &error.error_type())
            }
            _ => Series(CANCELLED + u32::from(operation.0)),
        };
        times.note(&mut self.book.open().tallies, series, class, tables);
        operation
    }
}

/// What a transaction runs without a text of the caller's (BEGIN, COMMIT), or a whole transaction as one call.
fn without_text(report: &CallReport<'_>) -> Operation {
    if report.in_transaction {
        Operation::TRANSACTION
    } else {
        Operation::OTHER
    }
}
