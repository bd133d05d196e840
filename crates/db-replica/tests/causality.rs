//! Sessions never see the past, on real replicas whose replay is held up.

mod common;

use common::{MS, SOON, config, read, servers, session, stack, until, with_session, write};
use db_core::{CausalError, CausalSession, CausalToken, Error, Lsn, Target};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_reads_its_writes_while_replicas_stop_and_go() {
    let (primary, replicas) = servers(2).await;
    let stack = stack(config(), &[&primary, &replicas[0], &replicas[1]]);
    assert!(stack.cluster().ready(SOON).await);
    let stop = Arc::new(AtomicBool::new(false));
    let mut sessions = Vec::new();
    for id in 1..=4 {
        let (stack, stop) = (stack.clone(), stop.clone());
        sessions.push(tokio::spawn(async move {
            let call = session();
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                write(&stack, &call, id, n).await.unwrap();
                assert_eq!(read(&stack, &call, id).await.unwrap(), n, "its own write");
                // Side by side with another session's writes: never backwards.
                let other = id % 4 + 1;
                let first = read(&stack, &call, other).await.unwrap();
                let second = read(&stack, &call, other).await.unwrap();
                assert!(second >= first, "{second} after {first}");
            }
            n
        }));
    }
    for round in 0..4 {
        let replica = &replicas[round % 2];
        replica.pause_replay().await.unwrap();
        sleep(300 * MS).await;
        replica.resume_replay().await.unwrap();
        sleep(200 * MS).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut pairs = 0;
    for session in sessions {
        pairs += session.await.unwrap();
    }
    let stats = stack.stats();
    assert!(pairs > 20, "{pairs} pairs, {stats:?}");
    assert!(stats.replica_reads > stats.fallbacks, "{stats:?}");
}

#[tokio::test]
async fn a_token_carries_a_session_to_another_process() {
    let (primary, replicas) = servers(1).await;
    let here = stack(config(), &[&primary, &replicas[0]]);
    let there = stack(config(), &[&primary, &replicas[0]]);
    assert!(here.cluster().ready(SOON).await && there.cluster().ready(SOON).await);
    replicas[0].pause_replay().await.unwrap();

    let call = session();
    write(&here, &call, 1, 7).await.unwrap();
    let token = here
        .cluster()
        .token(call.session.as_ref().unwrap())
        .await
        .unwrap()
        .unwrap();
    let text = token.to_string();

    let stale = db_core::Call::here();
    assert_eq!(read(&there, &stale, 1).await.unwrap(), 0, "the replica is held up");
    let call = with_session(CausalSession::from_token(text.parse().unwrap()));
    assert_eq!(read(&there, &call, 1).await.unwrap(), 7);
    assert!(
        there.stats().too_late >= 1,
        "it went to the primary: {:?}",
        there.stats()
    );

    replicas[0].resume_replay().await.unwrap();
    let before = there.stats().replica_reads;
    until("the replica serves the session again", || async {
        assert_eq!(
            read(&there, &with_session(CausalSession::from_token(token)), 1)
                .await
                .unwrap(),
            7
        );
        there.stats().replica_reads > before
    })
    .await;
}

#[tokio::test]
async fn a_token_that_can_not_be_honoured_says_why() {
    let (primary, replicas) = servers(1).await;
    let stack = stack(config(), &[&primary, &replicas[0]]);
    assert!(stack.cluster().ready(SOON).await);
    let call = session();
    write(&stack, &call, 1, 1).await.unwrap();
    let token = stack
        .cluster()
        .token(call.session.as_ref().unwrap())
        .await
        .unwrap()
        .unwrap();

    let foreign = with_session(CausalSession::from_token(CausalToken {
        system: token.system + 1,
        ..token
    }));
    let error = read(&stack, &foreign, 1).await.unwrap_err();
    assert!(
        matches!(error, Error::Causal(CausalError::OtherCluster { .. })),
        "{error}"
    );
    let future = with_session(CausalSession::from_token(CausalToken {
        timeline: token.timeline + 1,
        ..token
    }));
    let error = read(&stack, &future, 1).await.unwrap_err();
    assert!(
        matches!(error, Error::Causal(CausalError::UnknownTimeline { .. })),
        "{error}"
    );

    // Its timeline ends with a promotion.
    primary.kill().await.unwrap();
    replicas[0].promote().await.unwrap();
    let lost = with_session(CausalSession::from_token(CausalToken {
        lsn: Lsn(token.lsn.0 + (1 << 30)),
        ..token
    }));
    until("the promotion is noticed", || async {
        matches!(
            read(&stack, &lost, 1).await,
            Err(Error::Causal(CausalError::Lost { timeline: 2, .. }))
        )
    })
    .await;
    let kept = with_session(CausalSession::from_token(token));
    assert_eq!(
        read(&stack, &kept, 1).await.unwrap(),
        1,
        "what was taken over still counts"
    );
    lost.session.as_ref().unwrap().forget();
    read(&stack, &lost, 1).await.unwrap();
}

#[tokio::test]
async fn a_fresh_read_shows_what_was_committed_so_long_ago() {
    let (primary, replicas) = servers(1).await;
    let stack = stack(config(), &[&primary, &replicas[0]]);
    assert!(stack.cluster().ready(SOON).await);
    let fresh = |age| {
        let mut call = db_core::Call::here();
        call.target = Target::Fresh(age);
        call
    };
    // The server may still hold back what it logged in passing.
    until("the replica has everything", || async {
        read(&stack, &fresh(Duration::ZERO), 1).await.unwrap();
        stack.stats().replica_reads > 0
    })
    .await;
    replicas[0].pause_replay().await.unwrap();
    write(&stack, &db_core::Call::here(), 1, 5).await.unwrap();
    assert_eq!(
        read(&stack, &fresh(Duration::from_secs(60)), 1).await.unwrap(),
        0,
        "old enough"
    );
    assert_eq!(
        read(&stack, &fresh(Duration::ZERO), 1).await.unwrap(),
        5,
        "from the primary"
    );
    replicas[0].resume_replay().await.unwrap();
    replicas[0].wait_caught_up(&primary, SOON).await.unwrap();
    let before = stack.stats().replica_reads;
    until("the replica is fresh", || async {
        assert_eq!(read(&stack, &fresh(Duration::ZERO), 1).await.unwrap(), 5);
        stack.stats().replica_reads > before
    })
    .await;
}
