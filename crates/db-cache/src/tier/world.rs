//! A point in the notifications that several processes name alike.
//!
//! The server sends all notifications of a database to all who listen in one order. A process that begins to listen says
//! hello over the same channel; from the hello on it and all others count the same notifications. So "this table was last
//! written by the seventh notification since that hello" means the same to everybody who has heard them, and those who
//! were there before tell the newcomer what they have counted up to its hello: then it names the point as they do, and
//! finds what they have put into the store. Who gets no word from anybody begins a count of its own.
//!
//! No word that comes late, twice or not at all can make two processes mean different things by one name: a name is the
//! hello that the count began with, and the count.

use crate::versions::Place;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// The hello with which a count began. The earliest of several is the one to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Base {
    /// By the server's clock, in microseconds.
    pub(crate) since: i64,
    pub(crate) nonce: u128,
}

/// What has been counted since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) base: Base,
    pub(crate) heard: u64,
    /// By place, which notification was the last one about it. Bounded by the number of places.
    pub(crate) last: BTreeMap<u32, u64>,
    /// Whether the answers to the hello of whoever counts are in.
    pub(crate) settled: bool,
}

#[derive(Default)]
pub(crate) struct World(Mutex<State>);

#[derive(Default)]
struct State {
    /// The hello that waits for answers.
    calling: Option<u128>,
    /// What has been counted since this process's last hello.
    own: Option<Count>,
    /// The count that names are made of: its own, or one that was taken up from others.
    count: Option<Count>,
}

/// What a hello comes to.
pub(crate) enum Heard {
    /// It was this process's own: others may have an answer to it.
    Own,
    /// Somebody else's: this is what there is to say to it.
    Other(Count),
    Nothing,
}

impl World {
    /// This process listens, and is about to say hello. What it counted before goes on.
    pub(crate) fn call(&self, nonce: u128) {
        let mut state = self.0.lock();
        state.calling = Some(nonce);
        state.own = None;
    }

    /// It no longer listens.
    pub(crate) fn lost(&self) {
        *self.0.lock() = State::default();
    }

    /// A notification about this place. To be told before anybody can act on it.
    pub(crate) fn told(&self, place: Place) {
        let State { own, count, .. } = &mut *self.0.lock();
        for count in [own, count].into_iter().flatten() {
            count.heard += 1;
            count.last.insert(place.number(), count.heard);
        }
    }

    pub(crate) fn hello(&self, nonce: u128, since: i64) -> Heard {
        let mut state = self.0.lock();
        if state.calling == Some(nonce) {
            if state.own.is_some() {
                // Said twice, by somebody else: the count began at the first.
                return Heard::Nothing;
            }
            state.own = Some(Count {
                base: Base { since, nonce },
                heard: 0,
                last: BTreeMap::new(),
                settled: false,
            });
            return Heard::Own;
        }
        match state.count.as_ref().or(state.own.as_ref()) {
            Some(count) => Heard::Other(count.clone()),
            None => Heard::Nothing,
        }
    }

    /// The hello that waits for answers.
    pub(crate) fn calling(&self) -> Option<u128> {
        let state = self.0.lock();
        state.calling.filter(|_| state.own.is_some())
    }

    /// Takes up the best of the answers to this hello: of those who are settled the oldest, if it is older than what there
    /// is; with `last`, else of those who said hello before. Returns whether that was all, and whether it counts as others
    /// do.
    pub(crate) fn adopt(&self, nonce: u128, offers: Vec<Count>, last: bool) -> Option<bool> {
        let mut state = self.0.lock();
        let State { calling, own, count } = &mut *state;
        let Some(own) = own.as_ref().filter(|_| *calling == Some(nonce)) else {
            // Another hello has been said since, or nobody listens any more.
            return Some(true);
        };
        let others = offers.iter().any(|offer| offer.settled);
        let best = offers.into_iter().min_by_key(|offer| (!offer.settled, offer.base));
        let known = count.as_ref().map(|count| count.base);
        match best {
            Some(offer) if offer.settled && known.is_none_or(|base| offer.base < base) => {
                *count = Some(offer.followed_by(own));
            }
            _ if others => {}
            Some(offer) if last && known.is_none() && offer.base < own.base => *count = Some(offer.followed_by(own)),
            _ if last && known.is_none() => {
                *count = Some(Count {
                    settled: true,
                    ..own.clone()
                })
            }
            _ if last => {}
            _ => return None,
        }
        *calling = None;
        Some(others)
    }

    pub(crate) fn joined(&self) -> bool {
        self.0.lock().count.is_some()
    }

    /// The name of this point for what depends on these places, sorted; `None` as long as others would name it otherwise.
    pub(crate) fn name(&self, places: &[Place]) -> Option<Vec<u8>> {
        let state = self.0.lock();
        let count = state.count.as_ref()?;
        let mut name = Vec::with_capacity(24 + 12 * (places.len() + 1));
        name.extend_from_slice(&count.base.since.to_le_bytes());
        name.extend_from_slice(&count.base.nonce.to_le_bytes());
        for place in [Place::ALL].iter().chain(places) {
            name.extend_from_slice(&place.number().to_le_bytes());
            name.extend_from_slice(&count.last.get(&place.number()).copied().unwrap_or(0).to_le_bytes());
        }
        Some(name)
    }
}

impl Count {
    /// The same count with what has been heard since the hello that it answers.
    fn followed_by(mut self, since: &Self) -> Self {
        for (place, at) in &since.last {
            self.last.insert(*place, self.heard + at);
        }
        self.heard += since.heard;
        self.settled = true;
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.settled)];
        bytes.extend_from_slice(&self.base.since.to_le_bytes());
        bytes.extend_from_slice(&self.base.nonce.to_le_bytes());
        bytes.extend_from_slice(&self.heard.to_le_bytes());
        for (place, at) in &self.last {
            bytes.extend_from_slice(&place.to_le_bytes());
            bytes.extend_from_slice(&at.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (settled, rest) = bytes.split_first()?;
        let (since, rest) = rest.split_first_chunk()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let (heard, mut rest) = rest.split_first_chunk()?;
        let mut last = BTreeMap::new();
        while !rest.is_empty() {
            let (place, behind) = rest.split_first_chunk()?;
            let (at, behind) = behind.split_first_chunk()?;
            last.insert(u32::from_le_bytes(*place), u64::from_le_bytes(*at));
            rest = behind;
        }
        Some(Self {
            base: Base {
                since: i64::from_le_bytes(*since),
                nonce: u128::from_le_bytes(*nonce),
            },
            heard: u64::from_le_bytes(*heard),
            last,
            settled: *settled == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All who listen hear the same, from when they do.
    fn hear(worlds: &[&World], place: u32) {
        for world in worlds {
            world.told(Place::table(place));
        }
    }

    /// `caller` says hello; the others answer at once.
    fn hello(caller: &World, nonce: u128, since: i64, others: &[&World]) -> Vec<Count> {
        caller.call(nonce);
        let answers = others.iter().filter_map(|other| match other.hello(nonce, since) {
            Heard::Other(count) => Count::decode(&count.encode()),
            _ => None,
        });
        let answers = answers.collect();
        assert!(matches!(caller.hello(nonce, since), Heard::Own));
        answers
    }

    #[test]
    fn a_newcomer_names_the_point_as_those_who_were_there() {
        let (a, b) = (World::default(), World::default());
        let places = [Place::table(7)];
        let none = hello(&a, 1, 100, &[]);
        assert!(a.name(&places).is_none(), "it has not heard from others yet");
        assert_eq!(a.adopt(1, none.clone(), false), None);
        assert_eq!(a.adopt(1, none, true), Some(false), "nobody else is there");
        hear(&[&a], 7);
        let before = a.name(&places).unwrap();
        hear(&[&a], 7);
        assert_ne!(a.name(&places).unwrap(), before);
        hear(&[&a], 9);
        let at_seven = a.name(&places).unwrap();
        let answers = hello(&b, 2, 200, &[&a]);
        hear(&[&a, &b], 9);
        assert_eq!(b.adopt(2, answers, false), Some(true));
        assert_eq!(b.name(&places).unwrap(), at_seven, "nothing was written there since");
        hear(&[&a, &b], 7);
        assert_eq!(a.name(&places), b.name(&places));
        assert_ne!(a.name(&places).unwrap(), at_seven);
    }

    #[test]
    fn those_who_come_together_agree_on_the_first() {
        let worlds: Vec<World> = (0..4).map(|_| World::default()).collect();
        let mut answers = Vec::new();
        for (at, world) in worlds.iter().enumerate() {
            let others: Vec<&World> = worlds.iter().filter(|other| !std::ptr::eq(*other, world)).collect();
            answers.push(hello(world, at as u128 + 1, at as i64, &others));
            hear(&worlds.iter().collect::<Vec<_>>(), 3);
        }
        for (at, answers) in answers.into_iter().enumerate() {
            assert!(worlds[at].adopt(at as u128 + 1, answers, true).is_some());
        }
        let names: Vec<_> = worlds.iter().map(|world| world.name(&[Place::table(3)])).collect();
        assert!(
            names[0].is_some() && names.iter().all(|name| *name == names[0]),
            "{names:?}"
        );
    }

    #[test]
    fn without_word_from_others_a_point_is_nobody_elses() {
        let (a, b) = (World::default(), World::default());
        hello(&a, 1, 1, &[]);
        hello(&b, 2, 2, &[&a]);
        a.adopt(1, Vec::new(), true);
        b.adopt(2, Vec::new(), true);
        assert_ne!(a.name(&[]), b.name(&[]));
        a.lost();
        assert_eq!(a.name(&[]), None);
    }

    #[test]
    fn who_got_no_word_asks_again_and_keeps_the_older_count() {
        let (a, b) = (World::default(), World::default());
        hello(&a, 1, 1, &[]);
        a.adopt(1, Vec::new(), true);
        hello(&b, 2, 2, &[&a]);
        b.adopt(2, Vec::new(), true);
        hear(&[&a, &b], 7);
        let places = [Place::table(7)];
        let before = b.name(&places);
        let answers = hello(&b, 3, 3, &[&a]);
        assert_eq!(b.name(&places), before, "until then it counts on");
        hear(&[&a, &b], 7);
        assert_eq!(b.adopt(3, answers, false), Some(true));
        assert_eq!(a.name(&places), b.name(&places));
        // The older one does not take up the newer one's.
        let c = World::default();
        hello(&c, 9, 9, &[]);
        c.adopt(9, Vec::new(), true);
        let name = a.name(&places);
        let answers = hello(&a, 4, 4, &[&c]);
        assert_eq!(a.adopt(4, answers, true), Some(true));
        assert_eq!(a.name(&places), name);
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(count) = Count::decode(&bytes) {
                prop_assert_eq!(Count::decode(&count.encode()), Some(count));
            }
        }
    }
}
