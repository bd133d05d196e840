use super::*;
use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};
use tokio::time::sleep;

const MS: Duration = Duration::from_millis(1);

async fn measured(call: impl Future<Output = ()>) -> Spent {
    let (mut spent, mut call) = (Spent::default(), pin!(call));
    poll_fn(|cx| spent.scope(|| call.as_mut().poll(cx))).await;
    spent
}

#[tokio::test(start_paused = true)]
async fn waits_add_up_across_polls() {
    let spent = measured(async {
        for _ in 0..2 {
            let _wait = Waiting::on(Part::Queue);
            sleep(5 * MS).await;
        }
        sleep(70 * MS).await;
        let wait = Waiting::on(Part::Queue);
        sleep(9 * MS).await;
        wait.end_with(Part::Connect, 6 * MS);
    })
    .await;
    assert_eq!((spent.on(Part::Queue), spent.on(Part::Connect)), (13 * MS, 6 * MS));
    assert_eq!(spent.total(), 19 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_wait_inside_another_counts_once() {
    let spent = measured(async {
        let _outer = Waiting::on(Part::Cache);
        sleep(MS).await;
        let _inner = Waiting::on(Part::Queue);
        sleep(MS).await;
    })
    .await;
    assert_eq!((spent.on(Part::Cache), spent.on(Part::Queue)), (2 * MS, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_dropped_with_its_call_is_seen() {
    let mut spent = Spent::default();
    {
        let mut call = pin!(async {
            let _wait = Waiting::on(Part::Backoff);
            std::future::pending::<()>().await;
        });
        let once = poll_fn(|cx| Poll::Ready(spent.scope(|| call.as_mut().poll(cx).is_ready())));
        assert!(!once.await);
        sleep(3 * MS).await;
    }
    spent.close(Instant::now());
    assert_eq!(spent.on(Part::Backoff), 3 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_call_inside_a_call_has_its_own_account() {
    let outer = measured(async {
        let inner = measured(async {
            let _wait = Waiting::on(Part::Queue);
            sleep(MS).await;
        })
        .await;
        assert_eq!(inner.on(Part::Queue), MS);
    })
    .await;
    assert_eq!(outer.total(), Duration::ZERO);
    drop(Waiting::on(Part::Queue)); // measured by nobody
    assert!(CURRENT.with(|current| current.state.get() == State::Unmeasured));
}

#[tokio::test(start_paused = true)]
async fn an_outer_call_keeps_its_waits_around_an_inner_one() {
    let outer = measured(async {
        {
            let _wait = Waiting::on(Part::Queue);
            sleep(2 * MS).await;
        }
        let inner = measured(sleep(MS)).await;
        assert!(inner.is_nothing());
        let _wait = Waiting::on(Part::Backoff);
        sleep(3 * MS).await;
    })
    .await;
    assert_eq!((outer.on(Part::Queue), outer.on(Part::Backoff)), (2 * MS, 3 * MS));
    assert!(!outer.is_nothing());
}

#[tokio::test(start_paused = true)]
async fn layers_share_the_readings_of_the_clock() {
    let (mut spent, start) = (Spent::default(), Instant::now());
    Spent::call_ended(start); // measured by nobody
    let (seen, marks) = spent.scope_for(None, Some(start), || {
        // A call inside has its own, and leaves nothing behind.
        let (inner, marks) = Spent::default().scope_for(None, None, Spent::call_began);
        assert_eq!((inner, marks), (None, Marks::default()));
        Spent::call_ended(start + MS);
        let (_, marks) = Spent::default().scope_for(None, None, || {});
        assert_eq!(marks.ended, None);
        Spent::call_began()
    });
    assert_eq!((seen, marks.ended), (Some(start), Some(start + MS)));
    assert_eq!(spent.scope_for(None, None, Spent::call_began), (None, Marks::default()));
    assert_eq!(Spent::call_began(), None);
}

#[test]
fn a_lease_is_noted_once_and_only_for_those_whose_call_it_is() {
    let (mine, others) = (Observers::default(), Observers::default());
    assert!(!Spent::leased(mine.number(), MS), "nobody's call");
    let ((), marks) = Spent::default().scope_for(Some(&mine), None, || {
        assert!(!Spent::leased(others.number(), MS));
        assert!(Spent::leased(mine.number(), 2 * MS));
        assert!(!Spent::leased(mine.number(), 3 * MS), "the second one is told");
        assert!(Spent::returned(mine.number(), 4 * MS));
        assert!(!Spent::returned(mine.number(), 5 * MS));
    });
    assert_eq!((marks.waited, marks.held), (Some(2 * MS), Some(4 * MS)));
}

#[tokio::test(start_paused = true)]
async fn a_wait_may_begin_and_end_at_moments_that_are_known() {
    let mut spent = Spent::default();
    let start = Instant::now();
    spent.scope(|| Waiting::since(Part::Queue, start).end_at(start + 5 * MS, Part::Connect, 2 * MS));
    let parts: Vec<_> = spent.parts().collect();
    assert_eq!(parts, [(Part::Queue, 3 * MS), (Part::Connect, 2 * MS)]);
}
