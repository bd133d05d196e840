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
    sites: HashMap<u64, Site, BuildHasherDefault<Spread>>,
    /// The latest site with what it did since it is the latest, and its key: the same often comes again.
    latest: Option<(u64, Site)>,
    times: UseTimes,
}

/// One site's leases on one connection; times in nanoseconds, which add up for centuries.
#[derive(Clone)]
struct Site {
    by: By,
    leases: u64,
    used: u64,
    longest: u64,
}

impl Site {
    fn new(by: By) -> Self {
        Self {
            by,
            leases: 0,
            used: 0,
            longest: 0,
        }
    }

    fn add(&mut self, leases: u64, used: u64, longest: u64) {
        self.leases += leases;
        self.used = self.used.saturating_add(used);
        self.longest = self.longest.max(longest);
    }
}

impl Usage {
    /// A lease came back after so many nanoseconds.
    pub(crate) fn note(&mut self, by: By, nanos: u64) {
        self.times.0[bucket(nanos)] += 1;
        let key = by.key();
        match &mut self.latest {
            Some((latest, site)) if *latest == key => site.add(1, nanos, nanos),
            _ => self.note_other(key, by, nanos),
        }
    }

    fn note_other(&mut self, key: u64, by: By, nanos: u64) {
        let mut site = Site::new(by);
        site.add(1, nanos, nanos);
        if let Some((key, before)) = self.latest.replace((key, site)) {
            self.file(key, &before);
        }
    }

    /// Adds to what is known of a site, or of the rest when too many are known.
    fn file(&mut self, key: u64, site: &Site) {
        let full = self.sites.len() + 1 >= SITES && !self.sites.contains_key(&key);
        let unnamed = By {
            site: None,
            statement: None,
        };
        let (key, by) = if full { (0, unnamed) } else { (key, site.by) };
        let known = self.sites.entry(key).or_insert_with(|| Site::new(by));
        known.add(site.leases, site.used, site.longest);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.times.0.iter_mut().zip(&other.times.0) {
            *mine += theirs;
        }
        for (key, theirs) in other
            .sites
            .iter()
            .chain(other.latest.iter().map(|(key, site)| (key, site)))
        {
            let mine = self.sites.entry(*key).or_insert_with(|| Site::new(theirs.by));
            mine.add(theirs.leases, theirs.used, theirs.longest);
        }
    }

    /// The sites, those that used most first, and all uses by their length.
    pub(crate) fn into_parts(mut self) -> (Vec<SiteUsage>, UseTimes) {
        if let Some((key, site)) = self.latest.take() {
            self.file(key, &site);
        }
        // One source line may have several addresses: by line it is one.
        let mut lines: HashMap<(Option<&Location<'_>>, Option<Fingerprint>), Site> = HashMap::new();
        for site in self.sites.into_values() {
            let key = (site.by.site, site.by.statement.filter(|_| site.by.site.is_none()));
            match lines.get_mut(&key) {
                Some(mine) => mine.add(site.leases, site.used, site.longest),
                None => drop(lines.insert(key, site)),
            }
        }
        let mut sites: Vec<_> = lines.into_values().map(SiteUsage::from).collect();
        sites.sort_by_key(|usage| std::cmp::Reverse(usage.used));
        (sites, self.times)
    }
}

impl From<Site> for SiteUsage {
    fn from(site: Site) -> Self {
        Self {
            site: site.by.site,
            statement: site.by.statement.filter(|_| site.by.site.is_none()),
            leases: site.leases,
            used: Duration::from_nanos(site.used),
            longest: Duration::from_nanos(site.longest),
        }
    }
}

impl SiteUsage {
    /// How long one was out on average.
    pub fn mean(&self) -> Duration {
        let nanos = self.used.as_nanos() / u128::from(self.leases.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

fn bucket(nanos: u64) -> usize {
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
            usage.note(by, n * 1_000);
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
            usage.note(by, ms * 1_000_000);
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
