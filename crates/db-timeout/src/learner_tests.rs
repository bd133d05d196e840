//! The learner against the two easy ways to treat a timeout, on the same simulated statement.

use super::*;
use db_core::config::Mode;

const CLASS: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_secs(60);
/// A call every 20 ms.
const PACE: Duration = Duration::from_millis(20);

fn ms(ms: f64) -> Duration {
    Duration::from_secs_f64(ms / 1000.0)
}

fn config() -> AdaptiveConfig {
    AdaptiveConfig {
        mode: Mode::Enforce,
        floor: ms(1.0),
        ..AdaptiveConfig::default()
    }
}

/// What is done with a call that timed out.
#[derive(Clone, Copy, PartialEq)]
enum Lesson {
    /// Ours.
    Censored,
    /// It teaches nothing.
    LeftOut,
    /// It teaches that calls take as long as their limit, which nothing bounds.
    AsDuration,
}

struct Statement {
    lesson: Lesson,
    learner: Learner,
    recent: Recent,
    now: Instant,
    timeouts: u32,
}

impl Statement {
    fn new(lesson: Lesson) -> Self {
        Self {
            lesson,
            learner: Learner::default(),
            recent: Recent::default(),
            now: Instant::now(),
            timeouts: 0,
        }
    }

    fn limit(&self) -> Duration {
        let most = if self.lesson == Lesson::AsDuration {
            Duration::from_secs(120)
        } else {
            CLASS
        };
        limit::clamp(self.learner.limit().unwrap_or(CLASS), most, &config())
    }

    fn call(&mut self, takes: Duration) {
        let (config, limit) = (config(), self.limit());
        self.now += PACE;
        turn(&mut self.recent, self.now, WINDOW, &config);
        let in_time = takes <= limit;
        self.timeouts += u32::from(!in_time);
        match self.lesson {
            _ if in_time => {
                self.recent.record(takes);
                self.learner.finished(&self.recent, &config);
            }
            Lesson::Censored => {
                self.learner.given_up(&mut self.recent, limit, CLASS, &config);
            }
            Lesson::LeftOut => {}
            Lesson::AsDuration => {
                self.recent.record(limit);
                self.learner.finished(&self.recent, &config);
            }
        }
    }

    /// Calls until `limit` fits, at most 20 minutes of them.
    fn calls_until(&mut self, takes: Duration, fits: impl Fn(Duration) -> bool) -> Option<u32> {
        (0..60_000).find(|_| {
            let there = fits(self.limit());
            self.call(takes);
            there
        })
    }
}

fn after(lesson: Lesson, calls: u32, takes: impl Fn() -> Duration) -> Statement {
    let mut statement = Statement::new(lesson);
    for _ in 0..calls {
        statement.call(takes());
    }
    statement
}

#[test]
fn nothing_is_believed_before_the_minimum() {
    let mut statement = after(Lesson::Censored, 99, || ms(10.0));
    assert_eq!(statement.learner.limit(), None);
    statement.call(ms(10.0));
    let limit = statement.learner.limit().unwrap();
    assert!((ms(15.0)..ms(16.1)).contains(&limit), "{limit:?}");
}

#[test]
fn a_faster_statement_is_followed_within_two_windows() {
    let mut statement = after(Lesson::Censored, 5_000, || ms(400.0));
    assert!(statement.limit() >= ms(600.0));
    let calls = statement.calls_until(ms(10.0), |limit| limit < ms(20.0)).unwrap();
    assert!(PACE * calls <= 2 * WINDOW, "{calls} calls");
}

#[test]
fn a_rare_statement_is_not_forgotten() {
    let mut statement = after(Lesson::Censored, 100, || ms(10.0));
    for _ in 0..50 {
        statement.now += 10 * WINDOW;
        statement.call(ms(10.0));
    }
    assert!(statement.limit() < ms(17.0));
}

#[test]
fn a_slower_statement_is_not_locked_out() {
    let slower = |lesson| {
        let mut statement = after(lesson, 5_000, || ms(10.0));
        statement.timeouts = 0;
        let recovered = statement.calls_until(ms(200.0), |limit| limit > ms(200.0));
        (recovered, statement.timeouts)
    };
    // 20 times slower: log2(200 / 16) doublings of four calls each.
    let (recovered, timeouts) = slower(Lesson::Censored);
    assert!(
        recovered.is_some() && timeouts <= 16,
        "{recovered:?}, {timeouts} timeouts"
    );
    // Only survivors teach, and nobody survives: every call fails for as long as one looks.
    assert_eq!(slower(Lesson::LeftOut), (None, 60_000));
}

#[test]
fn the_tail_is_not_cut_off_again_and_again() {
    // One call in x/10 takes longer than x ms: a long tail, as queries have.
    let killed = |lesson| {
        let random = std::cell::RefCell::new(fastrand::Rng::with_seed(7));
        let takes = || ms(10.0 / (1.0 - random.borrow_mut().f64()));
        let mut statement = after(lesson, 20_000, takes);
        statement.timeouts = 0;
        for _ in 0..20_000 {
            statement.call(takes());
        }
        f64::from(statement.timeouts) / 20_000.0
    };
    // The limit is 1.5 times the 95th percentile, 300 ms: one call in 30 is longer.
    let (ours, left_out) = (killed(Lesson::Censored), killed(Lesson::LeftOut));
    assert!(ours < 0.04, "{ours}");
    assert!(left_out > 0.07, "{left_out}");
}

#[test]
fn an_outage_teaches_nothing() {
    let after_outage = |lesson| {
        let mut statement = after(lesson, 5_000, || ms(10.0));
        for _ in 0..5_000 {
            statement.call(Duration::from_secs(3600));
        }
        let limit = statement.limit();
        (
            limit,
            statement.recent.quantile(0.5),
            statement.calls_until(ms(10.0), |limit| limit < ms(20.0)),
        )
    };
    let (limit, median, recovered) = after_outage(Lesson::Censored);
    assert_eq!((limit, median), (CLASS, None));
    assert!(PACE * recovered.unwrap() <= 2 * WINDOW + PACE, "{recovered:?}");
    // The limit taught itself, far beyond the class; half of all calls "took" what no call ever took.
    let (limit, median, _) = after_outage(Lesson::AsDuration);
    assert!(limit > 3 * CLASS, "{limit:?}");
    assert!(median.is_some_and(|median| median > ms(1_000.0)), "{median:?}");
}

#[test]
fn a_callers_own_short_limit_says_nothing() {
    let mut statement = after(Lesson::Censored, 1_000, || ms(10.0));
    let before = statement.limit();
    for _ in 0..1_000 {
        assert_eq!(
            statement
                .learner
                .given_up(&mut statement.recent, ms(2.0), CLASS, &config()),
            None
        );
    }
    assert_eq!(statement.limit(), before);
}

#[test]
fn a_limit_doubles_up_to_the_class() {
    let mut statement = after(Lesson::Censored, 1_000, || ms(1_500.0));
    let from = statement.limit();
    let mut widened = Vec::new();
    for _ in 0..200 {
        let limit = statement.limit();
        widened.extend(
            statement
                .learner
                .given_up(&mut statement.recent, limit, CLASS, &config()),
        );
    }
    assert_eq!(
        widened,
        [
            Widened { from, to: from * 2 },
            Widened {
                from: from * 2,
                to: CLASS
            }
        ]
    );
}
