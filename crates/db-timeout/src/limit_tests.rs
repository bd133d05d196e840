use super::*;
use std::sync::LazyLock;

const CLASS: Duration = Duration::from_secs(5);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn adaptive(mode: Mode) -> AdaptiveConfig {
    AdaptiveConfig {
        mode,
        ..AdaptiveConfig::default()
    }
}

fn nearest(call: &Call, learned: Option<u64>, mode: Mode) -> (Duration, LimitOrigin, Option<Duration>) {
    let limit = Limit::nearest(call, *NOW, CLASS, learned.map(ms), &adaptive(mode));
    (limit.length, limit.origin, limit.observed)
}

static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

fn deadline(after: u64) -> Instant {
    *NOW + ms(after)
}

#[test]
fn the_nearest_wins() {
    let call = Call::default();
    let (own, end) = (
        call.clone().with_timeout(ms(800)),
        call.clone().with_deadline(deadline(300)),
    );
    let both = own.clone().with_deadline(deadline(300));
    assert_eq!(nearest(&call, None, Mode::Off), (CLASS, LimitOrigin::Class, None));
    assert_eq!(nearest(&own, None, Mode::Off), (ms(800), LimitOrigin::Call, None));
    assert_eq!(nearest(&end, None, Mode::Off), (ms(300), LimitOrigin::Deadline, None));
    assert_eq!(nearest(&both, None, Mode::Off), (ms(300), LimitOrigin::Deadline, None));
    assert_eq!(
        nearest(&both, Some(100), Mode::Enforce),
        (ms(100), LimitOrigin::Adaptive, None)
    );
}

#[test]
fn a_caller_can_not_lengthen_the_limit_of_its_class() {
    let call = Call::default().with_timeout(ms(60_000)).with_deadline(deadline(90_000));
    assert_eq!(nearest(&call, None, Mode::Off), (CLASS, LimitOrigin::Class, None));
}

#[test]
fn zero_is_a_limit() {
    let call = Call::default().with_timeout(Duration::ZERO);
    assert_eq!(
        nearest(&call, None, Mode::Off),
        (Duration::ZERO, LimitOrigin::Call, None)
    );
}

#[test]
fn a_learned_limit_stays_between_the_floor_and_the_class() {
    let call = Call::default();
    assert_eq!(
        nearest(&call, Some(1), Mode::Enforce),
        (ms(50), LimitOrigin::Adaptive, None)
    );
    assert_eq!(
        nearest(&call, Some(4_000), Mode::Enforce),
        (ms(4_000), LimitOrigin::Adaptive, None)
    );
    assert_eq!(
        nearest(&call, Some(9_000), Mode::Enforce),
        (CLASS, LimitOrigin::Class, None)
    );
    // A floor above the class is no reason to lengthen it.
    assert_eq!(clamp(ms(1), ms(20), &adaptive(Mode::Enforce)), ms(20));
}

#[test]
fn an_observed_limit_limits_nothing() {
    let call = Call::default();
    assert_eq!(
        nearest(&call, Some(100), Mode::Observe),
        (CLASS, LimitOrigin::Class, Some(ms(100)))
    );
    assert_eq!(nearest(&call, Some(100), Mode::Off), (CLASS, LimitOrigin::Class, None));
    // One that is not the nearest would have changed nothing.
    let own = call.with_timeout(ms(80));
    assert_eq!(
        nearest(&own, Some(100), Mode::Observe),
        (ms(80), LimitOrigin::Call, None)
    );
}

#[test]
fn what_is_worth_saying() {
    let limit = Limit {
        length: ms(1_000),
        origin: LimitOrigin::Call,
        observed: None,
    };
    let class = ClassLimits {
        alert: ms(900),
        ..ClassLimits::NORMAL
    };
    let of = |ending, took, acts| Findings::of(ending, ms(took), &limit, acts, 0.8, &class);
    let nothing = Findings::default();
    assert_eq!(of(Ending::Finished, 800, true), nothing);
    assert_eq!(of(Ending::Finished, 801, true), Findings { near: true, ..nothing });
    assert_eq!(
        of(Ending::Failed, 901, true),
        Findings {
            near: true,
            slow: true,
            ..nothing
        }
    );
    assert_eq!(of(Ending::Abandoned, 950, true), nothing);
    assert_eq!(of(Ending::TimedOut, 1_000, true), nothing);
    let passed = Some((ms(1_000), LimitOrigin::Call));
    assert_eq!(
        of(Ending::Finished, 2_000, false),
        Findings {
            passed,
            near: false,
            slow: true
        }
    );
    assert_eq!(of(Ending::Abandoned, 2_000, false), Findings { passed, ..nothing });

    let limit = Limit {
        observed: Some(ms(100)),
        ..limit
    };
    let passed = Some((ms(100), LimitOrigin::Adaptive));
    assert_eq!(
        Findings::of(Ending::Finished, ms(101), &limit, true, 0.8, &class),
        Findings { passed, ..nothing }
    );
}
