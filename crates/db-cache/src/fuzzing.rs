//! Private readers of foreign bytes, for the fuzz targets alone.

use crate::{
    cache::Cache,
    config::CacheConfig,
    tier::{self, Kept},
};
use db_core::Observers;
use std::{sync::LazyLock, time::Duration};

const SECRET: [u8; 16] = [3; 16];
static CACHE: LazyLock<Cache> =
    LazyLock::new(|| Cache::new(CacheConfig::default(), Observers::default()).expect("the defaults can be used"));

/// A notification of a write: each is heard.
pub fn payload(text: &str) {
    let heard = || {
        let stats = CACHE.stats();
        stats.invalidations.iter().map(|(_, count)| count).sum::<u64>()
    };
    let before = heard();
    CACHE.written(text);
    assert_eq!(heard(), before + 1);
}

/// A hello of another process.
pub fn hello(text: &str) {
    let _ = tier::parse_hello(text);
}

/// What another process has counted.
pub fn count(bytes: &[u8]) {
    if let Some(count) = tier::Count::decode(bytes) {
        assert_eq!(tier::Count::decode(&count.encode()), Some(count));
    }
}

/// An answer from the store: believed only where it was sealed.
pub fn answer(bytes: &[u8]) {
    let kept = |bytes: Vec<u8>| Kept {
        bytes,
        left: Duration::from_secs(1),
    };
    assert!(tier::Found::open(&SECRET, "k", kept(bytes.to_vec())).is_none());
    if let Some(found) = tier::Found::open(&SECRET, "k", kept(tier::sealed(&SECRET, "k", bytes.to_vec()))) {
        let _ = found.value();
    }
}
