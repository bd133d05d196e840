//! One direction of a connection: a reader, a bounded queue and a writer.

use std::{future::pending, io, sync::atomic::Ordering, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{ReadHalf, WriteHalf},
    sync::{mpsc, watch},
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

use crate::proxy::{
    fault::{CutStyle, Direction, Lane, Lanes},
    frontend::{Frontend, Piece},
    link::Link,
    shared::Shared,
};

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;
/// Chunks on their way; with a full queue the reader stops, and TCP makes the sender wait.
const QUEUE: usize = 64;

/// How a connection, or one direction of it, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The sender closed in order, and the receiver has been told.
    Finished,
    /// A socket failed.
    Broken,
    /// Cut both sides.
    Cut(CutStyle),
    /// Cut the client; the server goes on with what it has.
    CutClient(CutStyle),
}

enum Item {
    Piece(Piece),
    End(End),
}

/// Carries bytes in one direction until it ends.
pub(crate) async fn pump(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    direction: Direction,
    link: &Link,
    shared: &Shared,
) -> End {
    let (queue, items) = mpsc::channel(QUEUE);
    let reader = Reader {
        from,
        direction,
        lanes: link.lanes.subscribe(),
        queue,
        shared,
    };
    let writer = Writer {
        to,
        direction,
        lanes: link.lanes.subscribe(),
        link,
        shared,
    };
    tokio::select! {
        end = reader.run() => end,
        end = writer.run(items) => end,
    }
}

struct Reader<'p> {
    from: ReadHalf<'p>,
    direction: Direction,
    lanes: watch::Receiver<Lanes>,
    queue: mpsc::Sender<(Instant, Item)>,
    shared: &'p Shared,
}

impl Reader<'_> {
    async fn run(mut self) -> End {
        let mut buffer = vec![0; CHUNK];
        let mut frontend = (self.direction == Direction::ToServer).then(Frontend::new);
        loop {
            let stalled = self.lanes.borrow_and_update().lane(self.direction).stall;
            let read = tokio::select! {
                read = self.from.read(&mut buffer), if !stalled => read,
                _ = self.lanes.changed() => continue,
            };
            let bytes = match read {
                Ok(0) => return self.last(End::Finished).await,
                Err(_) => return self.last(End::Broken).await,
                Ok(read) => &buffer[..read],
            };
            if self.direction == Direction::ToClient
                && let Some(style) = self.lanes.borrow().withhold
            {
                return End::CutClient(style);
            }
            let at = Instant::now();
            let pieces = match &mut frontend {
                Some(frontend) => frontend.feed(bytes, &mut |message| self.shared.judge(message)),
                None => vec![Piece::Bytes(bytes.to_owned())],
            };
            for piece in pieces {
                if self.queue.send((at, Item::Piece(piece))).await.is_err() {
                    return End::Broken;
                }
            }
        }
    }

    /// The end travels behind the bytes; the writer then ends the pump.
    async fn last(self, end: End) -> End {
        if self.queue.send((Instant::now(), Item::End(end))).await.is_err() {
            return End::Broken;
        }
        pending().await
    }
}

struct Writer<'p> {
    to: WriteHalf<'p>,
    direction: Direction,
    lanes: watch::Receiver<Lanes>,
    link: &'p Link,
    shared: &'p Shared,
}

impl Writer<'_> {
    async fn run(mut self, mut items: mpsc::Receiver<(Instant, Item)>) -> End {
        loop {
            if let Some(style) = self.lane().cut_due(self.forwarded()) {
                return End::Cut(style);
            }
            let (at, item) = tokio::select! {
                item = items.recv() => match item {
                    Some(item) => item,
                    None => return End::Broken,
                },
                _ = self.lanes.changed() => continue,
            };
            self.until_due(at).await;
            match item {
                Item::Piece(Piece::Bytes(bytes)) => match self.write(&bytes).await {
                    Ok(None) => {}
                    Ok(Some(end)) => return end,
                    Err(_) => return self.unless_blackhole(End::Broken).await,
                },
                Item::Piece(Piece::Withhold(style)) => {
                    self.link.lanes.send_modify(|lanes| lanes.withhold = Some(style));
                }
                Item::Piece(Piece::Cut(style)) => return End::Cut(style),
                Item::Piece(Piece::CutClient(style)) => return End::CutClient(style),
                Item::End(end) => {
                    let end = self.unless_blackhole(end).await;
                    // Fails only when the receiver is gone as well.
                    let _ = self.to.shutdown().await;
                    return end;
                }
            }
        }
    }

    fn lane(&mut self) -> Lane {
        *self.lanes.borrow_and_update().lane(self.direction)
    }

    fn forwarded(&self) -> u64 {
        self.link.counter(self.direction).load(Ordering::Acquire)
    }

    /// Waits for as long as what was read at `at` is delayed or the connection stalled, by the faults of the moment.
    async fn until_due(&mut self, at: Instant) {
        loop {
            let lane = self.lane();
            let due = at + lane.delay;
            if !lane.stall && due <= Instant::now() {
                return;
            }
            tokio::select! {
                () = sleep_until(due), if !lane.stall => {}
                _ = self.lanes.changed() => {}
            }
        }
    }

    /// A dead network does not tell that a peer has gone.
    async fn unless_blackhole(&mut self, end: End) -> End {
        while self.lane().blackhole {
            if self.lanes.changed().await.is_err() {
                break;
            }
        }
        end
    }

    async fn write(&mut self, mut rest: &[u8]) -> io::Result<Option<End>> {
        while !rest.is_empty() {
            let lane = self.lane();
            if lane.blackhole {
                self.link.torn.store(true, Ordering::Release);
                return Ok(None);
            }
            if let Some(style) = lane.cut_due(self.forwarded()) {
                return Ok(Some(End::Cut(style)));
            }
            let piece = &rest[..lane.allowance(self.forwarded(), rest.len())];
            let written = tokio::select! {
                written = self.to.write(piece), if !lane.stall => written?,
                _ = self.lanes.changed() => continue,
            };
            rest = &rest[written..];
            self.count(written as u64);
            if let Some(rate) = lane.bytes_per_second {
                self.pace(Duration::from_secs_f64(written as f64 / rate as f64)).await;
            } else if lane.slice {
                yield_now().await;
            }
        }
        Ok(None)
    }

    fn count(&self, written: u64) {
        self.link.counter(self.direction).fetch_add(written, Ordering::AcqRel);
        self.shared.count_bytes(self.direction, written);
    }

    /// Waits, unless the faults change meanwhile.
    async fn pace(&mut self, wait: Duration) {
        tokio::select! {
            () = sleep(wait) => {}
            _ = self.lanes.changed() => {}
        }
    }
}
