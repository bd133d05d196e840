//! Positions, tokens, fingerprints and durations from cookies, headers, servers and settings: understood as what they
//! say, or refused.
#![cfg_attr(fuzzing, no_main)]

use db_core::{CausalToken, Fingerprint, Lsn, config::duration};

db_fuzz::target!(|text: &str| {
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse::<Lsn>().ok(), Some(lsn));
    }
    if let Ok(token) = text.parse::<CausalToken>() {
        assert_eq!(token.to_string().parse::<CausalToken>().ok(), Some(token));
    }
    if let Ok(fingerprint) = text.parse::<Fingerprint>() {
        assert_eq!(fingerprint.to_string().parse::<Fingerprint>().ok(), Some(fingerprint));
    }
    let _ = duration::parse(text);
});
