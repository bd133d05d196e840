use super::*;
use std::{future::poll_fn, time::Duration};
use tokio::{
    runtime,
    task::coop::{poll_proceed, unconstrained},
    time::sleep,
};

const SECOND: Duration = Duration::from_secs(1);

fn kept() -> usize {
    TIMERS.with_borrow(Vec::len)
}

/// Polls a fresh alarm once, as a call does that ends in time.
async fn passed_by(due: Instant) {
    let mut alarm = Alarm::at(due);
    poll_fn(|cx| {
        assert!(alarm.poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
}

async fn fires_at(due: Instant) {
    let mut alarm = Alarm::at(due);
    poll_fn(|cx| alarm.poll(cx)).await;
    let late = Instant::now() - due;
    assert!(late <= Duration::from_millis(1), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn one_timer_serves_call_after_call() {
    let start = Instant::now();
    for n in 0..1000 {
        passed_by(start + SECOND + Duration::from_millis(n)).await;
        assert_eq!(kept(), 1);
    }
    fires_at(start + 2 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_is_due_later_is_brought_forward() {
    passed_by(Instant::now() + 100 * SECOND).await;
    fires_at(Instant::now() + SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_fired_while_nobody_used_it_is_set_again() {
    passed_by(Instant::now() + SECOND).await;
    sleep(2 * SECOND).await;
    fires_at(Instant::now() + SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn calls_side_by_side_have_timers_of_their_own() {
    let start = Instant::now();
    passed_by(start + SECOND).await;
    tokio::join!(
        fires_at(start + 3 * SECOND),
        fires_at(start + SECOND),
        fires_at(start + 2 * SECOND)
    );
    assert_eq!(kept(), 3);
}

#[test]
fn a_timer_of_a_runtime_that_stands_still_is_not_used() {
    let build = || {
        runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let (still, runs) = (build(), build());
    still.block_on(async { passed_by(Instant::now() + SECOND).await });
    runs.block_on(async { fires_at(Instant::now() + 2 * SECOND).await });
    drop(still);
    runs.block_on(async { fires_at(Instant::now() + SECOND).await });
    drop(runs);
    build().block_on(async { fires_at(Instant::now() + SECOND).await });
}

#[tokio::test(start_paused = true)]
async fn the_number_of_kept_timers_is_bounded() {
    let mut alarms: Vec<_> = (0..KEPT + 10).map(|_| Alarm::at(Instant::now() + SECOND)).collect();
    for alarm in &mut alarms {
        unconstrained(poll_fn(|cx| {
            assert!(alarm.poll(cx).is_pending());
            Poll::Ready(())
        }))
        .await;
    }
    drop(alarms);
    assert_eq!(kept(), KEPT);
}

/// Work that always has something to do has used up its turn whenever the alarm is asked.
#[tokio::test]
async fn work_that_never_rests_is_ended_too() {
    let due = Instant::now() + Duration::from_millis(20);
    let mut alarm = Alarm::at(due);
    poll_fn(|cx| {
        while let Poll::Ready(turn) = poll_proceed(cx) {
            turn.made_progress();
        }
        alarm.poll(cx)
    })
    .await;
    assert!(Instant::now() >= due);
}
