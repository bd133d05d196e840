//! The leaf that joins the two seams.

use crate::{Call, Error, Footprint, Lease, LeaseState, Operation, Result, Service, Source};

/// Takes a lease from the source, runs the operation on it and says how the lease was left.
#[derive(Clone, Copy, Debug)]
pub struct Run<C>(pub C);

impl<C: Source, Op: Operation + ?Sized> Service<Op> for Run<C> {
    async fn call(&self, call: &Call, op: &Op) -> Result<Op::Output> {
        let mut lease = self.0.acquire(call).await?;
        let session = lease.shared_session().cloned();
        let out = match session {
            None => op.run(lease.start()).await,
            // Boxed: the rare way must not make every call's future bigger.
            Some(session) => Box::pin(op.run_shared(lease.start(), &session)).await,
        };
        lease.settle(match (&out, op.footprint()) {
            (Ok(_), Footprint::None) => LeaseState::Clean,
            (Ok(_), Footprint::Session) => LeaseState::Verify,
            (Err(error), footprint) => match LeaseState::after(error) {
                LeaseState::Clean if footprint == Footprint::Session => LeaseState::Verify,
                state => state,
            },
        });
        out.map_err(|error| lease.revoked().map_or(error, Error::from))
    }
}
