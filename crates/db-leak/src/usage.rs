//! What leases were used for, and for how long: kept per connection, added up when somebody asks.

use db_core::{Call, Fingerprint};
use std::{collections::HashMap, fmt, hash::BuildHasherDefault, hash::Hasher, panic::Location, time::Duration};

/// Sites and statements that one connection tells apart; the rest is counted as unnamed.
const SITES: usize = 512;
/// Powers of two, in nanoseconds: from 1 ns to 292 years.
const BUCKETS: usize = 64;

/// What a caller said of itself, as far as its leases are counted by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct By {
    pub(crate) site: Option<&'static Location<'static>>,
    pub(crate) statement: Option<Fingerprint>,
}

impl By {
    pub(crate) fn of(call: &Call) -> Self {
        Self {
            site: call.site,
            statement: call.statement,
        }
    }

    /// A number for it: where the site's name lies, or the statement's fingerprint.
    pub(crate) fn key(self) -> u64 {
        match (self.site, self.statement) {
            (Some(site), _) => std::ptr::from_ref(site).addr() as u64,
            (None, Some(statement)) => statement.get(),
            (None, None) => 0,
        }
    }
}

/// The keys are addresses and hashes already: one multiplication spreads them.
#[derive(Clone, Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        let product = u128::from(self.0 ^ key) * u128::from(0x9E37_79B9_7F4A_7C15_u64);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

/// Leases by one call site, or by one statement where the site is not known.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SiteUsage {
    /// Where they were asked for.
    pub site: Option<&'static Location<'static>>,
    /// The statement that they were asked for, where the site is not known.
    pub statement: Option<Fingerprint>,
    /// How many have come back.
    pub leases: u64,
    /// How long they were out together.
    pub used: Duration,
    /// How long the longest was out.
    pub longest: Duration,
}

/// Uses by their length.
#[derive(Clone)]
pub struct UseTimes([u64; BUCKETS]);

/// The tally of one connection.
#[derive(Clone, Default)]
pub(crate) struct Usage {
    sites: HashMap<u64, SiteUsage, BuildHasherDefault<Spread>>,
    times: UseTimes,
}

impl Usage {
    /// A lease came back.
    pub(crate) fn note(&mut self, by: By, used: Duration) {
        self.times.0[bucket(used)] += 1;
        let key = by.key();
        if let Some(usage) = self.sites.get_mut(&key) {
            usage.add(1, used, used);
        } else if self.sites.len() < SITES {
            self.sites.insert(key, SiteUsage::first(by, used));
        } else {
            let unnamed = By {
                site: None,
                statement: None,
            };
            let usage = self.sites.entry(0).or_insert_with(|| SiteUsage::none(unnamed));
            usage.add(1, used, used);
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.times.0.iter_mut().zip(&other.times.0) {
            *mine += theirs;
        }
        for (key, theirs) in &other.sites {
            let by = By {
                site: theirs.site,
                statement: theirs.statement,
            };
            let mine = self.sites.entry(*key).or_insert_with(|| SiteUsage::none(by));
            mine.add(theirs.leases, theirs.used, theirs.longest);
        }
    }

    /// The sites, those that used most first, and all uses by their length.
    pub(crate) fn into_parts(self) -> (Vec<SiteUsage>, UseTimes) {
        // One source line may have several addresses: by line it is one.
        let mut lines: HashMap<(Option<&Location<'_>>, Option<Fingerprint>), SiteUsage> = HashMap::new();
        for usage in self.sites.into_values() {
            let key = (usage.site, usage.statement.filter(|_| usage.site.is_none()));
            match lines.get_mut(&key) {
                Some(mine) => mine.add(usage.leases, usage.used, usage.longest),
                None => drop(lines.insert(key, usage)),
            }
        }
        let mut sites: Vec<_> = lines.into_values().collect();
        sites.sort_by_key(|usage| std::cmp::Reverse(usage.used));
        (sites, self.times)
    }
}

impl SiteUsage {
    fn none(by: By) -> Self {
        Self {
            site: by.site,
            statement: by.statement.filter(|_| by.site.is_none()),
            leases: 0,
            used: Duration::ZERO,
            longest: Duration::ZERO,
        }
    }

    fn first(by: By, used: Duration) -> Self {
        let mut usage = Self::none(by);
        usage.add(1, used, used);
        usage
    }

    fn add(&mut self, leases: u64, used: Duration, longest: Duration) {
        self.leases += leases;
        self.used = self.used.saturating_add(used);
        self.longest = self.longest.max(longest);
    }

    /// How long one was out on average.
    pub fn mean(&self) -> Duration {
        let nanos = self.used.as_nanos() / u128::from(self.leases.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

fn bucket(used: Duration) -> usize {
    let nanos = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
    (u64::BITS - nanos.leading_zeros()).min(63) as usize
}

impl UseTimes {
    /// How many leases have come back.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The time within which this share of the leases came back, rounded up to a power of two nanoseconds; `None` when
    /// none has.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = (self.count() as f64 * share.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0;
        let at = self.0.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_nanos(1 << at))
    }

    /// The counts, each with the time that its leases stayed below; empty ones are left out.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let filled = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(at, count)| (Duration::from_nanos(1 << at), *count))
    }
}

impl Default for UseTimes {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl fmt::Debug for UseTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.buckets()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> By {
        By {
            site: Some(Location::caller()),
            statement: None,
        }
    }

    #[test]
    fn sites_are_bounded_and_nothing_is_lost() {
        let mut usage = Usage::default();
        for n in 0..2_000_u64 {
            let statement = db_core::StatementFacts::of(&format!("SELECT 1 FROM t{n}")).fingerprint();
            let by = By {
                site: None,
                statement: Some(statement),
            };
            usage.note(by, Duration::from_micros(n));
        }
        let mut twice = usage.clone();
        twice.add(&usage);
        let (sites, times) = twice.into_parts();
        assert!(sites.len() <= SITES + 1);
        assert_eq!(sites.iter().map(|site| site.leases).sum::<u64>(), 4_000);
        assert_eq!(times.count(), 4_000);
    }

    #[test]
    fn quantiles_are_upper_bounds() {
        let mut usage = Usage::default();
        let by = here();
        for ms in 1..=100 {
            usage.note(by, Duration::from_millis(ms));
        }
        let (sites, times) = usage.into_parts();
        assert_eq!((sites[0].leases, sites[0].longest), (100, Duration::from_millis(100)));
        assert_eq!(sites[0].mean(), Duration::from_micros(50_500));
        for (share, ms) in [(0.5, 50), (0.99, 99), (1.0, 100)] {
            let bound = times.quantile(share).unwrap();
            assert!(bound >= Duration::from_millis(ms) && bound <= 2 * Duration::from_millis(ms));
        }
        assert_eq!(UseTimes::default().quantile(0.5), None);
    }
}
