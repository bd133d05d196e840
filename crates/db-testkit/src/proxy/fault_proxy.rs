//! The proxy's handle.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::postgres::PgConnectOptions;
use tokio::{
    net::{TcpListener, TcpSocket, ToSocketAddrs, lookup_host},
    task::AbortHandle,
    time::{Instant, sleep},
};

use crate::{
    postgres::Postgres,
    proxy::{
        accept,
        counters::Counters,
        cut::Cut,
        fault::{CutStyle, Direction, Fault, Gate, Scope},
        shared::Shared,
    },
    url,
};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// How long the accepting task may take to let go of its port.
const CLOSE: Duration = Duration::from_secs(2);

/// A TCP proxy before a server, whose faults can be changed at any time.
///
/// It listens on a port of its own on 127.0.0.1 and opens one connection to the server for each that it accepts. Faults
/// act on connections that are open, on those to come, or on both ([`Scope`]); the short methods mean both. A connection
/// buffers at most 1 MiB in each direction. Dropping the proxy closes the port and all connections.
pub struct FaultProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    /// Keeps the port while it is closed, so that no other program takes it.
    reserved: Mutex<Option<TcpSocket>>,
    task: AbortHandle,
}

impl FaultProxy {
    /// Starts a proxy before `upstream`: a [`SocketAddr`], or text like `"localhost:5432"`.
    ///
    /// # Errors
    /// When `upstream` can't be resolved or no port be opened. It need not be up.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn start(upstream: impl ToSocketAddrs) -> io::Result<Self> {
        let upstream = resolve(upstream).await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::new(listener, upstream));
        let task = tokio::spawn(accept::accept(Arc::clone(&shared))).abort_handle();
        Ok(Self {
            addr,
            shared,
            reserved: Mutex::new(None),
            task,
        })
    }

    /// Starts a proxy before the server that a connection URL names.
    ///
    /// # Errors
    /// As for [`start`](Self::start), or when the URL is none or means a Unix socket.
    pub async fn start_for_url(url: &str) -> io::Result<Self> {
        let options = PgConnectOptions::from_str(url).map_err(io::Error::other)?;
        if options.get_socket().is_some() {
            return Err(io::Error::other("a Unix socket has no port to stand before"));
        }
        Self::start((options.get_host(), options.get_port())).await
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// The URL of `server`'s database `postgres`, through the proxy.
    pub fn url_for(&self, server: &Postgres) -> String {
        url::tcp("127.0.0.1", self.port(), server.recipe.password.as_deref(), "postgres")
    }

    /// A connection URL with host and port replaced by the proxy's.
    pub fn through(&self, url: &str) -> String {
        url::with_address(url, self.addr)
    }

    /// Adds a fault; of each kind, the last one counts.
    pub fn inject(&self, fault: Fault, direction: Direction, scope: Scope) {
        self.shared.inject(fault, direction, scope);
    }

    /// Delays each chunk, in order; zero removes the delay.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.inject(Fault::Delay(delay), direction, Scope::All);
    }

    /// Lets through so many bytes per second and connection.
    pub fn throttle(&self, direction: Direction, bytes_per_second: u64) {
        self.inject(Fault::Throttle(bytes_per_second), direction, Scope::All);
    }

    /// Writes every byte on its own.
    pub fn slice(&self, direction: Direction) {
        self.inject(Fault::Slice, direction, Scope::All);
    }

    /// Swallows bytes and keeps the sockets open, as a dead network does.
    pub fn blackhole(&self, direction: Direction) {
        self.inject(Fault::Blackhole, direction, Scope::All);
    }

    /// Stops reading and writing on the connections that are open now; new ones work.
    pub fn half_open(&self) {
        self.inject(Fault::Stall, Direction::Both, Scope::Present);
    }

    /// Cuts every connection after so many more bytes in this direction (with [`Direction::Both`]: in either).
    pub fn cut_after(&self, direction: Direction, bytes: u64, style: CutStyle) {
        self.inject(Fault::CutAfter { bytes, style }, direction, Scope::All);
    }

    /// Cuts all open connections; new ones work. The tasks do it a moment later.
    pub fn cut_all(&self, style: CutStyle) {
        self.shared.cut_all(style);
    }

    /// Cuts a connection at a certain message. Several cuts can wait at once; each fires once.
    pub fn cut_at(&self, cut: Cut) {
        self.shared.arm(cut);
    }

    /// How many of the cuts given to [`cut_at`](Self::cut_at) have not fired yet.
    pub fn cuts_waiting(&self) -> usize {
        self.shared.armed()
    }

    /// Cuts every connection after a random number of bytes, `mean_bytes` on average in each direction. The same seed
    /// gives the same numbers to the same order of connections.
    pub fn chaos(&self, seed: u64, mean_bytes: u64) {
        self.shared.chaos(seed, mean_bytes);
    }

    /// Resets new connections right after they were accepted.
    pub fn refuse_new(&self) {
        self.shared.gate.send_replace(Gate::Refuse);
    }

    /// Accepts new connections and leaves them alone; [`heal`](Self::heal) then serves them.
    pub fn hang_new(&self) {
        self.shared.gate.send_replace(Gate::Hang);
    }

    /// Closes the port, so that connecting fails with ECONNREFUSED until [`heal`](Self::heal); open connections stay.
    ///
    /// # Errors
    /// When the port can't be kept for later.
    pub async fn close_port(&self) -> io::Result<()> {
        let Some(listener) = self.shared.listener.send_replace(None) else {
            return Ok(());
        };
        let weak = Arc::downgrade(&listener);
        drop(listener);
        let deadline = Instant::now() + CLOSE;
        while weak.strong_count() > 0 {
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            sleep(Duration::from_millis(1)).await;
        }
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        // Bound but not listening: the kernel refuses connections and gives the port to nobody else.
        socket.bind(self.addr)?;
        *self.reserved.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
        Ok(())
    }

    /// Sends new connections to another server; open ones stay where they are.
    ///
    /// # Errors
    /// When `upstream` can't be resolved.
    pub async fn set_upstream(&self, upstream: impl ToSocketAddrs) -> io::Result<()> {
        self.shared.set_upstream(resolve(upstream).await?);
        Ok(())
    }

    /// Removes all faults and cuts that wait, opens the port and serves connections that hang.
    ///
    /// Connections that have lost bytes in a blackhole are reset: their streams are of no more use.
    ///
    /// # Panics
    /// Outside of a tokio runtime, if the port is closed.
    pub fn heal(&self) {
        let reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(socket) = reserved {
            let listener = socket.listen(BACKLOG).expect("the port was kept by this very socket");
            self.shared.listener.send_replace(Some(Arc::new(listener)));
        }
        self.shared.heal();
    }

    /// What it has seen so far.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Connections accepted since an earlier snapshot.
    pub fn connects_since(&self, earlier: &Counters) -> u64 {
        self.counters().since(earlier).accepted
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // The task owns the connections' tasks and takes them along.
        self.task.abort();
        self.shared.listener.send_replace(None);
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy")
            .field("addr", &self.addr)
            .field("upstream", &self.shared.upstream())
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

async fn resolve(upstream: impl ToSocketAddrs) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<_> = lookup_host(upstream).await?.collect();
    if found.is_empty() {
        Err(io::Error::other("the upstream's name has no address"))
    } else {
        Ok(found)
    }
}
