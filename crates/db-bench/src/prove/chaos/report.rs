//! What each fault did, with the stack and without.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    time::Duration,
};

use crate::prove::chaos::{fault::Fault, probe::Effect};

/// One fault as it went.
#[derive(Clone, Copy)]
pub(crate) struct Passed {
    pub(crate) fault: Fault,
    pub(crate) stacked: Effect,
    /// When the stack itself saw it.
    pub(crate) seen: Option<Duration>,
    pub(crate) bare: Effect,
}

/// All that happened to one subject under one kind of fault.
#[derive(Clone, Copy, Default)]
struct Sum {
    calls: u64,
    errors: u64,
    noticed: Option<Duration>,
    recovered: Duration,
    disturbed: bool,
}

impl Sum {
    fn add(&mut self, effect: Effect, noticed: Option<Duration>) {
        self.calls += effect.calls;
        self.errors += effect.errors;
        self.noticed = self.noticed.max(noticed);
        self.recovered = self.recovered.max(effect.recovered);
        self.disturbed |= effect.disturbed;
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noticed = self
            .noticed
            .map_or("-".to_owned(), |noticed| format!("{} ms", noticed.as_millis()));
        let recovered = match self.disturbed {
            true => "not in time".to_owned(),
            false => format!("{} ms", self.recovered.as_millis()),
        };
        write!(f, "{} of {} | {noticed} | {recovered}", self.errors, self.calls)
    }
}

/// As Markdown. Of several times that a fault happened, calls and errors are added up, and the longest times are shown.
pub(crate) fn table(all: &[Passed]) -> String {
    let mut sums: BTreeMap<Fault, (u32, Sum, Sum)> = BTreeMap::new();
    for passed in all {
        let (times, stacked, bare) = sums.entry(passed.fault).or_default();
        *times += 1;
        stacked.add(passed.stacked, passed.seen);
        bare.add(passed.bare, passed.bare.noticed);
    }
    let mut out = String::from(
        "| fault | times | `Db`: errors | detected | recovered | `PgPool`: errors | detected | recovered |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for (fault, (times, stacked, bare)) in sums {
        // Writing to a String can't fail.
        let _ = writeln!(out, "| {} | {times} | {stacked} | {bare} |", fault.name());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_the_longest_and_errors_are_added_up() {
        let effect = |errors, ms| Effect {
            calls: 10,
            errors,
            noticed: Some(Duration::from_millis(ms)),
            recovered: Duration::from_millis(ms),
            disturbed: false,
        };
        let passed = |errors, ms| Passed {
            fault: Fault::Freeze,
            stacked: effect(errors, ms),
            seen: None,
            bare: effect(errors + 5, ms),
        };
        let table = table(&[passed(1, 7), passed(2, 3)]);
        assert!(
            table.ends_with("| server frozen | 2 | 3 of 20 | - | 7 ms | 13 of 20 | 7 ms | 7 ms |\n"),
            "{table}"
        );
    }
}
