//! How each check stood when it was last found out, and how often it has failed: what metrics show of reports.

use super::{
    detail::Detail,
    lane,
    report::{HealthReport, Status},
};
use std::{borrow::Cow, collections::BTreeMap};

/// Checks that are remembered; more of the user's own are in reports alone.
const MOST: usize = 64;
/// The checks that need no connection.
pub(crate) const LOCAL: [&str; 4] = ["pool", "calls", "breaker", "leases"];

/// One check, over all reports so far.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Standing {
    /// How it was in the newest report that could find out; `None` before the first one.
    pub status: Option<Status>,
    /// Reports in which it was unhealthy.
    pub failures: u64,
    /// The figures of the newest report that had any.
    pub detail: Detail,
}

/// All checks by name; those that come with the crate are there from the start.
pub(crate) struct Standings(BTreeMap<Cow<'static, str>, Standing>);

impl Default for Standings {
    fn default() -> Self {
        let names = lane::NAMES.into_iter().chain(LOCAL).map(Cow::Borrowed);
        Self(names.map(|name| (name, Standing::default())).collect())
    }
}

impl Standings {
    pub(crate) fn note(&mut self, report: &HealthReport) {
        for check in &report.checks {
            if self.0.len() >= MOST && !self.0.contains_key(&check.name) {
                continue;
            }
            let standing = self.0.entry(check.name.clone()).or_default();
            if check.status != Status::Unknown {
                standing.status = Some(check.status);
            }
            standing.failures += u64::from(check.status == Status::Unhealthy);
            if !check.detail.is_none() {
                standing.detail = check.detail.clone();
            }
        }
    }

    pub(crate) fn list(&self) -> Vec<(Cow<'static, str>, Standing)> {
        self.0
            .iter()
            .map(|(name, standing)| (name.clone(), standing.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::report::{CheckReport, Finding};
    use std::time::Duration;

    fn report(name: &str, finding: Finding) -> HealthReport {
        let check = CheckReport::new(name.to_owned(), finding, Duration::ZERO);
        HealthReport::new(vec![check], Duration::ZERO)
    }

    #[test]
    fn what_is_not_known_changes_nothing_and_failures_add_up() {
        let mut standings = Standings::default();
        assert!(standings.list().iter().all(|(_, standing)| standing.status.is_none()));
        standings.note(&report("tables", Finding::unhealthy("gone")));
        standings.note(&report("tables", Finding::unhealthy("gone")));
        standings.note(&report("tables", Finding::unknown("no answer")));
        let tables = &standings.0["tables"];
        assert_eq!((tables.status, tables.failures), (Some(Status::Unhealthy), 2));
        standings.note(&report("tables", Finding::healthy("there")));
        assert_eq!(standings.0["tables"].status, Some(Status::Healthy));
    }

    #[test]
    fn own_checks_are_remembered_up_to_the_bound() {
        let mut standings = Standings::default();
        for number in 0..2 * MOST {
            standings.note(&report(&format!("own{number}"), Finding::healthy("well")));
        }
        assert_eq!(standings.list().len(), MOST);
    }
}
