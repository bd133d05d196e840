//! Whether a node is an outlier: several times slower than the fastest of its peers, call after call.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

/// So many times slower than the fastest is an outlier, and so many times is none any more.
const OUT: f64 = 4.0;
const BACK: f64 = 2.0;
/// Differences below this are nobody's trouble, whatever the factor.
const SLACK: f64 = 1e6;
/// How much one call counts for, and how much the rare one on an outlier: two good ones bring it back.
const ONE_CALL: f64 = 1.0 / 32.0;
const ONE_TRIAL: f64 = 0.5;

/// What a node's calls typically take: the geometric mean of the latest ones. One answer that is a hundred times slower is
/// a slow statement and moves it by a seventh; an average would take it for a slow node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Typical {
    ln_nanos: f64,
    calls: u32,
}

/// What tells an outlier, readable without a lock.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// In nanoseconds; zero before anything is known.
    typical: AtomicU64,
    /// The trip of the latest look at the node, likewise.
    look: AtomicU64,
    out: AtomicBool,
}

/// The best of each among the nodes that serve.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fastest {
    typical: Option<u64>,
    look: Option<u64>,
}

impl Pace {
    /// A call took so long, or was given up after so long.
    pub(crate) fn measured(&self, typical: &mut Typical, nanos: f64) {
        let weight = match self.is_out() {
            true => ONE_TRIAL,
            false => ONE_CALL.max(1.0 / f64::from(typical.calls + 1)),
        };
        typical.calls = typical.calls.saturating_add(1).min(1000);
        typical.ln_nanos += (nanos.max(1.0).ln() - typical.ln_nanos) * weight;
        self.typical.store(typical.ln_nanos.exp() as u64, Ordering::Relaxed);
    }

    /// A look at the node took so long, over a connection that was there.
    pub(crate) fn looked(&self, took: Duration) {
        self.look
            .store(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether it is an outlier, as it was judged last.
    pub(crate) fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    /// Judges it; some way lies between out and back, so that it does not go to and fro.
    pub(crate) fn judge(&self, fastest: Fastest) -> bool {
        let was = self.is_out();
        let factor = if was { BACK } else { OUT };
        let is = beyond(known(&self.typical), fastest.typical, factor);
        if is != was {
            self.out.store(is, Ordering::Relaxed);
        }
        is
    }

    /// Whether even a look at it is slow: no call needs to find that out.
    pub(crate) fn looks_slow(&self, fastest: Fastest) -> bool {
        beyond(known(&self.look), fastest.look, OUT)
    }
}

impl Fastest {
    pub(crate) fn of<'a>(paces: impl Iterator<Item = &'a Pace>) -> Self {
        let least = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        paces.fold(Self::default(), |fastest, pace| Self {
            typical: least(fastest.typical, known(&pace.typical)),
            look: least(fastest.look, known(&pace.look)),
        })
    }
}

fn known(nanos: &AtomicU64) -> Option<u64> {
    Some(nanos.load(Ordering::Relaxed)).filter(|nanos| *nanos > 0)
}

fn beyond(one: Option<u64>, best: Option<u64>, factor: f64) -> bool {
    let (Some(one), Some(best)) = (one, best) else {
        return false;
    };
    let (one, best) = (one as f64, best as f64);
    one > best * factor && one > best + SLACK
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f64 = 1e6;

    struct Node(Pace, Typical);

    impl Node {
        fn new(ms: f64) -> Self {
            let mut node = Self(Pace::default(), Typical::default());
            node.takes(ms, 100);
            node
        }

        fn takes(&mut self, ms: f64, calls: u32) {
            for _ in 0..calls {
                self.0.measured(&mut self.1, ms * MS);
            }
        }

        fn judged(&self, other: &Self) -> bool {
            self.0.judge(Fastest::of([&self.0, &other.0].into_iter()))
        }
    }

    #[test]
    fn a_node_that_becomes_slow_is_out_within_some_calls_and_back_after_two() {
        let (fast, mut slow) = (Node::new(4.0), Node::new(4.0));
        slow.takes(40.0, 10);
        assert!(!slow.judged(&fast), "ten calls may be ten slow statements");
        slow.takes(40.0, 25);
        assert!(slow.judged(&fast));
        assert!(!fast.judged(&slow));
        slow.takes(40.0, 3);
        slow.takes(4.0, 1);
        assert!(slow.judged(&fast), "one good answer may be luck");
        slow.takes(4.0, 1);
        assert!(!slow.judged(&fast));
    }

    #[test]
    fn a_slow_statement_is_no_slow_node() {
        let (fast, mut other) = (Node::new(4.0), Node::new(4.0));
        other.takes(5000.0, 1);
        assert!(!other.judged(&fast));
    }

    #[test]
    fn a_hiccup_of_the_fast_one_does_not_bring_the_slow_one_back() {
        let (mut fast, mut slow) = (Node::new(4.0), Node::new(4.0));
        slow.takes(40.0, 60);
        assert!(slow.judged(&fast));
        fast.takes(50.0, 10);
        assert!(slow.judged(&fast));
    }

    #[test]
    fn small_differences_and_the_unknown_are_no_reason() {
        let (fast, slow) = (Node::new(0.1), Node::new(0.9));
        assert!(!slow.judged(&fast), "less than a millisecond");
        let unknown = Node(Pace::default(), Typical::default());
        assert!(!unknown.judged(&slow));
        assert!(!slow.judged(&unknown));
    }

    #[test]
    fn a_look_can_tell_without_a_call() {
        let (near, far) = (Pace::default(), Pace::default());
        let fastest = || Fastest::of([&near, &far].into_iter());
        assert!(!far.looks_slow(fastest()));
        near.looked(Duration::from_millis(5));
        far.looked(Duration::from_millis(45));
        assert!(far.looks_slow(fastest()));
        assert!(!near.looks_slow(fastest()));
        far.looked(Duration::from_millis(6));
        assert!(!far.looks_slow(fastest()));
    }
}
