use super::*;
use Priority::{Background, Critical, High, Normal};

const MS: Duration = Duration::from_millis(1);
const TARGET: Duration = Duration::from_millis(500);

fn free(now: Instant) -> Turn<'static> {
    Turn {
        now,
        room: &|_| true,
        room_if_starving: &|_| true,
        below_ceiling: &|_| true,
        may: &|_| true,
        ageing: Duration::from_secs(1),
    }
}

fn next(queue: &mut Queue<u32>, turn: &Turn<'_>) -> Option<u32> {
    Some(queue.pop(turn, &Forecast::default())?.1.payload)
}

fn filled(now: Instant, of: &[Priority]) -> Queue<u32> {
    let mut queue = Queue::new(now);
    for (number, priority) in (0..).zip(of) {
        queue.push(*priority, 0, now, None, number);
    }
    queue
}

#[test]
fn the_most_urgent_is_next_and_within_a_priority_the_first() {
    let now = Instant::now();
    let mut queue = filled(now, &[Background, Normal, Critical, Normal, High, Critical]);
    let order: Vec<_> = std::iter::from_fn(|| next(&mut queue, &free(now))).collect();
    assert_eq!(order, [2, 5, 4, 1, 3, 0]);
    assert_eq!(queue.len(), 0);
}

#[test]
fn beyond_its_ceiling_a_priority_gets_what_the_others_leave() {
    let now = Instant::now();
    let mut queue = filled(now, &[Critical, Critical, Background]);
    let turn = Turn {
        below_ceiling: &|priority| priority != Critical,
        ..free(now)
    };
    assert_eq!(next(&mut queue, &turn), Some(2));
    assert_eq!(next(&mut queue, &turn), Some(0), "nobody else waits: it borrows");
}

#[test]
fn a_floor_of_others_is_not_taken() {
    let now = Instant::now();
    let mut queue = filled(now, &[Background, Normal]);
    let turn = Turn {
        room: &|priority| priority == Critical,
        room_if_starving: &|priority| priority == Critical,
        ..free(now)
    };
    assert_eq!(next(&mut queue, &turn), None);
    queue.push(Critical, 0, now, None, 9);
    assert_eq!(next(&mut queue, &turn), Some(9));
}

#[test]
fn nothing_starves_under_a_flood_of_the_urgent() {
    let start = Instant::now();
    let mut queue = Queue::new(start);
    queue.push(Background, 0, start, None, 1);
    let mut served = Vec::new();
    for tick in 0..3000_u64 {
        let now = start + MS * u32::try_from(tick).unwrap();
        queue.push(Critical, 0, now, None, 0);
        if tick == 1500 {
            queue.push(Background, 0, now, None, 2);
        }
        let number = next(&mut queue, &free(now)).unwrap();
        if number > 0 {
            served.push((number, tick));
        }
    }
    assert_eq!(served.len(), 2, "{served:?}");
    assert!(served[0].1 <= 1001 && served[1].1 <= 2502, "{served:?}");
}

#[test]
fn a_full_queue_makes_room_from_the_bottom() {
    let now = Instant::now();
    let mut queue = filled(now, &[Normal, Background, Background, Critical]);
    assert_eq!(queue.displace(Background, now).map(|(_, waiter)| waiter.payload), None);
    assert_eq!(queue.displace(Normal, now).map(|(_, waiter)| waiter.payload), Some(2));
    assert_eq!(queue.displace(High, now).map(|(_, waiter)| waiter.payload), Some(1));
    assert_eq!(queue.displace(High, now).map(|(_, waiter)| waiter.payload), Some(0));
    assert_eq!(queue.displace(High, now).map(|(_, waiter)| waiter.payload), None);
    assert_eq!(queue.len(), 1);
}

#[test]
fn a_queue_that_stands_sheds_the_least_urgent_first_and_serves_its_young_end() {
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let mut queue = filled(start, &[Critical, High, Normal, Background]);
    let mut shed = Vec::new();
    queue.shed(at(400), true, TARGET, TARGET, &mut shed);
    assert!(shed.is_empty() && !queue.stands());
    queue.push(Normal, 0, at(500), None, 7);
    queue.push(Normal, 0, at(550), None, 8);
    queue.shed(at(600), true, TARGET, TARGET, &mut shed);
    let gone: Vec<_> = shed.drain(..).map(|(priority, _)| priority).collect();
    assert_eq!(gone, [Background, Normal], "those who came at the start");
    queue.shed(at(1100), true, TARGET, TARGET, &mut shed);
    let gone: Vec<_> = shed.drain(..).map(|(priority, _)| priority).collect();
    assert_eq!(gone, [Normal, Normal, High], "critical may wait for 2 s");
    queue.push(Normal, 0, at(1110), None, 10);
    queue.push(Normal, 0, at(1120), None, 11);
    assert_eq!(next(&mut queue, &free(at(1130))), Some(0), "critical first");
    assert_eq!(next(&mut queue, &free(at(1130))), Some(11));
    assert_eq!(next(&mut queue, &free(at(1130))), Some(10));
    assert!(!queue.stands(), "it was empty");
}

/// Fills and leaves again, `wait` later, as often as makes a crowd; then looks.
fn crowd_that_leaves_after(wait: Duration) -> (Queue<u32>, Instant) {
    let mut now = Instant::now();
    let mut queue = filled(now, &[Normal]);
    for _ in 0..20 {
        let ticket = queue.push(Normal, 0, now, None, 99);
        now += wait;
        queue.leave(ticket, now);
    }
    now += Duration::from_millis(60);
    queue.shed(now, false, TARGET, TARGET, &mut Vec::new());
    (queue, now)
}

#[test]
fn only_those_who_had_patience_tell_that_it_stands() {
    assert!(!crowd_that_leaves_after(MS).0.stands());
    assert!(crowd_that_leaves_after(20 * MS).0.stands());
}

#[test]
fn a_patient_caller_is_served_while_the_queue_stands() {
    let (mut queue, now) = crowd_that_leaves_after(20 * MS);
    let served = (0..16).find(|_| {
        queue.push(Normal, 0, now, None, 1);
        next(&mut queue, &free(now)) == Some(0)
    });
    assert!(served.is_some());
    assert!(queue.stands());
}

#[test]
fn those_ahead_are_the_more_urgent_and_the_earlier() {
    let now = Instant::now();
    let queue = filled(now, &[Critical, Normal, Normal, Background]);
    assert_eq!(queue.ahead_of(Critical), [2, 0, 0, 0]);
    assert_eq!(queue.ahead_of(High), [1, 1, 0, 0]);
    assert_eq!(queue.ahead_of(Normal), [1, 0, 3, 0]);
    assert_eq!(queue.ahead_of(Background), [1, 0, 2, 2]);
    let mut forecast = Forecast::default();
    for _ in 0..100 {
        forecast.observe(Normal, 10 * MS);
        forecast.observe(Critical, 2 * MS);
    }
    assert_eq!(forecast.wait([1, 0, 3, 0], 4).as_millis(), 8);
    let typical = forecast.typical(Normal).unwrap();
    assert!((9 * MS..=11 * MS).contains(&typical), "{typical:?}");
    assert_eq!(forecast.typical(High), None);
}

#[test]
fn the_median_is_not_moved_by_a_few_reports() {
    let mut forecast = Forecast::default();
    for number in 0..2000 {
        forecast.observe(Normal, if number % 20 == 0 { 1000 * MS } else { MS });
    }
    assert!(forecast.typical(Normal).unwrap() < 2 * MS);
    assert!(forecast.mean(Normal) > 10 * MS);
}

/// An open loop against `places` servers, tick by tick: what is served in time, of what could be.
fn simulate(load: f64, seed: u64) -> f64 {
    let (places, service, deadline) = (8_usize, 10_u32, 100_u32);
    let mut random = fastrand::Rng::with_seed(seed);
    let start = Instant::now();
    let (mut queue, mut forecast) = (Queue::new(start), Forecast::default());
    for _ in 0..100 {
        forecast.observe(Normal, service * MS);
    }
    let mut busy = vec![start; places];
    let (mut good, mut arrived, mut owed) = (0_u32, 0_u32, 0.0);
    let ticks = 3000;
    for tick in 0..ticks {
        let now = start + MS * tick;
        owed += load * 0.8 * 2.0 * random.f64();
        while owed >= 1.0 {
            owed -= 1.0;
            arrived += 1;
            let wait = forecast.wait(queue.ahead_of(Normal), 8);
            if !forecast.is_late(Normal, wait, deadline * MS) {
                queue.push(Normal, 0, now, Some(now + deadline * MS), now);
            }
        }
        for place in &mut busy {
            if *place <= now
                && let Some((_, waiter)) = queue.pop(&free(now), &forecast)
            {
                let took = service - 2 + random.u32(0..5);
                *place = now + took * MS;
                good += u32::from(*place - waiter.payload <= deadline * MS);
            }
        }
    }
    f64::from(good) / f64::from(arrived).min(0.8 * f64::from(ticks))
}

#[test]
fn goodput_holds_at_any_load() {
    for load in [0.5, 1.0, 2.0, 5.0, 10.0] {
        for seed in 0..20 {
            let goodput = simulate(load, seed);
            assert!(goodput > 0.9, "load {load}, seed {seed}: {goodput}");
        }
    }
}

#[test]
fn flows_are_named_in_their_order_and_taken_out_as_a_whole() {
    let now = Instant::now();
    let mut queue = Queue::new(now);
    for (flow, priority) in [(1, Background), (2, Normal), (3, Normal), (2, Normal), (4, Critical)] {
        queue.push(priority, flow, now, None, flow);
    }
    let flows: Vec<_> = queue.flows().map(|(_, flow, waiting)| (flow, waiting)).collect();
    assert_eq!(flows, [(4, 1), (2, 2), (3, 1), (1, 1)]);
    assert_eq!(queue.peek(&free(now)), Some(4));
    let not_four = Turn {
        may: &|flow| flow != 4,
        ..free(now)
    };
    assert_eq!(queue.peek(&not_four), Some(2));
    let taken: Vec<_> = queue
        .take_flows(|flow| flow == 2, now)
        .iter()
        .map(|waiter| waiter.payload)
        .collect();
    assert_eq!((taken, queue.len()), (vec![2, 2], 3));
    assert_eq!(queue.peek(&not_four), Some(3));
}

#[test]
fn one_that_starves_is_served_from_what_is_spared_too() {
    let now = Instant::now();
    let mut queue = filled(now, &[Background]);
    let spared = Turn {
        room: &|_| false,
        ..free(now)
    };
    assert_eq!(next(&mut queue, &spared), None);
    let later = Turn {
        now: now + Duration::from_secs(2),
        ..spared
    };
    assert_eq!(next(&mut queue, &later), Some(0));
}
