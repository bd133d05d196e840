//! The primary dies, a replica is promoted, the old one comes back: writes go to one node only.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{MS, SOON, config, port, read, servers, session, stack, until, write};
use db_core::Call;
use db_replica::Writes;
use db_testkit::Postgres;
use tokio::time::{Instant, sleep};

async fn rows(server: &Postgres, id: i32) -> i64 {
    let mut admin = server.admin().await.unwrap();
    sqlx::query_scalar("SELECT n FROM t WHERE id = $1")
        .bind(id)
        .fetch_one(&mut admin)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_follow_the_promotion_and_never_come_back() {
    let (primary, replicas) = servers(1).await;
    let next = &replicas[0];
    let stack = stack(config(), &[&primary, next]);
    assert!(stack.cluster().ready(SOON).await);
    let call = Call::here();
    write(&stack, &call, 1, 1).await.unwrap();
    next.wait_caught_up(&primary, SOON).await.unwrap();

    primary.kill().await.unwrap();
    assert!(write(&stack, &call, 1, 2).await.is_err());
    until("the loss is noticed", || async {
        stack.cluster().stats().writes == Writes::Lost
    })
    .await;
    assert_eq!(read(&stack, &call, 1).await.unwrap(), 1, "the replica still answers");
    next.promote().await.unwrap();
    until("writes go on", || async { write(&stack, &call, 1, 3).await.is_ok() }).await;
    assert_eq!(rows(next, 1).await, 3);
    assert_eq!(stack.cluster().epoch(), 1);

    // A split brain: the old primary comes back and takes writes.
    primary.start_again().await.unwrap();
    until("the second primary is noticed", || async {
        stack.cluster().stats().writable == 2
    })
    .await;
    for n in 4..24 {
        write(&stack, &call, 1, n).await.unwrap();
        assert_eq!(
            read(&stack, &call, 1).await.unwrap(),
            n,
            "reads don't go to the old one either"
        );
    }
    assert_eq!(rows(&primary, 1).await, 1);
    assert_eq!(rows(next, 1).await, 23);

    // Even when the right one is away, the wrong one gets nothing.
    next.kill().await.unwrap();
    let until_then = Instant::now() + 500 * MS;
    while Instant::now() < until_then {
        assert!(write(&stack, &call, 1, 99).await.is_err());
        assert!(read(&stack, &session(), 1).await.is_err());
        sleep(5 * MS).await;
    }
    assert_eq!(rows(&primary, 1).await, 1);
    assert_eq!(stack.cluster().stats().writes, Writes::Fenced);
}

#[tokio::test]
async fn roles_are_found_whatever_the_configuration_says() {
    let (primary, replicas) = servers(1).await;
    // The replica is named first.
    let stack = stack(config(), &[&replicas[0], &primary]);
    assert!(stack.cluster().ready(SOON).await);
    let call = session();
    until("writes reach the primary", || async {
        write(&stack, &call, 1, 1).await.is_ok()
    })
    .await;
    assert_eq!(rows(&primary, 1).await, 1);
    assert_eq!(
        stack.cluster().primary().unwrap().name().to_string(),
        primary.addr().to_string()
    );
    until("reads reach the replica", || async {
        port(&stack, &Call::here()).await.unwrap() == i32::from(replicas[0].port())
    })
    .await;
}

#[tokio::test]
async fn nodes_come_and_go_at_run_time() {
    let (primary, replicas) = servers(2).await;
    let stack = stack(config(), &[&primary]);
    let call = Call::here();
    assert!(!stack.cluster().is_active());
    assert_eq!(port(&stack, &call).await.unwrap(), i32::from(primary.port()));
    for replica in &replicas {
        stack.cluster().add(db_replica::Member::new(replica.options()));
    }
    assert!(stack.cluster().ready(SOON).await);
    until("both replicas serve", || async {
        port(&stack, &call).await.unwrap();
        stack.stats().cluster.nodes.iter().filter(|node| node.reads > 0).count() == 2
    })
    .await;
    assert!(stack.cluster().remove(&replicas[0].addr().to_string()));
    assert!(!stack.cluster().remove("nobody:1"));
    for _ in 0..20 {
        assert_eq!(port(&stack, &call).await.unwrap(), i32::from(replicas[1].port()));
    }
    assert!(stack.cluster().remove(&replicas[1].addr().to_string()));
    assert_eq!(port(&stack, &call).await.unwrap(), i32::from(primary.port()));
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_survive_the_loss_of_every_replica() {
    let (primary, replicas) = servers(2).await;
    let stack = stack(config(), &[&primary, &replicas[0], &replicas[1]]);
    assert!(stack.cluster().ready(SOON).await);
    let call = Call::here();
    for _ in 0..10 {
        read(&stack, &call, 1).await.unwrap();
    }
    assert_eq!(stack.stats().fallbacks, 0);
    for replica in &replicas {
        replica.kill().await.unwrap();
    }
    for _ in 0..50 {
        read(&stack, &call, 1).await.unwrap();
    }
    assert!(stack.stats().fallbacks >= 40, "{:?}", stack.stats());
    replicas[1].start_again().await.unwrap();
    let before = stack.stats().replica_reads;
    until("the one that is back serves", || async {
        read(&stack, &call, 1).await.unwrap();
        stack.stats().replica_reads > before
    })
    .await;
}
