//! One row per SQLSTATE, and the questions about each of them.

use db_core::{SqlState, SqlStateClass as C};

/// Code, class and the answers: contention, refusal, shutdown, configuration, wrong node, stale, ambiguous, breaker.
const CODES: &[(&str, C, &str)] = &[
    ("00000", C::Success, ""),
    ("01000", C::Warning, ""),
    ("01007", C::Warning, ""),
    ("02000", C::Warning, ""),
    ("08000", C::ConnectionException, "breaker"),
    ("08001", C::ConnectionException, "breaker"),
    ("08003", C::ConnectionException, "breaker"),
    ("08004", C::ConnectionException, "breaker"),
    ("08006", C::ConnectionException, "breaker"),
    ("08007", C::ConnectionException, "ambiguous breaker"),
    ("08P01", C::ConnectionException, "breaker"),
    ("0A000", C::FeatureNotSupported, ""),
    ("21000", C::DataException, ""),
    ("22000", C::DataException, ""),
    ("22001", C::DataException, ""),
    ("22003", C::DataException, ""),
    ("22008", C::DataException, ""),
    ("22012", C::DataException, ""),
    ("22021", C::DataException, ""),
    ("22023", C::DataException, ""),
    ("22P02", C::DataException, ""),
    ("22P03", C::DataException, ""),
    ("23000", C::IntegrityConstraint, ""),
    ("23001", C::IntegrityConstraint, ""),
    ("23502", C::IntegrityConstraint, ""),
    ("23503", C::IntegrityConstraint, ""),
    ("23505", C::IntegrityConstraint, ""),
    ("23514", C::IntegrityConstraint, ""),
    ("23P01", C::IntegrityConstraint, ""),
    ("25000", C::InvalidTransactionState, ""),
    ("25001", C::InvalidTransactionState, ""),
    ("25006", C::InvalidTransactionState, "node breaker"),
    ("25P01", C::InvalidTransactionState, ""),
    ("25P02", C::InvalidTransactionState, ""),
    ("25P03", C::InvalidTransactionState, ""),
    ("25P04", C::InvalidTransactionState, ""),
    ("26000", C::InvalidStatementName, "stale"),
    ("28000", C::InvalidAuthorization, "configuration"),
    ("28P01", C::InvalidAuthorization, "configuration"),
    ("34000", C::Other, ""),
    ("3B001", C::Other, ""),
    ("3D000", C::InvalidCatalog, "configuration"),
    ("3F000", C::Other, ""),
    ("40000", C::TransactionRollback, ""),
    ("40001", C::TransactionRollback, "contention"),
    ("40002", C::TransactionRollback, ""),
    ("40003", C::TransactionRollback, "ambiguous"),
    ("40P01", C::TransactionRollback, "contention"),
    ("42000", C::SyntaxOrAccess, ""),
    ("42501", C::SyntaxOrAccess, "configuration"),
    ("42601", C::SyntaxOrAccess, ""),
    ("42703", C::SyntaxOrAccess, ""),
    ("42804", C::SyntaxOrAccess, ""),
    ("42883", C::SyntaxOrAccess, ""),
    ("42P01", C::SyntaxOrAccess, ""),
    ("42P05", C::SyntaxOrAccess, ""),
    ("42P07", C::SyntaxOrAccess, ""),
    ("44000", C::SyntaxOrAccess, ""),
    ("53000", C::InsufficientResources, "breaker"),
    ("53100", C::InsufficientResources, "breaker"),
    ("53200", C::InsufficientResources, "breaker"),
    ("53300", C::InsufficientResources, "refusal breaker"),
    ("53400", C::InsufficientResources, "breaker"),
    ("54000", C::ProgramLimit, ""),
    ("54001", C::ProgramLimit, ""),
    ("54011", C::ProgramLimit, ""),
    ("54023", C::ProgramLimit, ""),
    ("55000", C::ObjectNotInState, ""),
    ("55006", C::ObjectNotInState, ""),
    ("55P03", C::ObjectNotInState, ""),
    ("57000", C::OperatorIntervention, ""),
    ("57014", C::OperatorIntervention, ""),
    ("57P01", C::OperatorIntervention, "shutdown breaker"),
    ("57P02", C::OperatorIntervention, "shutdown breaker"),
    ("57P03", C::OperatorIntervention, "refusal shutdown breaker"),
    ("57P04", C::OperatorIntervention, "breaker"),
    ("57P05", C::OperatorIntervention, "breaker"),
    ("58000", C::SystemError, "breaker"),
    ("58030", C::SystemError, "breaker"),
    ("72000", C::SnapshotTooOld, ""),
    ("F0000", C::ConfigFile, ""),
    ("P0000", C::PlPgSql, ""),
    ("P0001", C::PlPgSql, ""),
    ("P0002", C::PlPgSql, ""),
    ("P0003", C::PlPgSql, ""),
    ("P0004", C::PlPgSql, ""),
    ("XX000", C::InternalError, ""),
    ("XX001", C::InternalError, ""),
    ("XX002", C::InternalError, ""),
];

fn answers(state: SqlState) -> String {
    let answers = [
        (state.is_contention(), "contention"),
        (state.is_connect_refusal(), "refusal"),
        (state.is_shutdown(), "shutdown"),
        (state.is_configuration_fault(), "configuration"),
        (state.is_wrong_node(), "node"),
        (state.is_stale_plan(None), "stale"),
        (state.is_ambiguous(), "ambiguous"),
        (state.counts_against_breaker(), "breaker"),
    ];
    answers
        .iter()
        .filter(|(yes, _)| *yes)
        .map(|(_, word)| *word)
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn every_named_code_has_its_row() {
    let rows: Vec<&str> = CODES.iter().map(|(code, ..)| *code).collect();
    for (state, code) in SqlState::NAMED {
        assert!(rows.contains(code), "{code} has no row");
        assert_eq!(
            (SqlState::from_code(code), state.code(), &*state.to_string()),
            (*state, *code, *code)
        );
    }
    assert_eq!(rows.len(), SqlState::NAMED.len());
}

#[test]
fn classes_and_answers() {
    for (code, class, expected) in CODES {
        let state = SqlState::from_code(code);
        assert!(!matches!(state, SqlState::Other(_)), "{code}");
        assert_eq!((state.class(), &*answers(state)), (*class, *expected), "{code}");
    }
}

#[test]
fn a_plan_is_stale_only_by_its_routine() {
    assert!(SqlState::FeatureNotSupported.is_stale_plan(Some("RevalidateCachedQuery")));
    assert!(!SqlState::FeatureNotSupported.is_stale_plan(Some("transformSetOperationTree")));
    assert!(SqlState::InvalidStatementName.is_stale_plan(Some("FetchPreparedStatement")));
    assert!(!SqlState::SyntaxError.is_stale_plan(Some("RevalidateCachedQuery")));
}

#[test]
fn other_codes_keep_their_characters_and_their_class() {
    for (code, class) in [
        ("08P02", C::ConnectionException),
        ("22P05", C::DataException),
        ("57P06", C::OperatorIntervention),
        ("54999", C::ProgramLimit),
        ("HV000", C::Other),
        ("2200G", C::DataException),
    ] {
        let state = SqlState::from_code(code);
        assert_eq!(
            (state, state.code()),
            (SqlState::Other(code.as_bytes().try_into().unwrap()), code)
        );
        assert_eq!(state.class(), class);
    }
    assert!(SqlState::from_code("57P06").counts_against_breaker());
    assert!(!SqlState::from_code("22P05").counts_against_breaker());
}

#[test]
fn what_is_no_code_is_harmless() {
    for text in [
        "",
        "4000",
        "400011",
        "40 01",
        "ä123",
        "\u{1F600}x",
        "40\u{0}01",
        "4000\n",
    ] {
        let state = SqlState::from_code(text);
        assert_eq!(
            (state.code(), state.class(), &*answers(state)),
            ("?????", C::Other, ""),
            "{text:?}"
        );
    }
    // Bytes that did not come through `from_code` must not panic either.
    assert_eq!(SqlState::Other([0xff; 5]).class(), C::Other);
    assert_eq!(SqlState::Other([0xff; 5]).to_string(), "?????");
    assert_eq!(SqlState::Other(*b"a\xc3\xa4bc").class(), C::Other);
}

#[test]
fn small_enough_to_copy() {
    assert!(size_of::<SqlState>() <= 8);
}
