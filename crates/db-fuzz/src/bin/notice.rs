//! What notifications and a shared store say to the cache: heard or refused, and nothing that was not sealed is believed.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
use db_cache::fuzzing;

#[cfg(fuzzing)]
db_fuzz::target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        fuzzing::payload(text);
        fuzzing::hello(text);
    }
    fuzzing::count(bytes);
    fuzzing::answer(bytes);
});

#[cfg(not(fuzzing))]
db_fuzz::target!(|_bytes: &[u8]| {});
