//! One connection through the proxy.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::timeout,
};

use crate::proxy::{
    fault::{CutStyle, Direction, Gate, Lanes},
    pump::{self, End},
    shared::Shared,
};

/// How long the server may take to accept.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the server is listened to after its client was cut off.
const DRAIN: Duration = Duration::from_secs(5);

/// What the proxy's handle and the tasks of a connection share.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) lanes: watch::Sender<Lanes>,
    to_server: AtomicU64,
    to_client: AtomicU64,
    /// Bytes were lost, so the stream is of no more use.
    pub(crate) torn: AtomicBool,
}

impl Link {
    pub(crate) fn new(id: u64, lanes: Lanes) -> Self {
        Self {
            id,
            lanes: watch::Sender::new(lanes),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            torn: AtomicBool::new(false),
        }
    }

    pub(crate) fn counter(&self, direction: Direction) -> &AtomicU64 {
        if direction == Direction::ToClient {
            &self.to_client
        } else {
            &self.to_server
        }
    }

    /// Bytes forwarded to the server and to the client.
    pub(crate) fn forwarded(&self) -> (u64, u64) {
        (
            self.to_server.load(Ordering::Acquire),
            self.to_client.load(Ordering::Acquire),
        )
    }
}

/// Takes a connection off the books, however its task ends.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) link: Arc<Link>,
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.unregister(self.link.id);
    }
}

/// Carries bytes until one side ends or a fault does.
pub(crate) async fn carry(mut client: TcpStream, registered: Registered) {
    let Registered { link, shared } = &registered;
    // Small writes must not wait for each other.
    let _ = client.set_nodelay(true);
    let mut lanes = link.lanes.subscribe();
    let opened = tokio::select! {
        opened = open(shared) => opened,
        style = cut_now(&mut lanes) => {
            shared.count_cut();
            return sever(&mut client, style).await;
        }
    };
    let Some(mut server) = opened else {
        return sever(&mut client, CutStyle::Reset).await;
    };
    let end = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let up = pump::pump(client_read, server_write, Direction::ToServer, link, shared);
        let down = pump::pump(server_read, client_write, Direction::ToClient, link, shared);
        let both = async {
            tokio::pin!(up, down);
            // An orderly end of one direction leaves the other open, as in TCP.
            tokio::select! {
                end = &mut up => if end == End::Finished { down.await } else { end },
                end = &mut down => if end == End::Finished { up.await } else { end },
            }
        };
        tokio::select! {
            end = both => end,
            style = cut_now(&mut lanes) => End::Cut(style),
        }
    };
    if matches!(end, End::Cut(_) | End::CutClient(_)) {
        shared.count_cut();
    }
    match end {
        End::Finished => {}
        End::Broken => {
            sever(&mut client, CutStyle::Reset).await;
            sever(&mut server, CutStyle::Reset).await;
        }
        End::Cut(style) => {
            sever(&mut client, style).await;
            sever(&mut server, style).await;
        }
        End::CutClient(style) => {
            sever(&mut client, style).await;
            drop(client);
            // The server must read what it was sent, so it gets an orderly end and not a reset.
            let _ = server.shutdown().await;
            let mut sink = [0; 4096];
            let drain = async { while matches!(server.read(&mut sink).await, Ok(1..)) {} };
            let _ = timeout(DRAIN, drain).await;
        }
    }
}

/// Connects to the server once the gate is open.
async fn open(shared: &Shared) -> Option<TcpStream> {
    let mut gate = shared.gate.subscribe();
    let now = *gate.wait_for(|gate| *gate != Gate::Hang).await.ok()?;
    if now == Gate::Refuse {
        return None;
    }
    let upstream = shared.upstream();
    let server = timeout(CONNECT, TcpStream::connect(&upstream[..])).await.ok()?.ok()?;
    server.set_nodelay(true).ok()?;
    Some(server)
}

async fn cut_now(lanes: &mut watch::Receiver<Lanes>) -> CutStyle {
    loop {
        if let Some(style) = lanes.borrow_and_update().cut_now {
            return style;
        }
        if lanes.changed().await.is_err() {
            return CutStyle::Reset;
        }
    }
}

/// Prepares a socket to end in this style when it is dropped.
pub(crate) async fn sever(socket: &mut TcpStream, style: CutStyle) {
    // Both fail only on sockets that have ended already.
    match style {
        CutStyle::Reset => drop(socket.set_zero_linger()),
        CutStyle::Finish => {
            let _ = socket.shutdown().await;
            // Closing with unread bytes would send a reset instead.
            let mut sink = [0; 4096];
            for _ in 0..1024 {
                if !matches!(socket.try_read(&mut sink), Ok(1..)) {
                    break;
                }
            }
        }
    }
}
