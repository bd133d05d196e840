//! The budget of reads that are sent twice.

use parking_lot::Mutex;

/// Hedges that can be saved up.
const MOST: f64 = 10.0;

/// Each read saves a share of a hedge.
#[derive(Debug, Default)]
pub(crate) struct HedgeBudget(Mutex<f64>);

impl HedgeBudget {
    pub(crate) fn deposit(&self, share: f64) {
        let mut saved = self.0.lock();
        *saved = (*saved + share).min(MOST);
    }

    pub(crate) fn withdraw(&self) -> bool {
        let mut saved = self.0.lock();
        // A share that is added up is never quite whole.
        let enough = *saved >= 0.999;
        if enough {
            *saved -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_and_no_more() {
        let budget = HedgeBudget::default();
        assert!(!budget.withdraw());
        let hedges = (0..1000).filter(|_| {
            budget.deposit(0.05);
            budget.withdraw()
        });
        assert_eq!(hedges.count(), 50);
    }
}
