//! Answers as they lie in the store: with their age, and a tag that only who knows the secret can make.

use super::Kept;
use siphasher::sip128::{Hasher128, SipHasher24};
use std::{
    hash::Hasher,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const TAG: usize = 16;
const HEAD: usize = 8 + 8 + 8 + 4 + 1;

/// An answer on its way into the store.
pub(crate) struct Sent<'a> {
    /// `None`: there is no such row.
    pub(crate) value: Option<&'a [u8]>,
    /// How old it is already.
    pub(crate) age: Duration,
    /// For how long it is to be there.
    pub(crate) keep: Duration,
    /// What its value takes in memory.
    pub(crate) weight: u32,
    /// It says that there is nothing.
    pub(crate) negative: bool,
}

/// An answer from the store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    frame: Vec<u8>,
    /// How old it is, at least and at most as far as anybody can tell: the older of what the store's clock and this
    /// machine's say.
    pub(crate) age: Duration,
    pub(crate) weight: u32,
    /// It says that there is nothing.
    pub(crate) negative: bool,
}

impl Sent<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + self.value.map_or(0, <[u8]>::len) + TAG);
        for time in [self.age, self.keep, unix().saturating_sub(self.age)] {
            bytes.extend_from_slice(&millis(time).to_le_bytes());
        }
        bytes.extend_from_slice(&self.weight.to_le_bytes());
        bytes.push(u8::from(self.value.is_some()) | u8::from(self.negative) << 1);
        bytes.extend_from_slice(self.value.unwrap_or_default());
        bytes
    }
}

impl Found {
    pub(crate) fn open(secret: &[u8; 16], key: &str, kept: Kept) -> Option<Self> {
        let frame = opened(secret, key, kept.bytes)?;
        let (age, rest) = frame.split_first_chunk()?;
        let (keep, rest) = rest.split_first_chunk()?;
        let (born, rest) = rest.split_first_chunk()?;
        let (weight, rest) = rest.split_first_chunk()?;
        let negative = rest.first()? & 2 != 0;
        let time = |millis: &[u8; 8]| Duration::from_millis(u64::from_le_bytes(*millis));
        let by_store = time(age).checked_add(time(keep).saturating_sub(kept.left))?;
        let by_clock = unix().saturating_sub(time(born));
        // What was rounded down on the way.
        let age = by_store.max(by_clock) + Duration::from_millis(2);
        let weight = u32::from_le_bytes(*weight);
        Some(Self {
            age,
            weight,
            negative,
            frame,
        })
    }

    /// `None`: there is no such row.
    pub(crate) fn value(&self) -> Option<&[u8]> {
        (self.frame[HEAD - 1] & 1 != 0).then(|| &self.frame[HEAD..])
    }
}

/// With a tag over it and over where it lies: the same bytes elsewhere are not the same.
pub(crate) fn sealed(secret: &[u8; 16], key: &str, mut bytes: Vec<u8>) -> Vec<u8> {
    let tag = tag(secret, key, &bytes);
    bytes.extend_from_slice(&tag);
    bytes
}

/// What was sealed; `None` when it was not, or not for this place.
pub(crate) fn opened(secret: &[u8; 16], key: &str, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let (body, sealed) = bytes.split_last_chunk::<TAG>()?;
    if tag(secret, key, body) != *sealed {
        return None;
    }
    bytes.truncate(bytes.len() - TAG);
    Some(bytes)
}

fn tag(secret: &[u8; 16], key: &str, bytes: &[u8]) -> [u8; TAG] {
    let mut hasher = SipHasher24::new_with_key(secret);
    hasher.write(b"tag");
    hasher.write(&(key.len() as u64).to_le_bytes());
    hasher.write(key.as_bytes());
    hasher.write(bytes);
    u128::from(hasher.finish128()).to_le_bytes()
}

fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: [u8; 16] = [3; 16];
    const SECOND: Duration = Duration::from_secs(1);

    fn kept(value: Option<&[u8]>, key: &str, left: Duration) -> Kept {
        let sent = Sent {
            value,
            age: SECOND,
            keep: 10 * SECOND,
            weight: 77,
            negative: value.is_none(),
        };
        Kept {
            bytes: sealed(&SECRET, key, sent.encode()),
            left,
        }
    }

    #[test]
    fn an_answer_comes_back_with_its_age() {
        let found = Found::open(&SECRET, "k", kept(Some(b"value"), "k", 7 * SECOND)).unwrap();
        assert_eq!((found.value(), found.weight), (Some(&b"value"[..]), 77));
        assert!((4 * SECOND..5 * SECOND).contains(&found.age), "{:?}", found.age);
        let nothing = Found::open(&SECRET, "k", kept(None, "k", 10 * SECOND)).unwrap();
        assert_eq!((nothing.value(), nothing.negative), (None, true));
        let empty = Found::open(&SECRET, "k", kept(Some(b""), "k", 10 * SECOND)).unwrap();
        assert_eq!((empty.value(), empty.negative), (Some(&b""[..]), false));
    }

    #[test]
    fn what_lies_elsewhere_or_is_anothers_is_refused() {
        let kept = kept(Some(b"value"), "k", SECOND);
        assert!(Found::open(&SECRET, "other", kept.clone()).is_none());
        assert!(Found::open(&[4; 16], "k", kept.clone()).is_none());
        for at in 0..kept.bytes.len() {
            let mut bent = kept.clone();
            bent.bytes[at] ^= 1;
            assert!(Found::open(&SECRET, "k", bent).is_none(), "byte {at}");
            let mut cut = kept.clone();
            cut.bytes.truncate(at);
            assert!(Found::open(&SECRET, "k", cut).is_none(), "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let sealed = sealed(&SECRET, "k", bytes.clone());
            let kept = |bytes| Kept { bytes, left: SECOND };
            prop_assert!(Found::open(&SECRET, "k", kept(bytes)).is_none());
            if let Some(found) = Found::open(&SECRET, "k", kept(sealed)) {
                let _ = found.value();
            }
        }
    }
}
