//! Texts from outside (tokens in cookies and headers, positions that a server reports) are understood or refused.

use db_core::{CausalToken, Lsn};
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_token_survives_its_text(system: u64, timeline: u32, lsn: u64) {
        let token = CausalToken { system, timeline, lsn: Lsn(lsn) };
        let text = token.to_string();
        prop_assert!(text.len() <= 42 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'.'));
        prop_assert_eq!(text.parse::<CausalToken>().ok(), Some(token));
        prop_assert_eq!(Lsn(lsn).to_string().parse::<Lsn>().ok(), Some(Lsn(lsn)));
    }

    #[test]
    fn any_text_is_a_token_or_none(text in prop_oneof![any::<String>(), "[0-9a-fA-F.+ -]{0,60}"]) {
        if let Ok(token) = text.parse::<CausalToken>() {
            // Nothing but leading zeros and the case of letters may differ: one position has one meaning.
            let plain = |text: &str| {
                let parts = text.split('.').map(|part| part.trim_start_matches('0').to_ascii_lowercase());
                parts.collect::<Vec<_>>()
            };
            prop_assert_eq!(plain(&token.to_string()), plain(&text));
        }
    }

    #[test]
    fn any_text_is_a_position_or_none(text in prop_oneof![any::<String>(), "[0-9a-fA-F/+ -]{0,40}"]) {
        if text.parse::<Lsn>().is_ok() {
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'/'), "{}", text);
        }
    }
}

#[test]
fn a_very_long_text_is_refused() {
    let long = "f".repeat(1 << 20);
    assert!(long.parse::<CausalToken>().is_err());
    assert!(format!("{long}/{long}").parse::<Lsn>().is_err());
}
