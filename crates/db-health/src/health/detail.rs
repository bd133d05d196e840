//! The figures of each check.

use serde::Serialize;
use std::collections::BTreeMap;

/// What a check has measured. Times are seconds unless the name says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Detail {
    /// Nothing.
    #[default]
    None,
    /// `connectivity`.
    Connectivity {
        /// Whether the server is a standby.
        standby: bool,
        /// Its version, as in `server_version_num`.
        version: i32,
    },
    /// `transaction`.
    Transaction {
        /// Whether only reading was tried, since the server is a standby.
        read_only: bool,
    },
    /// `pool`.
    Pool {
        /// Connections in use.
        in_use: u32,
        /// The most that may be open.
        max: u32,
        /// Callers waiting.
        waiting: u32,
        /// Leases waited for since the report before.
        recent_waits: u64,
        /// The mean wait of these.
        mean_wait_ms: f64,
        /// Callers since the report before that got no lease.
        recent_failures: u64,
    },
    /// `calls`.
    Calls {
        /// Calls that say something about the server, in the breaker's window.
        recent: u64,
        /// Of these, failed.
        failed: u64,
        /// Calls since the report before.
        ended: u64,
        /// Of these, slower than their class alerts at.
        slow: u64,
    },
    /// `breaker`.
    Breaker {
        /// Its state.
        state: &'static str,
        /// Why it opened the last time.
        cause: Option<&'static str>,
        /// How often it opened since the start.
        opened: u64,
        /// Calls refused since the start.
        refused: u64,
    },
    /// `tables`.
    Tables {
        /// Tables that were read.
        readable: u32,
        /// Those that could not be, and why.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        unreadable: BTreeMap<String, String>,
    },
    /// `replication`, on a standby.
    Standby {
        /// How far it is behind.
        lag: f64,
        /// Whether it receives.
        streaming: bool,
    },
    /// `replication`, on a primary.
    Primary {
        /// Its standbys.
        standbys: i64,
        /// How far the one furthest behind is, as it says itself.
        lag: Option<f64>,
        /// The same in bytes of write-ahead log.
        bytes: Option<i64>,
    },
    /// `leases`.
    Leases {
        /// Leases out for too long.
        suspect: usize,
        /// Where they were asked for, and for how long they have been out; at most 5.
        holders: Vec<String>,
    },
    /// `transaction_ids`.
    TransactionIds {
        /// The age of the oldest one, of the database where it is oldest.
        age: i64,
    },
    /// `longest_transaction`.
    LongestTransaction {
        /// How long it has been open.
        open: f64,
    },
    /// `connections`.
    Connections {
        /// Connections to the server.
        used: i64,
        /// Those that there may be, without those kept for superusers.
        max: i64,
    },
    /// A check of the user's own.
    Own(BTreeMap<String, String>),
}

impl Detail {
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::None
    }
}
