//! Starting and ending the server.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use crate::{
    account::Account,
    binaries::Binaries,
    cluster::Cluster,
    error::{ServerError, StartError},
    home::Home,
    keeper,
    postgres::Postgres,
    process::Process,
    process_tree::POLL,
    recipe::{Recipe, dress},
    url,
};

/// How long a server may take to accept connections.
const START: Duration = Duration::from_secs(30);
/// How long a shutdown may take.
const STOP: Duration = Duration::from_secs(30);
/// Ports tried before giving up.
const PORTS: u32 = 20;

/// How a server is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Refuses new sessions (57P03) and waits for the present ones to leave.
    Smart,
    /// Ends all sessions (57P01), then shuts down in order.
    Fast,
    /// Drops everything; the next start recovers from the write-ahead log.
    Immediate,
}

impl Shutdown {
    fn signal(self) -> Signal {
        match self {
            Self::Smart => Signal::TERM,
            Self::Fast => Signal::INT,
            Self::Immediate => Signal::QUIT,
        }
    }
}

impl Postgres {
    /// First start, on a port that is free.
    pub(crate) async fn launch(
        recipe: Recipe,
        account: Account,
        binaries: Binaries,
        home: Home,
    ) -> Result<Self, StartError> {
        for _ in 0..PORTS {
            let Some(port) = free_port() else { continue };
            let socket = url::socket(home.dir(), port, "postgres");
            let tcp = url::tcp("127.0.0.1", port, recipe.password.as_deref(), "postgres");
            let cluster = Cluster::new(socket.clone(), if recipe.listen_tcp { tcp } else { socket });
            match start(&binaries, account, &home, &cluster, port).await {
                Ok((process, version)) => {
                    let postmaster = AtomicU32::new(process.pid());
                    let process = Mutex::new(Some(process));
                    return Ok(Self {
                        process,
                        postmaster,
                        recipe,
                        account,
                        binaries,
                        port,
                        cluster,
                        version,
                        home,
                    });
                }
                Err(error) if port_was_taken(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StartError::NoPort { tries: PORTS })
    }

    /// Starts the server again after it was killed or stopped, on the same port and data.
    ///
    /// # Errors
    /// [`ServerError::AlreadyRunning`], or [`ServerError::Start`] when it does not come up within 30 s.
    pub async fn start_again(&self) -> Result<(), ServerError> {
        let mut process = self.process.lock().await;
        if let Some(running) = process.as_mut()
            && matches!(running.ended(), Ok(None))
        {
            return Err(ServerError::AlreadyRunning);
        }
        *process = None;
        self.postmaster.store(0, Ordering::Release);
        let deadline = Instant::now() + START;
        loop {
            match start(&self.binaries, self.account, &self.home, &self.cluster, self.port).await {
                Ok((started, _)) => {
                    self.postmaster.store(started.pid(), Ordering::Release);
                    *process = Some(started);
                    return Ok(());
                }
                // An outgoing connection may hold the port for a moment; moving would break every URL given out.
                Err(error) if port_was_taken(&error) && Instant::now() < deadline => {
                    sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Kills the postmaster and all backends (SIGKILL), as a power cut would, and waits until they are gone.
    ///
    /// # Errors
    /// [`ServerError::NotRunning`] or a failed signal.
    pub async fn kill(&self) -> Result<(), ServerError> {
        let mut guard = self.process.lock().await;
        let process = guard.as_mut().ok_or(ServerError::NotRunning)?;
        process.kill().await.map_err(ServerError::Signal)?;
        *guard = None;
        self.postmaster.store(0, Ordering::Release);
        Ok(())
    }

    /// Fast shutdown: sessions end with 57P01. Waits for the end.
    ///
    /// # Errors
    /// [`ServerError::NotRunning`], or [`ServerError::TimedOut`] after 30 s (it then still runs).
    pub async fn stop(&self) -> Result<(), ServerError> {
        self.shut_down(Shutdown::Fast).await
    }

    /// Smart shutdown: waits until all clients have left, for 30 s at most; new ones get 57P03 meanwhile.
    ///
    /// # Errors
    /// As for [`stop`](Self::stop).
    pub async fn stop_smart(&self) -> Result<(), ServerError> {
        self.shut_down(Shutdown::Smart).await
    }

    /// Immediate shutdown: sessions are dropped, the next start recovers. Waits for the end.
    ///
    /// # Errors
    /// As for [`stop`](Self::stop).
    pub async fn stop_immediate(&self) -> Result<(), ServerError> {
        self.shut_down(Shutdown::Immediate).await
    }

    /// Asks the server to end and returns at once.
    ///
    /// # Errors
    /// [`ServerError::NotRunning`] or a failed signal.
    pub async fn request_stop(&self, how: Shutdown) -> Result<(), ServerError> {
        let guard = self.process.lock().await;
        let process = guard.as_ref().ok_or(ServerError::NotRunning)?;
        process.signal(how.signal()).map_err(ServerError::Signal)
    }

    /// [`stop`](Self::stop) and [`start_again`](Self::start_again).
    ///
    /// # Errors
    /// Those of the two.
    pub async fn restart(&self) -> Result<(), ServerError> {
        self.stop().await?;
        self.start_again().await
    }

    async fn shut_down(&self, how: Shutdown) -> Result<(), ServerError> {
        let mut guard = self.process.lock().await;
        let process = guard.as_mut().ok_or(ServerError::NotRunning)?;
        process.signal(how.signal()).map_err(ServerError::Signal)?;
        if process.wait(STOP).await.map_err(ServerError::Signal)?.is_none() {
            return Err(ServerError::TimedOut {
                what: "the shutdown",
                within: STOP,
                log: self.log_tail(),
            });
        }
        *guard = None;
        self.postmaster.store(0, Ordering::Release);
        Ok(())
    }
}

/// Starts the server process and waits until it accepts a connection; also says its version.
async fn start(
    binaries: &Binaries,
    account: Account,
    home: &Home,
    cluster: &Cluster,
    port: u16,
) -> Result<(Process, String), StartError> {
    let mut command = command(binaries, account, home)?;
    command.arg("-c").arg(format!("port={port}"));
    // An earlier life's last words in the same log are not this one's.
    let logged = home.log_length();
    let mut process = Process::spawn(command)
        .await
        .map_err(StartError::io("start the server"))?;
    let deadline = Instant::now() + START;
    loop {
        if let Some(status) = process.ended().map_err(StartError::io("wait for the server"))? {
            return Err(StartError::Exited {
                status: status.to_string(),
                log: home.log_since(logged),
            });
        }
        if says_ready(home, process.pid())
            && let Ok(version) = cluster.version().await
        {
            return Ok((process, version));
        }
        if Instant::now() >= deadline {
            return Err(StartError::NotReady {
                within: START,
                log: home.log_since(logged),
            });
        }
        sleep(POLL).await;
    }
}

fn command(binaries: &Binaries, account: Account, home: &Home) -> Result<Command, StartError> {
    let mut command = keeper::mortal_command(binaries.tool("postgres")?.as_os_str());
    dress(&mut command, account, home);
    let log = home.log().and_then(|log| Ok((log.try_clone()?, log)));
    let (out, err) = log.map_err(StartError::io("open the server log"))?;
    command.stdout(out).stderr(err).arg("-D").arg(home.data());
    command
        .arg("-c")
        .arg(format!("unix_socket_directories={}", home.dir().display()));
    Ok(command)
}

/// The postmaster writes its state into its pid file: cheaper to ask than with a connection.
fn says_ready(home: &Home, pid: u32) -> bool {
    let Ok(text) = fs::read_to_string(home.data().join("postmaster.pid")) else {
        return false;
    };
    let mut lines = text.lines();
    // A killed server leaves its file behind, so the process id must match.
    lines.next().and_then(|line| line.trim().parse().ok()) == Some(pid)
        && lines.nth(6).is_some_and(|state| state.trim() == "ready")
}

fn port_was_taken(error: &StartError) -> bool {
    matches!(error, StartError::Exited { log, .. } if log.contains("could not create any TCP/IP sockets"))
}

/// A port below those that systems hand to outgoing connections, which could otherwise take it while the server is down.
fn free_port() -> Option<u16> {
    let port = fastrand::u16(15_000..32_000);
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(port)
}
