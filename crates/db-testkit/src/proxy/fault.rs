//! What can go wrong on the wire.

use std::time::Duration;

/// Which way bytes flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
    /// Both ways.
    Both,
}

/// Which connections a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Those that are open now.
    Present,
    /// Those that will be opened, until [`heal`](crate::FaultProxy::heal).
    New,
    /// Both.
    All,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CutStyle {
    /// With a reset: both peers get ECONNRESET.
    #[default]
    Reset,
    /// In order: both peers read the end of the stream.
    Finish,
}

/// A fault in one direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Each chunk arrives this much later; chunks overlap (latency, not bandwidth) and keep their order. Zero removes it.
    Delay(Duration),
    /// At most so many bytes per second (at least 1).
    Throttle(u64),
    /// Every byte in a write of its own.
    Slice,
    /// Bytes are swallowed, the sockets stay open. Ends of stream are swallowed as well.
    Blackhole,
    /// Nothing is read or written any more; as nothing is lost, [`heal`](crate::FaultProxy::heal) lets it go on.
    Stall,
    /// The connection is cut after so many more bytes in this direction; 0 cuts at once.
    CutAfter {
        /// Bytes that still get through.
        bytes: u64,
        /// How it is cut.
        style: CutStyle,
    },
}

/// The faults of one direction of one connection.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Lane {
    pub(crate) delay: Duration,
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) slice: bool,
    pub(crate) blackhole: bool,
    pub(crate) stall: bool,
    /// Total of forwarded bytes at which to cut.
    pub(crate) cut_at: Option<(u64, CutStyle)>,
}

impl Lane {
    fn apply(&mut self, fault: Fault, forwarded: u64) {
        match fault {
            Fault::Delay(delay) => self.delay = delay,
            Fault::Throttle(rate) => self.bytes_per_second = Some(rate.max(1)),
            Fault::Slice => self.slice = true,
            Fault::Blackhole => self.blackhole = true,
            Fault::Stall => self.stall = true,
            Fault::CutAfter { bytes, style } => self.cut_at = Some((forwarded.saturating_add(bytes), style)),
        }
    }

    /// How many bytes may go in one write, and whether that is the end; `forwarded` have gone already.
    pub(crate) fn allowance(&self, forwarded: u64, wanted: usize) -> usize {
        let piece = match (self.slice, self.bytes_per_second) {
            (true, _) => 1,
            // Fifty writes a second are smooth enough and cost little.
            (false, Some(rate)) => usize::try_from(rate / 50).unwrap_or(usize::MAX).max(1),
            (false, None) => wanted,
        };
        let left = self.cut_at.map_or(u64::MAX, |(at, _)| at.saturating_sub(forwarded));
        piece.min(wanted).min(usize::try_from(left).unwrap_or(usize::MAX))
    }

    /// The cut that is due once so many bytes have been forwarded.
    pub(crate) fn cut_due(&self, forwarded: u64) -> Option<CutStyle> {
        self.cut_at.filter(|&(at, _)| forwarded >= at).map(|(_, style)| style)
    }
}

/// The faults of one connection.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Lanes {
    pub(crate) to_server: Lane,
    pub(crate) to_client: Lane,
    pub(crate) cut_now: Option<CutStyle>,
    /// Cut the client off as soon as the server answers.
    pub(crate) withhold: Option<CutStyle>,
}

impl Lanes {
    pub(crate) fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::ToClient => &self.to_client,
            Direction::ToServer | Direction::Both => &self.to_server,
        }
    }

    /// `forwarded` is what has gone to the server and to the client so far.
    pub(crate) fn apply(&mut self, fault: Fault, direction: Direction, forwarded: (u64, u64)) {
        if direction != Direction::ToClient {
            self.to_server.apply(fault, forwarded.0);
        }
        if direction != Direction::ToServer {
            self.to_client.apply(fault, forwarded.1);
        }
    }
}

/// What happens to connections that arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Gate {
    #[default]
    Open,
    /// Accepted and reset at once.
    Refuse,
    /// Accepted and left alone.
    Hang,
}

/// Cuts at random, but the same for the same seed and order of connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chaos {
    pub(crate) seed: u64,
    pub(crate) mean_bytes: u64,
    /// Connections that have had their dice thrown.
    pub(crate) thrown: u64,
}

impl Chaos {
    pub(crate) fn throw(&mut self, lanes: &mut Lanes, forwarded: (u64, u64)) {
        self.thrown += 1;
        // An odd multiplier spreads neighbouring numbers over the whole range.
        let mut dice = fastrand::Rng::with_seed(self.seed ^ self.thrown.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for direction in [Direction::ToServer, Direction::ToClient] {
            // Exponential: a connection's chance to be cut does not depend on what it has carried already.
            let bytes = (-(1.0 - dice.f64()).ln() * self.mean_bytes as f64).ceil() as u64;
            let style = if dice.bool() { CutStyle::Reset } else { CutStyle::Finish };
            lanes.apply(Fault::CutAfter { bytes, style }, direction, forwarded);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_counts_from_what_has_gone_already() {
        let mut lanes = Lanes::default();
        lanes.apply(
            Fault::CutAfter {
                bytes: 10,
                style: CutStyle::Reset,
            },
            Direction::ToClient,
            (7, 100),
        );
        assert_eq!(lanes.to_server, Lane::default());
        assert_eq!(lanes.to_client.allowance(100, 50), 10);
        assert_eq!(lanes.to_client.cut_due(109), None);
        assert_eq!(lanes.to_client.cut_due(110), Some(CutStyle::Reset));
    }

    #[test]
    fn chaos_repeats_with_its_seed() {
        let throws = |seed| {
            let mut chaos = Chaos {
                seed,
                mean_bytes: 1000,
                thrown: 0,
            };
            (0..2000)
                .map(|_| {
                    let mut lanes = Lanes::default();
                    chaos.throw(&mut lanes, (0, 0));
                    lanes.to_server.cut_at.unwrap().0
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(throws(1), throws(1));
        assert_ne!(throws(1), throws(2));
        let mean = throws(1).iter().sum::<u64>() / 2000;
        assert!((900..1100).contains(&mean), "{mean}");
    }
}
