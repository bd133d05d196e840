//! What goes wrong when: the same for the same seed.

use crate::prove::chaos::fault::Fault;

/// One fault of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Its place in the whole schedule, from 1, also where a part of it is run.
    pub(crate) number: usize,
    pub(crate) fault: Fault,
    /// Decides the fault's own parameters.
    pub(crate) seed: u64,
}

/// Every fault once in each round, each round in an order of its own.
pub(crate) fn schedule(seed: u64, rounds: usize, faults: &[Fault]) -> Vec<Step> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut steps = Vec::with_capacity(rounds * faults.len());
    for _ in 0..rounds {
        let mut round = faults.to_vec();
        dice.shuffle(&mut round);
        for fault in round {
            steps.push(Step {
                number: steps.len() + 1,
                fault,
                seed: dice.u64(..),
            });
        }
    }
    steps
}

/// The numbers of some steps, as `--steps` reads them.
pub(crate) fn numbers(steps: &[Step]) -> String {
    let numbers: Vec<_> = steps.iter().map(|step| step.number.to_string()).collect();
    numbers.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule_and_each_round_has_every_fault() {
        let steps = schedule(7, 3, &Fault::ALL);
        assert_eq!(steps, schedule(7, 3, &Fault::ALL));
        assert_ne!(steps, schedule(8, 3, &Fault::ALL));
        for round in steps.chunks(Fault::ALL.len()) {
            let mut faults: Vec<_> = round.iter().map(|step| step.fault).collect();
            faults.sort_unstable();
            assert_eq!(faults, Fault::ALL);
        }
        assert_eq!(numbers(&steps[1..3]), "2,3");
    }
}
