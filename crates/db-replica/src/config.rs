//! The settings of the layer.

use crate::urls::NodeUrls;
use db_core::config::{Checks, Mode, duration};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Where the replicas are, and which of them serve. Times are text with a unit in a file (`"250ms"`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplicaConfig {
    /// Default `enforce`; `observe` watches the nodes, counts the reads that a replica could serve and moves nothing.
    /// Without nodes besides the first the layer does nothing in any mode.
    pub mode: Mode,
    /// The other nodes, whichever role they have at the moment. Default none.
    pub urls: NodeUrls,
    /// The most connections to each node for reads. Default 0: as many as `pool.max_connections`; 0..=10000.
    pub max_connections: u32,
    /// The time between two looks at a node, shorter or longer by a fifth. Default 1 s (pgdog, GitLab), 10ms..=1h.
    #[serde(with = "duration")]
    pub poll_interval: Duration,
    /// The same while no primary is known. Default 100 ms (own choice: a tenth of the second within which writes should
    /// go on), 10ms..=1h.
    #[serde(with = "duration")]
    pub search_interval: Duration,
    /// The time between two questions of who the nodes are, shorter or longer by a fifth, where somebody answers them
    /// (`discover`); they are also asked when the primary is lost. Default 30 s (own choice: the lives of most DNS records),
    /// 100ms..=24h.
    #[serde(with = "duration")]
    pub discovery_interval: Duration,
    /// How long a look may take, a new connection included. Default 1 s (own choice), 10ms..=1min.
    #[serde(with = "duration")]
    pub probe_timeout: Duration,
    /// A replica that is further behind gets no reads until it is less than half as far. Default 10 s (own choice;
    /// GitLab 60 s), 1ms..=1h.
    #[serde(with = "duration")]
    pub max_lag: Duration,
    /// The same in bytes of WAL; 0: any number. Default 0, 0..=1 TiB.
    pub max_lag_bytes: u64,
    /// How long a read waits for a replica to have replayed what its session has seen, before it goes to the primary.
    /// Default 250 ms (own choice), 0s..=1min.
    #[serde(with = "duration")]
    pub causal_wait: Duration,
    /// The share of the primary's connections that reads may have which no replica can serve. Default 0.2 (own choice:
    /// losing all replicas must not sink the primary), 0.01..=1.
    pub fallback_share: f64,
    /// How long such a read waits for its place. Default 1 s (own choice), 1ms..=1min.
    #[serde(with = "duration")]
    pub fallback_wait: Duration,
    /// How slowly what was measured of a node's latency is outweighed by what is measured later, and the least time
    /// between two trials of a node that was found slow. Default 1 s (own choice: with linkerd's 10 s a hiccup is remembered
    /// for as long), 100ms..=1h.
    #[serde(with = "duration")]
    pub latency_decay: Duration,
    /// Whether a slow read is sent to a second replica as well; the slower one is then cancelled. Default `off`.
    pub hedge: Mode,
    /// How long a read runs before it is. Default 50 ms (own choice: set it to the 95th percentile of your reads),
    /// 1ms..=1min.
    #[serde(with = "duration")]
    pub hedge_after: Duration,
    /// The share of reads that may be sent twice. Default 0.05 (Dean and Barroso, The Tail at Scale), 0..=0.5.
    pub hedge_share: f64,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            urls: NodeUrls::default(),
            max_connections: 0,
            poll_interval: Duration::from_secs(1),
            search_interval: Duration::from_millis(100),
            discovery_interval: Duration::from_secs(30),
            probe_timeout: Duration::from_secs(1),
            max_lag: Duration::from_secs(10),
            max_lag_bytes: 0,
            causal_wait: Duration::from_millis(250),
            fallback_share: 0.2,
            fallback_wait: Duration::from_secs(1),
            latency_decay: Duration::from_secs(1),
            hedge: Mode::Off,
            hedge_after: Duration::from_millis(50),
            hedge_share: 0.05,
        }
    }
}

impl ReplicaConfig {
    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        checks.within(prefix, |c| {
            self.urls.validate("urls", c);
            c.range("max_connections", &self.max_connections, 0..=10_000);
            c.range("poll_interval", &self.poll_interval, 10 * MS..=HOUR);
            c.range("search_interval", &self.search_interval, 10 * MS..=HOUR);
            c.range("discovery_interval", &self.discovery_interval, 100 * MS..=24 * HOUR);
            c.range("probe_timeout", &self.probe_timeout, 10 * MS..=MINUTE);
            c.range("max_lag", &self.max_lag, MS..=HOUR);
            c.range("max_lag_bytes", &self.max_lag_bytes, 0..=1 << 40);
            c.range("causal_wait", &self.causal_wait, Duration::ZERO..=MINUTE);
            c.range("fallback_share", &self.fallback_share, 0.01..=1.0);
            c.range("fallback_wait", &self.fallback_wait, MS..=MINUTE);
            c.range("latency_decay", &self.latency_decay, 100 * MS..=HOUR);
            c.range("hedge_after", &self.hedge_after, MS..=MINUTE);
            c.range("hedge_share", &self.hedge_share, 0.0..=0.5);
        });
    }
}
