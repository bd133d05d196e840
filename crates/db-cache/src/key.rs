//! Which answer an entry is: a keyed hash of 128 bits over everything that decides it, exactly as it is.

use db_core::Statement;
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
/// Lengths up to here take one byte.
const SHORT: usize = 254;

/// Collects what decides an answer. Every part goes in with its length, so that no two sequences of parts look alike.
pub struct KeyBuilder {
    hasher: SipHasher13,
    buffer: [u8; BUFFER],
    filled: usize,
}

impl KeyBuilder {
    /// Some bytes.
    pub fn bytes(&mut self, part: &[u8]) -> &mut Self {
        match u8::try_from(part.len()) {
            Ok(length) if part.len() <= SHORT => self.push_byte(length),
            _ => {
                self.push_byte(u8::MAX);
                self.push(&(part.len() as u64).to_le_bytes());
            }
        }
        self.push(part);
        self
    }

    /// Bytes that may be missing; missing is not the same as empty.
    pub fn maybe(&mut self, part: Option<&[u8]>) -> &mut Self {
        self.push_byte(u8::from(part.is_some()));
        self.bytes(part.unwrap_or_default())
    }

    /// A type, such as that of the result or of the mapper.
    pub fn of_type(&mut self, id: TypeId) -> &mut Self {
        id.hash(&mut Collect(self));
        self
    }

    /// How much of the result is taken.
    pub fn fetch(&mut self, fetch: Fetch) -> &mut Self {
        self.push_byte(fetch as u8);
        self
    }

    /// The last part: a statement, by its text and every argument's type and encoded bytes.
    pub fn statement(&mut self, statement: &mut Statement) -> Key {
        self.bytes(statement.sql().as_bytes());
        statement.argument_parts(|part| {
            self.bytes(part);
        });
        self.key()
    }

    /// The last part: the full debug text of something whose bytes can't be had.
    pub fn finish(&mut self, last: &impl fmt::Debug) -> Key {
        use fmt::Write;
        // The only error is one of the value's own `Debug`; none then has a key of its own, which is still exact.
        if write!(self, "{last:?}").is_err() {
            self.push(b"!");
        }
        self.key()
    }

    fn key(&mut self) -> Key {
        self.flush();
        Key(u128::from(self.hasher.finish128()))
    }

    fn push_byte(&mut self, byte: u8) {
        if self.filled == BUFFER {
            self.flush();
        }
        self.buffer[self.filled] = byte;
        self.filled += 1;
    }

    fn push(&mut self, mut part: &[u8]) {
        while !part.is_empty() {
            if self.filled == BUFFER {
                self.flush();
            }
            let room = (BUFFER - self.filled).min(part.len());
            self.buffer[self.filled..self.filled + room].copy_from_slice(&part[..room]);
            self.filled += room;
            part = &part[room..];
        }
    }

    fn flush(&mut self) {
        // Whole buffers and one rest: how the text came in pieces makes no difference.
        self.hasher.write(&self.buffer[..self.filled]);
        self.filled = 0;
    }
}

/// Takes what a type's identity is made of, which is as long for every type.
struct Collect<'a>(&'a mut KeyBuilder);

impl Hasher for Collect<'_> {
    fn write(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    fn finish(&self) -> u64 {
        0
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

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> KeySeed {
        KeySeed::shared(&[7; 16], &[b"server"])
    }

    #[test]
    fn the_borders_of_parts_count() {
        let of = |parts: &[&[u8]]| {
            let seed = seed();
            let mut key = seed.key();
            for part in parts {
                key.bytes(part);
            }
            key.key()
        };
        assert_eq!(of(&[b"ab", b"c"]), of(&[b"ab", b"c"]));
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"abc"]));
        assert_ne!(of(&[b"ab", b""]), of(&[b"ab"]));
        for length in [0, 1, 191, 192, 193, 254, 255, 256, 1000] {
            let long = vec![b'x'; length];
            assert_ne!(of(&[&long, b"y"]), of(&[&long[..length.saturating_sub(1)], b"xy"]));
        }
    }

    #[test]
    fn a_missing_part_is_not_an_empty_one() {
        let seed = seed();
        let of = |part| seed.key().maybe(part).finish(&0);
        assert_ne!(of(None), of(Some(&b""[..])));
    }

    #[test]
    fn types_and_secrets_count() {
        let of = |seed: &KeySeed, id| seed.key().of_type(id).finish(&0);
        let (one, other) = (TypeId::of::<i32>(), TypeId::of::<i64>());
        assert_ne!(of(&seed(), one), of(&seed(), other));
        assert_ne!(
            of(&seed(), one),
            of(&KeySeed::shared(&[8; 16], &[b"server"]), one),
            "another secret"
        );
        assert_ne!(
            of(&seed(), one),
            of(&KeySeed::shared(&[7; 16], &[b"serve", b"r"]), one),
            "another scope"
        );
    }

    #[test]
    fn a_statement_counts_with_its_arguments() {
        let seed = seed();
        let of = |sql, n: i32| {
            let mut statement = Statement::all(sqlx::query(sql).bind(n)).unwrap();
            seed.key().statement(&mut statement)
        };
        assert_eq!(of("SELECT $1", 1), of("SELECT $1", 1));
        assert_ne!(of("SELECT $1", 1), of("SELECT $1", 2));
        assert_ne!(of("SELECT $1", 1), of("SELECT  $1", 1));
    }
}
