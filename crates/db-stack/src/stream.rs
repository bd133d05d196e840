//! A query's steps as a stream that is still one replayable operation until its first step is handed out.

use crate::Db;
use async_stream::try_stream;
use db_core::{Handoff, Statement, Step, Want};
use futures_core::stream::BoxStream;
use sqlx::{Execute, Postgres};
use std::{future::poll_fn, sync::Arc, task::Poll};

enum Turn {
    Batch(Vec<Step>),
    End,
}

/// Runs the query down the stack and yields its steps. The call and the reader are polled side by side in one task: a
/// slow reader holds the server back, a dropped stream drops the call.
pub(crate) fn steps<'e, 'q: 'e, E>(db: &Db, query: E) -> BoxStream<'e, sqlx::Result<Step>>
where
    E: 'q + Execute<'q, Postgres>,
{
    let handoff = Arc::new(Handoff::default());
    let statement = Statement::new(query, Want::Steps(handoff.clone()));
    let (inner, mut call) = (db.inner.clone(), db.wishes());
    Box::pin(try_stream! {
        let statement = inner.telemetry.tagging.on(statement?);
        call.statement = Some(statement.facts().fingerprint());
        let mut running = inner.stack.call(&call, &statement);
        loop {
            let turn = poll_fn(|cx| {
                if let Some(batch) = handoff.take(false) {
                    return Poll::Ready(Ok(Turn::Batch(batch)));
                }
                match running.as_mut().poll(cx) {
                    Poll::Ready(Ok(_)) => Poll::Ready(Ok(Turn::End)),
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    Poll::Pending => match handoff.take(false) {
                        Some(batch) => Poll::Ready(Ok(Turn::Batch(batch))),
                        None => Poll::Pending,
                    },
                }
            })
            .await?;
            match turn {
                Turn::Batch(batch) => {
                    for step in batch {
                        yield step;
                    }
                }
                Turn::End => break,
            }
        }
        while let Some(batch) = handoff.take(true) {
            for step in batch {
                yield step;
            }
        }
    })
}
