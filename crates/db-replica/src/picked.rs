//! A replica for what is not an operation.

use crate::{readers::Reader, shared::is_fault, ticket::Ticket};
use db_core::{NodeId, Result};
use std::{fmt, ops::Deref, sync::Arc, time::Duration};

/// A replica that was picked for a read: derefs to its service, and counts as busy until dropped.
pub struct Picked<S> {
    reader: Arc<Reader<S>>,
    ticket: Option<Ticket>,
}

impl<S> Picked<S> {
    pub(crate) fn new(reader: Arc<Reader<S>>, decay: Duration) -> Self {
        let ticket = Some(Ticket::begin(&reader.node, decay));
        Self { reader, ticket }
    }

    /// The number of the node, for [`CausalSession::saw_replica`](db_core::CausalSession::saw_replica).
    pub fn node(&self) -> NodeId {
        self.reader.node.id
    }

    /// What it was picked for has begun, or failed to.
    pub fn done<T>(&mut self, out: &Result<T>) {
        if let Some(ticket) = self.ticket.take() {
            ticket.done(matches!(out, Err(error) if is_fault(error)));
        }
    }
}

impl<S> Deref for Picked<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.reader.service
    }
}

impl<S> fmt::Debug for Picked<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Picked").field(self.reader.node.member.name()).finish()
    }
}
