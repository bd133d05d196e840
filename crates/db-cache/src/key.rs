//! Which answer an entry is: a keyed hash of 128 bits over everything that decides it, exactly as it is.

use siphasher::sip128::{Hasher128, SipHasher13};
use std::{
    any::TypeId,
    fmt,
    hash::{Hash, Hasher},
};

/// Identifies one answer. Equal only for the same statement text, arguments with their types, result type, way of
/// fetching, tenant and scope; another process makes other keys of the same things.
///
/// 128 bits of SipHash-1-3 under a random key: with a billion answers in memory, two of them share a key with a
/// probability of less than one in 10^20, and nobody who does not know the key can search for such a pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u128);

impl Key {
    /// The number; for a shared tier.
    pub fn get(self) -> u128 {
        self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:032x})", self.0)
    }
}

/// How much of the result a caller takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fetch {
    /// Every row.
    All,
    /// The first row, or none.
    First,
}

/// The secret under which keys are made, with the scope (server, database, role, session settings) already in it.
#[derive(Clone)]
pub struct KeySeed(SipHasher13);

impl KeySeed {
    /// A secret of this process's own, for whatever is seen through this `scope`.
    pub fn random(scope: &[&[u8]]) -> Self {
        // Random bits come from the operating system through std's hasher; a number from fastrand could be guessed.
        let random = || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0_u8);
        Self::scoped(SipHasher13::new_with_keys(random(), random()), scope)
    }

    /// The secret that all who share a tier must share.
    pub fn shared(secret: &[u8; 16], scope: &[&[u8]]) -> Self {
        Self::scoped(SipHasher13::new_with_key(secret), scope)
    }

    fn scoped(mut hasher: SipHasher13, scope: &[&[u8]]) -> Self {
        for part in scope {
            hasher.write_u64(part.len() as u64);
            hasher.write(part);
        }
        Self(hasher)
    }

    /// Begins a key.
    pub fn key(&self) -> KeyBuilder {
        KeyBuilder {
            hasher: self.0,
            buffer: [0; BUFFER],
            filled: 0,
        }
    }
}

impl fmt::Debug for KeySeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySeed")
    }
}

const BUFFER: usize = 192;

/// Collects what decides an answer. Every part goes in with its length, so that no two sequences of parts look alike.
pub struct KeyBuilder {
    hasher: SipHasher13,
    buffer: [u8; BUFFER],
    filled: usize,
}

impl KeyBuilder {
    /// Some bytes.
    #[must_use]
    pub fn bytes(mut self, part: &[u8]) -> Self {
        self.push(&(part.len() as u64).to_le_bytes());
        self.push(part);
        self
    }

    /// Bytes that may be missing; missing is not the same as empty.
    #[must_use]
    pub fn maybe(mut self, part: Option<&[u8]>) -> Self {
        self.push(&[u8::from(part.is_some())]);
        self.bytes(part.unwrap_or_default())
    }

    /// A type, such as that of the result or of the mapper.
    #[must_use]
    pub fn of_type(mut self, id: TypeId) -> Self {
        let mut hasher = self.hasher;
        id.hash(&mut hasher);
        let hash = hasher.finish128();
        self.push(&hash.h1.to_le_bytes());
        self.push(&hash.h2.to_le_bytes());
        self
    }

    /// How much of the result is taken.
    #[must_use]
    pub fn fetch(mut self, fetch: Fetch) -> Self {
        self.push(&[fetch as u8]);
        self
    }

    /// The last part: the full debug text of something whose bytes can't be had. For sqlx's `PgArguments` it holds
    /// the type of each argument and every encoded byte.
    pub fn finish(mut self, last: &impl fmt::Debug) -> Key {
        use fmt::Write;
        // The only error is one of the value's own `Debug`; none then has a key of its own, which is still exact.
        if write!(self, "{last:?}").is_err() {
            self.push(b"!");
        }
        self.flush();
        Key(u128::from(self.hasher.finish128()))
    }

    fn push(&mut self, mut part: &[u8]) {
        while !part.is_empty() {
            let room = (BUFFER - self.filled).min(part.len());
            self.buffer[self.filled..self.filled + room].copy_from_slice(&part[..room]);
            self.filled += room;
            part = &part[room..];
            if self.filled == BUFFER {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        // Whole buffers and one rest: how the text came in pieces makes no difference.
        self.hasher.write(&self.buffer[..self.filled]);
        self.filled = 0;
    }
}

impl fmt::Write for KeyBuilder {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

impl fmt::Debug for KeyBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyBuilder")
    }
}
