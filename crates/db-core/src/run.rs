//! The leaf that joins the two seams.

use crate::{
    Call, Error, Footprint, Lease, LeaseState, Operation, Result, Service, SharedSession, Source, StatementKind,
    Tenant, config::InvalidConfig,
};
use sqlx::{Connection, Executor, PgConnection, SqlStr};

/// Takes a lease from the source, runs the operation on it and says how the lease was left.
#[derive(Clone, Copy, Debug)]
pub struct Run<C>(pub C);

impl<C: Source, Op: Operation + ?Sized> Service<Op> for Run<C> {
    async fn call(&self, call: &Call, op: &Op) -> Result<Op::Output> {
        let mut lease = self.0.acquire(call).await?;
        let session = lease.shared_session().cloned();
        let statement = op.facts().zip(op.prepared());
        let held = lease.cached_statements_size();
        let early = statement.is_some_and(|(facts, _)| facts.uses().saturating_add(1) < lease.prepare_from());
        let confined = call.tenant.as_ref().and_then(Tenant::begin);
        let out = match (confined, session) {
            // Boxed, as below.
            (Some(begin), session) => Box::pin(confine(lease.start(), begin, session.as_deref(), op)).await,
            (None, None) if early => Box::pin(op.run_unprepared(lease.start())).await,
            (None, None) => op.run(lease.start()).await,
            // Boxed: the rare way must not make every call's future bigger.
            (None, Some(session)) => Box::pin(op.run_shared(lease.start(), &session)).await,
        };
        match (statement, op.facts()) {
            (Some((facts, sql)), _) if !early => lease.ran(facts, sql, held),
            (_, Some(facts)) => facts.count_use(),
            (_, None) => {}
        }
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

/// Runs the operation in a transaction that is confined to a tenant. Dropped half-way, it is rolled back in quarantine.
async fn confine<Op: Operation + ?Sized>(
    conn: &mut PgConnection,
    begin: SqlStr,
    session: Option<&SharedSession>,
    op: &Op,
) -> Result<Op::Output> {
    let leaves = op.facts().is_none_or(|facts| {
        let kind = facts.kind();
        facts.controls_transaction() || matches!(kind, StatementKind::TxControl | StatementKind::Session)
    });
    if leaves || session.is_some_and(|session| !session.named_statements) {
        let allowed = "no statement that ends a transaction or changes the session, and no pooler that forgets names";
        return Err(InvalidConfig::one("tenant", "(a statement)", allowed).into());
    }
    conn.execute(sqlx::raw_sql(begin)).await?;
    match op.run(conn).await {
        Ok(out) => {
            conn.execute(sqlx::raw_sql("COMMIT")).await?;
            Ok(out)
        }
        Err(error) => {
            // Where that fails the connection is of no use, whatever the statement's error says.
            conn.execute(sqlx::raw_sql("ROLLBACK")).await?;
            Err(error)
        }
    }
}
