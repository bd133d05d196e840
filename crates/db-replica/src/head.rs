//! The cluster as a whole: which node is the primary, on which timeline, and where timelines began. Plain functions.

use crate::{node::View, trail::Trail};
use db_core::{CausalError, CausalToken, Lsn, NodeId};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// Looks without an answer after which a primary counts as lost that did not say why.
const SILENCE: u32 = 3;

/// Whether writes may go out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    /// Nothing has been verified yet: they go to the first node.
    #[default]
    Unverified,
    /// They go to the primary.
    Open,
    /// The primary is gone, or takes no writes, and no other node is one.
    Lost,
    /// The only nodes that take writes are of an older timeline than others have seen.
    Fenced,
}

impl Writes {
    pub(crate) fn allowed(self) -> bool {
        matches!(self, Self::Unverified | Self::Open)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Head {
    /// The node that writes go to, also while they may not.
    pub(crate) primary: Option<NodeId>,
    pub(crate) writes: Writes,
    /// The cluster's system identifier.
    pub(crate) system: Option<u64>,
    /// The highest timeline that any node of the cluster has shown.
    pub(crate) timeline: u32,
    /// When that was.
    pub(crate) timeline_since: Option<Instant>,
    /// Counts the moves of the primary.
    pub(crate) epoch: u64,
    pub(crate) trail: Trail,
    /// Where each timeline began, as far as it has been seen.
    forks: BTreeMap<u32, Lsn>,
    /// Nodes that take writes.
    pub(crate) writable: u32,
}

/// What has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) moved: Option<NodeId>,
    pub(crate) lost: Option<NodeId>,
    pub(crate) split: bool,
    /// How many nodes take writes, if that is news.
    pub(crate) writable: Option<u32>,
}

impl Head {
    /// Nothing is known but the node that is taken for the primary.
    pub(crate) fn new(primary: Option<NodeId>) -> Self {
        Self {
            primary,
            ..Self::default()
        }
    }

    /// The node that writes went to has left.
    pub(crate) fn succeed(&mut self, primary: Option<NodeId>) {
        self.primary = primary;
        self.writes = match primary {
            Some(_) => Writes::Unverified,
            None => Writes::Lost,
        };
        self.epoch += u64::from(primary.is_some());
        self.trail.clear();
    }

    /// Takes in what a node of this cluster has shown of timelines.
    pub(crate) fn learn(&mut self, timeline: u32, fork: Option<Lsn>, now: Instant) {
        if timeline > self.timeline {
            self.timeline = timeline;
            self.timeline_since = Some(now);
            self.trail.clear();
        }
        if let Some(fork) = fork {
            self.forks.entry(timeline).or_insert(fork);
        }
    }

    /// Decides anew which node is the primary.
    pub(crate) fn assess<'a>(&mut self, nodes: impl Iterator<Item = (NodeId, &'a View)> + Clone) -> Changes {
        let system = self.system;
        let writable = nodes.clone().filter_map(|(id, view)| {
            let found = view.writable()?;
            (Some(found.system) == system).then_some((id, found.timeline))
        });
        let count = u32::try_from(writable.clone().count()).unwrap_or(u32::MAX);
        // Of equals the one that is the primary already.
        let best = writable.max_by_key(|&(id, timeline)| (timeline, self.primary == Some(id), std::cmp::Reverse(id)));
        let mut changes = Changes {
            split: count > 1 && self.writable <= 1,
            writable: (count != self.writable).then_some(count),
            ..Changes::default()
        };
        self.writable = count;
        let before = self.writes;
        self.writes = match best {
            // Writes go to the highest timeline only, even when nobody of it is there.
            Some((_, timeline)) if timeline < self.timeline => Writes::Fenced,
            Some((id, _)) => {
                if self.primary != Some(id) {
                    self.primary = Some(id);
                    self.epoch += 1;
                    self.trail.clear();
                    changes.moved = Some(id);
                }
                Writes::Open
            }
            None => {
                let primary = nodes.clone().find(|(id, _)| self.primary == Some(*id));
                match primary {
                    Some((_, view)) if lost(view) => Writes::Lost,
                    // Not looked at yet, or slow: nothing is known that speaks against it.
                    Some(_) => before,
                    None => Writes::Lost,
                }
            }
        };
        if before.allowed() && !self.writes.allowed() {
            changes.lost = self.primary;
        }
        changes
    }

    /// Whether what the token has seen is in this cluster.
    pub(crate) fn check(&self, token: CausalToken) -> Result<(), CausalError> {
        let timeline = self.timeline;
        if let Some(system) = self.system.filter(|system| *system != token.system) {
            return Err(CausalError::OtherCluster { token, system });
        }
        if token.timeline > timeline {
            return Err(CausalError::UnknownTimeline { token, timeline });
        }
        for later in token.timeline + 1..=timeline {
            match self.forks.get(&later) {
                None => return Err(CausalError::UnknownTimeline { token, timeline }),
                Some(&fork) if token.lsn > fork => {
                    return Err(CausalError::Lost {
                        token,
                        timeline: later,
                        fork,
                    });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// A position of the primary that covers everything committed before `since`.
    pub(crate) fn covering(&self, since: Instant) -> Option<CausalToken> {
        Some(CausalToken {
            system: self.system?,
            timeline: self.timeline,
            lsn: self.trail.covering(since)?,
        })
    }

    /// How far a standby is behind: by what is known of the primary, else by its own word.
    pub(crate) fn lag(
        &self,
        timeline: u32,
        replayed: Lsn,
        own: Option<Duration>,
        now: Instant,
    ) -> (Duration, Option<u64>) {
        if timeline < self.timeline {
            let since = self
                .timeline_since
                .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            return (since.max(own.unwrap_or_default()), None);
        }
        let known = self.trail.lag(replayed, now).filter(|_| self.writes == Writes::Open);
        let bytes = self.trail.latest().map(|latest| latest.0.saturating_sub(replayed.0));
        (known.or(own).unwrap_or_default(), bytes)
    }
}

/// Whether what is known of the primary says that it is none any more.
fn lost(view: &View) -> bool {
    match view.found {
        Some(_) if view.silent == 0 => view.writable().is_none(),
        _ => view.gone || view.silent >= SILENCE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Found;

    fn view(standby: bool, timeline: u32) -> View {
        View {
            found: Some(Found {
                standby,
                fenced: false,
                system: 7,
                timeline,
                lsn: Lsn(100),
                fork: None,
                own_lag: None,
            }),
            ..View::default()
        }
    }

    fn head() -> Head {
        Head {
            primary: Some(1),
            system: Some(7),
            timeline: 1,
            ..Head::default()
        }
    }

    fn assess(head: &mut Head, views: &[View]) -> Changes {
        for found in views.iter().filter_map(|view| view.found) {
            head.learn(found.timeline, found.fork, Instant::now());
        }
        head.assess((1..).zip(views))
    }

    #[test]
    fn roles_are_not_trusted() {
        let mut head = head();
        let changes = assess(&mut head, &[view(true, 1), view(false, 1)]);
        assert_eq!((changes.moved, head.writes), (Some(2), Writes::Open));
        assert_eq!(assess(&mut head, &[view(true, 1), view(false, 1)]), Changes::default());
    }

    #[test]
    fn of_two_primaries_the_higher_timeline_wins_for_good() {
        let mut head = head();
        assess(&mut head, &[view(false, 1), view(true, 1)]);
        let changes = assess(&mut head, &[view(false, 1), view(false, 2)]);
        assert_eq!((changes.moved, changes.split, head.epoch), (Some(2), true, 1));
        // The right one is away: the wrong one gets nothing all the same.
        let mut away = view(false, 2);
        away.silent = 1;
        away.gone = true;
        let changes = assess(&mut head, &[view(false, 1), away]);
        assert_eq!(changes.writable, Some(1), "the split brain is over");
        assert_eq!(
            (changes.moved, changes.lost, head.writes),
            (None, Some(2), Writes::Fenced)
        );
        assess(&mut head, &[view(false, 1), view(false, 2)]);
        assert_eq!((head.primary, head.writes), (Some(2), Writes::Open));
    }

    #[test]
    fn of_equals_the_primary_stays() {
        let mut head = head();
        assess(&mut head, &[view(false, 1), view(false, 1)]);
        assert_eq!((head.primary, head.writable), (Some(1), 2));
    }

    #[test]
    fn a_slow_primary_is_not_lost_and_a_gone_one_is() {
        let mut head = head();
        assert!(head.writes.allowed(), "before anything is known");
        assess(&mut head, &[view(false, 1)]);
        let mut slow = view(false, 1);
        slow.silent = 2;
        assert_eq!(assess(&mut head, std::slice::from_ref(&slow)).lost, None);
        slow.gone = true;
        assert_eq!(assess(&mut head, std::slice::from_ref(&slow)).lost, Some(1));
        assert_eq!(head.writes, Writes::Lost);
        let mut fenced = view(false, 1);
        fenced.found = fenced.found.map(|found| Found { fenced: true, ..found });
        assess(&mut head, &[fenced]);
        assert_eq!(head.writes, Writes::Lost);
        assert_eq!(assess(&mut head, &[view(false, 1)]).moved, None, "it is back");
        assert_eq!(head.writes, Writes::Open);
    }

    #[test]
    fn tokens_of_before_a_promotion() {
        let mut head = head();
        head.learn(3, Some(Lsn(500)), Instant::now());
        let token = |timeline, lsn| CausalToken {
            system: 7,
            timeline,
            lsn: Lsn(lsn),
        };
        assert_eq!(head.check(token(3, 900)), Ok(()));
        assert_eq!(head.check(token(2, 500)), Ok(()));
        assert!(matches!(
            head.check(token(2, 501)),
            Err(CausalError::Lost { fork: Lsn(500), .. })
        ));
        assert!(matches!(
            head.check(token(1, 5)),
            Err(CausalError::UnknownTimeline { .. })
        ));
        assert!(matches!(
            head.check(token(4, 5)),
            Err(CausalError::UnknownTimeline { .. })
        ));
        let foreign = CausalToken {
            system: 8,
            ..token(3, 1)
        };
        assert!(matches!(
            head.check(foreign),
            Err(CausalError::OtherCluster { system: 7, .. })
        ));
    }
}
