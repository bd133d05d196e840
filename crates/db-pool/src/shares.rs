//! How one budget of connections is shared by the priorities: floors that are held back, ceilings while others wait,
//! spares that are not lent.

use crate::priorities::PrioritiesConfig;
use db_core::Priority;

/// Floors and ceilings, scaled to a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) floors: [u32; 4],
    pub(crate) ceilings: [u32; 4],
    pub(crate) spares: [u32; 4],
}

impl Shares {
    /// The configured numbers where they fit. Floors of those present together take half of the budget at most and leave
    /// one place that is nobody's: a small budget is not divided among the absent. Ceilings shrink with a budget below
    /// the largest of them.
    pub(crate) fn of(config: &PrioritiesConfig, budget: u32, present: Present) -> Self {
        let all = config.all();
        let here = |priority: &Priority| present.is_empty() || present.has(*priority);
        let those = Priority::ALL.into_iter().filter(here).map(Priority::index);
        let sum: u32 = those.clone().map(|index| all[index].floor).sum();
        let largest = all.iter().map(|share| share.ceiling).max().unwrap_or(1).max(1);
        let floor_scale = scale(f64::from(budget) / 2.0, sum);
        let ceiling_scale = scale(f64::from(budget), largest);
        let mut floors = all.map(|share| scaled(share.floor, floor_scale));
        // Rounding must not take the one place of those who matter most.
        if all[0].floor > 0 && budget > 2 {
            floors[0] = floors[0].max(1);
        }
        let ceilings = all.map(|share| scaled(share.ceiling, ceiling_scale).max(1));
        // Rounding may have given too much: the least urgent gives it back first.
        while those.clone().map(|index| floors[index]).sum::<u32>() > budget.saturating_sub(1) {
            match those.clone().rev().find(|index| floors[*index] > 0) {
                Some(index) => floors[index] -= 1,
                None => break,
            }
        }
        let spares = std::array::from_fn(|index| scaled(all[index].spare, floor_scale).min(floors[index]));
        Self {
            floors,
            ceilings,
            spares,
        }
    }

    /// How many free places this priority leaves to the others: their floors that are not in use, and to more urgent ones
    /// their spares. What is below its own floor it need not spare anybody.
    pub(crate) fn held_back(&self, from: Priority, used: &[u32; 4], present: Present) -> u32 {
        let own = used[from.index()] >= self.floors[from.index()];
        self.held_back_by(from, present, |other| {
            let spared = own && other < from;
            self.kept(other, used, spared)
        })
    }

    /// The same for one that has waited for too long.
    pub(crate) fn held_back_from_starving(&self, from: Priority, used: &[u32; 4], present: Present) -> u32 {
        self.held_back_by(from, present, |other| self.kept(other, used, false))
    }

    fn held_back_by(&self, from: Priority, present: Present, kept: impl Fn(Priority) -> u32) -> u32 {
        if present.only(from) {
            return 0;
        }
        let others = Priority::ALL
            .into_iter()
            .filter(|other| *other != from && present.has(*other));
        others.map(kept).sum()
    }

    /// What is kept free for a priority.
    fn kept(&self, of: Priority, used: &[u32; 4], spared: bool) -> u32 {
        let index = of.index();
        let unused = self.floors[index].saturating_sub(used[index]);
        if spared { unused.max(self.spares[index]) } else { unused }
    }

    /// The floors and spares that nobody has borrowed or used.
    pub(crate) fn unlent(&self, used: &[u32; 4], present: Present) -> u32 {
        let here = Priority::ALL.into_iter().filter(|priority| present.has(*priority));
        here.map(|priority| self.kept(priority, used, !present.only(priority)))
            .sum()
    }
}

/// The priorities that have asked lately: the others' floors are not held back, so that a service that never says a
/// priority loses nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Present(u8);

impl Present {
    pub(crate) fn add(&mut self, priority: Priority) {
        self.0 |= 1 << priority.index();
    }

    pub(crate) fn remove(&mut self, priority: Priority) {
        self.0 &= !(1 << priority.index());
    }

    pub(crate) fn has(self, priority: Priority) -> bool {
        self.0 & (1 << priority.index()) != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn only(self, priority: Priority) -> bool {
        self.0 & !(1 << priority.index()) == 0
    }
}

fn scale(budget: f64, asked: u32) -> f64 {
    (budget / f64::from(asked.max(1))).min(1.0)
}

fn scaled(number: u32, scale: f64) -> u32 {
    // Small non-negative numbers.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within 0..=number"
    )]
    let scaled = (f64::from(number) * scale).round() as u32;
    scaled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reports_numbers_hold_where_they_fit_and_shrink_where_not() {
        let config = PrioritiesConfig::default();
        let at = |budget| Shares::of(&config, budget, Present::default());
        assert_eq!(at(70).floors, [3, 5, 5, 2]);
        assert_eq!(at(70).ceilings, [10, 20, 30, 10]);
        assert_eq!(at(10).floors, [1, 2, 2, 1]);
        assert_eq!(at(10).ceilings, [3, 7, 10, 3]);
        assert_eq!(at(1).floors, [0, 0, 0, 0]);
        assert_eq!(at(1).ceilings, [1, 1, 1, 1]);
        for budget in 1..200 {
            let shares = at(budget);
            assert!(shares.floors.iter().sum::<u32>() < budget, "{budget}: {shares:?}");
            assert!(shares.ceilings.iter().all(|ceiling| (1..=budget).contains(ceiling)));
        }
    }

    #[test]
    fn a_small_budget_is_divided_among_those_who_are_there() {
        let mut present = Present::default();
        present.add(Priority::Critical);
        present.add(Priority::Background);
        let config = PrioritiesConfig::default();
        let floors = |budget| {
            let of = Shares::of(&config, budget, present).floors;
            (of[0], of[3])
        };
        assert_eq!(floors(10), (3, 2));
        assert_eq!(floors(6), (2, 1));
        assert_eq!(floors(2), (1, 0));
        for budget in 1..200 {
            let (critical, background) = floors(budget);
            assert!(critical + background < budget, "{budget}");
        }
    }

    #[test]
    fn floors_of_the_absent_are_lent_and_of_the_present_held_back() {
        let shares = Shares::of(&PrioritiesConfig::default(), 10, Present::default());
        let mut present = Present::default();
        present.add(Priority::Normal);
        assert_eq!(shares.held_back(Priority::Normal, &[0; 4], present), 0);
        present.add(Priority::Critical);
        assert_eq!(shares.held_back(Priority::Normal, &[0; 4], present), 1);
        assert_eq!(shares.held_back(Priority::Normal, &[1, 0, 0, 0], present), 0);
        assert_eq!(shares.held_back(Priority::Critical, &[0; 4], present), 2);
        present.remove(Priority::Critical);
        assert_eq!(shares.held_back(Priority::Normal, &[0; 4], present), 0);
    }

    #[test]
    fn a_spare_is_left_by_those_who_borrow_and_by_nobody_else() {
        let mut present = Present::default();
        present.add(Priority::Critical);
        present.add(Priority::Background);
        let shares = Shares::of(&PrioritiesConfig::default(), 10, present);
        let held = |used: [u32; 4]| shares.held_back(Priority::Background, &used, present);
        assert_eq!(held([0, 0, 0, 7]), 3, "its floor");
        assert_eq!(held([2, 0, 0, 5]), 2, "a spare beyond");
        assert_eq!(held([6, 0, 0, 2]), 2, "however many it uses");
        assert_eq!(held([6, 0, 0, 1]), 0, "one's own floor is one's own");
        assert_eq!(
            shares.held_back(Priority::Critical, &[8, 0, 0, 2], present),
            0,
            "the less urgent are spared nothing"
        );
        assert_eq!(
            shares.held_back_from_starving(Priority::Background, &[6, 0, 0, 2], present),
            0
        );
        assert_eq!(shares.unlent(&[3, 0, 0, 5], present), 2);
        for budget in 1..200 {
            let shares = Shares::of(&PrioritiesConfig::default(), budget, present);
            assert!(shares.spares[0] <= shares.floors[0], "{budget}: {shares:?}");
        }
    }
}
