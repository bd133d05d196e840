use super::*;

const MS: Duration = Duration::from_millis(1);

fn waiter(id: u64, now: Instant) -> Waiter<()> {
    Waiter {
        id,
        since: now,
        deadline: None,
        payload: (),
    }
}

/// Serves `count` with leases that take what `cost` says of their flow; who was served.
fn serve(lane: &mut Lane<()>, count: usize, cost: impl Fn(u64) -> Duration) -> Vec<u64> {
    (0..count)
        .filter_map(|_| {
            let (flow, _) = lane.pop(Order::Oldest, MS, |_| true)?;
            lane.charge(flow, cost(flow), MS);
            Some(flow)
        })
        .collect()
}

#[test]
fn one_flow_is_served_in_the_order_of_arrival_or_the_reverse() {
    let now = Instant::now();
    let mut lane = Lane::default();
    for id in 0..4 {
        lane.push(7, waiter(id, now));
    }
    let mut next = |order| lane.pop(order, MS, |_| true).map(|(_, waiter)| waiter.id);
    assert_eq!(next(Order::Oldest), Some(0));
    assert_eq!(next(Order::Newest), Some(3));
    assert_eq!(next(Order::Oldest), Some(1));
    assert_eq!(next(Order::Oldest), Some(2));
    assert_eq!(next(Order::Oldest), None);
    assert_eq!(lane.len(), 0);
}

#[test]
fn shares_are_of_time_and_not_of_calls() {
    let now = Instant::now();
    let mut lane = Lane::default();
    for id in 0..1000 {
        lane.push(1, waiter(id, now));
        lane.push(2, waiter(1000 + id, now));
    }
    // Flow 1 runs reports of 100 ms, flow 2 look-ups of 10 ms.
    let cost = |flow| if flow == 1 { 100 * MS } else { 10 * MS };
    let served = serve(&mut lane, 550, cost);
    let reports = served.iter().filter(|flow| **flow == 1).count();
    assert!(
        (45..=55).contains(&reports),
        "{reports} reports beside {} look-ups",
        550 - reports
    );
}

#[test]
fn a_flow_that_comes_late_is_not_owed_the_past_and_a_flood_delays_it_by_one_turn() {
    let now = Instant::now();
    let mut lane = Lane::default();
    for id in 0..500 {
        lane.push(1, waiter(id, now));
    }
    serve(&mut lane, 100, |_| MS);
    for id in 0..10 {
        lane.push(2, waiter(1000 + id, now));
    }
    let served = serve(&mut lane, 20, |_| MS);
    assert_eq!(served.iter().filter(|flow| **flow == 2).count(), 10, "{served:?}");
    assert!(served[..2].contains(&2));
}

#[test]
fn a_flow_at_its_ceiling_is_passed_over() {
    let now = Instant::now();
    let mut lane = Lane::default();
    lane.push(1, waiter(0, now));
    lane.push(2, waiter(1, now));
    assert_eq!(
        lane.pop(Order::Oldest, MS, |flow| flow != 1).map(|(flow, _)| flow),
        Some(2)
    );
    assert!(!lane.has(|flow| flow != 1));
    assert!(lane.pop(Order::Oldest, MS, |flow| flow != 1).is_none());
    assert_eq!(lane.len(), 1);
}

#[test]
fn those_who_leave_leave_nothing_behind() {
    let now = Instant::now();
    let mut lane = Lane::default();
    for id in 0..10_000_u64 {
        lane.push(id, waiter(id, now));
        assert!(lane.leave(id, id).is_some());
        assert!(lane.leave(id, id).is_none());
    }
    assert_eq!(lane.len(), 0);
    assert!(lane.active.is_empty());
    assert!(lane.flows.len() <= REMEMBERED + 1, "{}", lane.flows.len());
}

#[test]
fn flows_over_their_share_are_remembered_within_a_bound() {
    let now = Instant::now();
    let mut lane = Lane::default();
    lane.push(u64::MAX, waiter(0, now));
    for id in 1..20_000_u64 {
        lane.push(id, waiter(id, now));
        lane.pop(Order::Newest, 1000 * MS, |flow| flow == id);
        lane.charge(id, 5000 * MS, MS);
    }
    assert!(lane.flows.len() <= REMEMBERED + 2, "{}", lane.flows.len());
    assert_eq!(lane.len(), 1);
}

/// Any sequence of moves keeps the books right.
#[test]
fn the_books_stay_right() {
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let now = Instant::now();
        let mut lane = Lane::default();
        let mut inside: Vec<(u64, u64)> = Vec::new();
        for id in 0..200 {
            match random.u8(0..6) {
                0..=2 => {
                    let flow = random.u64(0..5);
                    lane.push(flow, waiter(id, now));
                    inside.push((flow, id));
                }
                3 => {
                    let order = if random.bool() { Order::Oldest } else { Order::Newest };
                    let closed = random.u64(0..7);
                    let popped = lane.pop(order, MS * random.u32(0..5), |flow| flow != closed);
                    if let Some((flow, waiter)) = popped {
                        inside.retain(|place| *place != (flow, waiter.id));
                    } else {
                        assert!(inside.iter().all(|(flow, _)| *flow == closed), "seed {seed}");
                    }
                }
                4 if !inside.is_empty() => {
                    let (flow, id) = inside.swap_remove(random.usize(..inside.len()));
                    assert!(lane.leave(flow, id).is_some(), "seed {seed}");
                }
                _ => lane.charge(random.u64(0..5), MS * random.u32(0..50), MS * random.u32(0..50)),
            }
            assert_eq!(lane.len(), inside.len(), "seed {seed}");
            let active: usize = lane.flows.values().filter(|flow| !flow.waiters.is_empty()).count();
            assert_eq!(lane.active.len(), active, "seed {seed}");
            assert!(lane.active.is_sorted_by(|a, b| a > b), "seed {seed}");
            assert_eq!(lane.oldest().is_some(), !inside.is_empty(), "seed {seed}");
        }
        assert_eq!(lane.drain().len(), inside.len(), "seed {seed}");
    }
}
