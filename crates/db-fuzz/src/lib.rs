//! Fuzz targets for every parser of foreign bytes: SQL texts, settings, positions and tokens, what notifications and a
//! shared store say. One target per file of `src/bin`, run by `cargo xtask fuzz [TARGET]`, which needs `cargo-fuzz`.
//!
//! Without it the targets are empty programs: nobody else compiles a fuzzer. The same parsers have property tests in
//! their own crates, which run with all others.
//!
//! ```
//! // What a target looks like.
//! let target = |text: &str| assert!(text.parse::<db_core::Lsn>().is_err() || !text.is_empty());
//! target("0/16B3748");
//! ```

#[cfg(fuzzing)]
#[doc(hidden)]
pub use libfuzzer_sys;

/// A fuzz target, given as a closure over text or bytes. Without a fuzzer it is a program that says what to do.
#[cfg(fuzzing)]
#[macro_export]
macro_rules! target {
    (|$input:ident: $kind:ty| $body:block) => {
        $crate::libfuzzer_sys::fuzz_target!(|$input: $kind| $body);
    };
}

/// A fuzz target, given as a closure over text or bytes. Without a fuzzer it is a program that says what to do.
#[cfg(not(fuzzing))]
#[macro_export]
macro_rules! target {
    (|$input:ident: $kind:ty| $body:block) => {
        fn main() {
            // Compiled, so that it stays right.
            let _: fn($kind) = |$input| $body;
            println!("this is a fuzz target: cargo xtask fuzz");
        }
    };
}
