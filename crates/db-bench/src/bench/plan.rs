//! Which cells are measured, how often and for how long.

use super::{scenario::Scenario, subject::Subject};
use std::time::Duration;

/// A cell of the closed loop, once per subject and round.
#[derive(Clone, Debug)]
pub(crate) struct ClosedCell {
    pub(crate) scenario: Scenario,
    pub(crate) tasks: u32,
    pub(crate) subjects: Vec<Subject>,
}

/// A cell of the open loop, once per subject and round.
#[derive(Clone, Debug)]
pub(crate) struct OpenCell {
    pub(crate) scenario: Scenario,
    /// Percent of what deadpool-postgres does in the closed loop with [`CAPACITY_TASKS`] in the same run.
    pub(crate) load: u32,
    pub(crate) subjects: Vec<Subject>,
}

/// The closed cell whose throughput is the capacity of an open cell.
pub(crate) const CAPACITY_TASKS: u32 = 32;
/// Whose capacity: that of the fastest peer, so that a load means the same from one version of ours to the next.
pub(crate) const CAPACITY_OF: Subject = Subject::Deadpool;

/// Who is in the open loop: the pool we replace, the pool to beat, and ours.
pub(crate) const OPEN: [Subject; 3] = [Subject::Sqlx, Subject::Deadpool, Subject::Db];

/// Everything that is run against the server.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    /// What is measured of each subject in each cell and round.
    pub(crate) span: Duration,
    pub(crate) closed: Vec<ClosedCell>,
    pub(crate) open: Vec<OpenCell>,
}

impl Plan {
    /// The full grid of these scenarios: task counts with their subjects, loads with theirs.
    pub(crate) fn grid(
        scenarios: &[Scenario],
        (tasks, in_closed): (&[u32], &[Subject]),
        (loads, in_open): (&[u32], &[Subject]),
    ) -> Self {
        let closed = |&scenario: &Scenario| {
            tasks.iter().map(move |&tasks| ClosedCell {
                scenario,
                tasks,
                subjects: in_closed.to_vec(),
            })
        };
        let open = |&scenario: &Scenario| {
            loads.iter().map(move |&load| OpenCell {
                scenario,
                load,
                subjects: in_open.to_vec(),
            })
        };
        Self {
            rounds: 5,
            span: Duration::from_millis(800),
            closed: scenarios.iter().flat_map(closed).collect(),
            open: scenarios.iter().flat_map(open).collect(),
        }
    }

    /// Whether there is nothing to measure.
    pub(crate) fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.open.is_empty()
    }

    /// The scenarios in it, each once.
    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        let mut scenarios: Vec<_> = self.closed.iter().map(|cell| cell.scenario).collect();
        scenarios.dedup();
        scenarios
    }

    /// A fifth of a cell, but long enough to test eight idle connections and fill the caches.
    pub(crate) fn warm_up(&self) -> Duration {
        (self.span / 5).max(Duration::from_millis(60))
    }

    /// Adds the capacity cells that the open loops need and the plan does not have.
    pub(crate) fn with_capacities(mut self) -> Self {
        for open in &self.open {
            let is_there = self.closed.iter().any(|cell| {
                cell.scenario == open.scenario && cell.tasks == CAPACITY_TASKS && cell.subjects.contains(&CAPACITY_OF)
            });
            if !is_there {
                self.closed.push(ClosedCell {
                    scenario: open.scenario,
                    tasks: CAPACITY_TASKS,
                    subjects: vec![CAPACITY_OF],
                });
            }
        }
        self
    }
}

/// The order of the subjects in a round: each starts once in turn, and every other round runs backwards, so that drift
/// of the machine and the shadow of a neighbour cancel out.
pub(crate) fn order(subjects: &[Subject], round: u32) -> Vec<Subject> {
    let mut subjects = subjects.to_vec();
    if !subjects.is_empty() {
        let by = round as usize % subjects.len();
        subjects.rotate_left(by);
    }
    if round % 2 == 1 {
        subjects.reverse();
    }
    subjects
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_subject_is_first_once() {
        let all = Subject::value_variants();
        let mut first: Vec<_> = (0..6).map(|round| order(all, round)[0].name()).collect();
        first.sort_unstable();
        first.dedup();
        assert!(first.len() >= 3, "{first:?}");
        assert_eq!(order(all, 1).len(), all.len());
    }

    #[test]
    fn an_open_loop_brings_its_capacity() {
        let plan = Plan::grid(&[Scenario::PointSelect], (&[8], &[Subject::Db]), (&[80], &OPEN)).with_capacities();
        assert_eq!(plan.closed.len(), 2);
        assert_eq!(plan.closed[1].subjects, [Subject::Deadpool]);
        let again = plan.with_capacities();
        assert_eq!(again.closed.len(), 2);
    }
}
