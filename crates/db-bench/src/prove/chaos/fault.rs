//! What can go wrong.

/// One kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Half of the sessions are ended by an administrator (57P01).
    EndSessions,
    /// SIGKILL of one backend: the server drops all sessions and recovers.
    KillBackend,
    /// SIGKILL of the server; it comes back by itself.
    KillServer,
    /// An orderly restart.
    Restart,
    /// SIGSTOP of all its processes.
    Freeze,
    /// Connections are cut at random bytes, messages of the middle of COMMIT among them.
    Cut,
    /// All connections are reset at once.
    Reset,
    /// 40 ms more in each direction.
    Delay,
    /// 20 kB/s in each direction.
    Throttle,
    /// Bytes vanish, sockets stay open.
    Blackhole,
    /// The connections of this moment go silent, new ones work.
    HalfOpen,
    /// The port is closed and all connections are reset.
    Refuse,
    /// New connections are accepted and never answered, those of before are reset.
    Hang,
    /// Others lock the same rows in the opposite order.
    Deadlocks,
    /// The type of a column that everybody reads changes, and changes back.
    Ddl,
    /// The role may have six connections, and has none left.
    ConnectionLimit,
    /// The replica receives and shows nothing new.
    ReplicaLag,
    /// SIGKILL of the replica.
    ReplicaKilled,
    /// SIGSTOP of the replica.
    ReplicaFrozen,
    /// The primary is killed and the replica takes over; a new replica stands where the primary was.
    Failover,
    /// PgBouncer goes and comes back.
    PoolerRestart,
    /// The tablespace that is written to is full.
    DiskFull,
}

impl Fault {
    pub(crate) const ALL: [Self; 22] = [
        Self::EndSessions,
        Self::KillBackend,
        Self::KillServer,
        Self::Restart,
        Self::Freeze,
        Self::Cut,
        Self::Reset,
        Self::Delay,
        Self::Throttle,
        Self::Blackhole,
        Self::HalfOpen,
        Self::Refuse,
        Self::Hang,
        Self::Deadlocks,
        Self::Ddl,
        Self::ConnectionLimit,
        Self::ReplicaLag,
        Self::ReplicaKilled,
        Self::ReplicaFrozen,
        Self::Failover,
        Self::PoolerRestart,
        Self::DiskFull,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EndSessions => "sessions ended",
            Self::KillBackend => "backend killed",
            Self::KillServer => "server killed",
            Self::Restart => "server restarted",
            Self::Freeze => "server frozen",
            Self::Cut => "cut at random bytes",
            Self::Reset => "all reset",
            Self::Delay => "40 ms each way",
            Self::Throttle => "20 kB/s",
            Self::Blackhole => "blackhole",
            Self::HalfOpen => "half-open",
            Self::Refuse => "port closed",
            Self::Hang => "connects hang",
            Self::Deadlocks => "deadlocks",
            Self::Ddl => "column type changes",
            Self::ConnectionLimit => "connection limit",
            Self::ReplicaLag => "replica lags",
            Self::ReplicaKilled => "replica killed",
            Self::ReplicaFrozen => "replica frozen",
            Self::Failover => "failover",
            Self::PoolerRestart => "PgBouncer restarted",
            Self::DiskFull => "disk full",
        }
    }

    /// It befalls the server behind the pooler, not the one with the replica.
    pub(crate) fn is_pooled(self) -> bool {
        matches!(self, Self::PoolerRestart | Self::DiskFull)
    }
}
