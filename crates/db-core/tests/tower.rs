//! The contract of the two adapters: nothing is lost on the way, and a dropped call gives back what it had.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_core::{
    AcquireError, AcquireFailure, Call, Error, FromTower, IntoTower, Priority, Result, Rows, Service, Statement,
    service_fn,
};
use std::{
    future::{pending, ready},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tower::{Service as _, ServiceExt, service_fn as tower_fn};

fn select() -> Statement {
    Statement::all("SELECT 1").unwrap()
}

#[tokio::test]
async fn a_call_and_its_error_come_through_both_adapters_as_they_were() {
    let ours = service_fn(|call: Call| async move {
        match call.priority {
            Priority::Critical => Ok::<_, Error>(Rows::default()),
            _ => Err(Error::from(AcquireError::new(
                AcquireFailure::Down,
                Duration::from_millis(7),
            ))),
        }
    });
    let back = FromTower::new(IntoTower::new(ours));
    let mut call = Call::default();
    call.priority = Priority::Critical;
    assert!(back.call(&call, &select()).await.unwrap().rows.is_empty());
    let error = back.call(&Call::default(), &select()).await.unwrap_err();
    assert!(
        matches!(&error, Error::Acquire(acquire) if acquire.failure == AcquireFailure::Down),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_error_of_somebody_elses_is_kept_and_claims_nothing() {
    let theirs = tower_fn(|_: (Call, Statement)| ready(Err::<Rows, _>(std::io::Error::other("over the quota"))));
    let error = FromTower::new(theirs)
        .call(&Call::default(), &select())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Client(_)), "{error:?}");
    assert!(error.to_string().contains("over the quota"), "{error}");
}

#[tokio::test]
async fn ours_is_ready_and_can_be_called_by_oneshot() {
    let mut service = IntoTower::new(service_fn(|_: Call| ready(Ok::<_, Error>(Rows::default()))));
    tower::ServiceExt::<(Call, Statement)>::ready(&mut service)
        .await
        .unwrap();
    let rows: Result<Rows> = service.call((Call::default(), select())).await;
    assert!(rows.is_ok());
    assert!(service.oneshot((Call::default(), select())).await.is_ok());
}

/// One place; `poll_ready` takes it, the response's end or the drop of a clone gives it back.
#[derive(Default)]
struct Narrow {
    free: Arc<AtomicUsize>,
    mine: bool,
}

impl Clone for Narrow {
    fn clone(&self) -> Self {
        Self {
            free: self.free.clone(),
            mine: false,
        }
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        if self.mine {
            self.free.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl tower::Service<(Call, Statement)> for Narrow {
    type Response = Rows;
    type Error = Error;
    type Future = std::future::Pending<Result<Rows>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.mine
            || self
                .free
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                .is_ok()
        {
            self.mine = true;
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, _: (Call, Statement)) -> Self::Future {
        pending()
    }
}

#[tokio::test]
async fn a_dropped_call_gives_its_place_back() {
    let free = Arc::new(AtomicUsize::new(1));
    let service = FromTower::new(Narrow {
        free: free.clone(),
        mine: false,
    });
    for _ in 0..3 {
        let (call, op) = (Call::default(), select());
        let hanging = service.call(&call, &op);
        assert!(tokio::time::timeout(Duration::from_millis(20), hanging).await.is_err());
        assert_eq!(free.load(Ordering::SeqCst), 1);
    }
}
