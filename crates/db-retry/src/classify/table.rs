//! The table of the research, row by row: what happened, and what to do when it happens to a read, a write, an
//! idempotent write, in a transaction, at COMMIT. `-` can't happen there.

use super::{
    Effect, Phase, Situation, Verdict,
    find::{Rejection, of_rejection},
};
use db_core::SqlState;
use std::collections::BTreeSet;

/// Code, severity, message or routine, options, and the five columns.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

const ROWS: &[Row] = &[
    // Before anything is sent.
    ("57P03", "FATAL", "", "", "RB RB RB TX -"),
    ("53300", "FATAL", "", "", "RB RB RB TX -"),
    ("08001", "FATAL", "", "", "RB RB RB TX -"),
    ("08004", "FATAL", "", "", "RB RB RB TX -"),
    ("28000", "FATAL", "", "", "N N N N -"),
    ("28P01", "FATAL", "", "", "N N N N -"),
    ("3D000", "FATAL", "", "", "N N N N -"),
    ("42501", "FATAL", "", "", "N N N N -"),
    // The session ends.
    ("57P01", "FATAL", "", "", "RB AMB RB TX AMB"),
    ("57P02", "FATAL", "", "", "RB AMB RB TX AMB"),
    ("08000", "FATAL", "", "", "RB AMB RB TX AMB"),
    ("08003", "FATAL", "", "", "RB AMB RB TX AMB"),
    ("08006", "FATAL", "", "", "RB AMB RB TX AMB"),
    ("57P04", "FATAL", "", "", "N N N N N"),
    ("57P05", "FATAL", "", "", "R1 R1 R1 N AMB"),
    ("25P03", "FATAL", "", "", "R1 R1 R1 N AMB"),
    ("25P04", "FATAL", "", "", "R1 AMB R1 N AMB"),
    // Contention.
    ("40001", "ERROR", "", "", "RB RB RB TX TX"),
    ("40P01", "ERROR", "", "", "RB RB RB TX TX"),
    ("40001", "FATAL", "", "", "RB AMB RB TX AMB"),
    ("40001", "ERROR", "", "standby", "R1 - - TX -"),
    ("40000", "ERROR", "", "", "N N N N N"),
    ("40002", "ERROR", "", "", "N N N N N"),
    ("40003", "ERROR", "", "", "AMB AMB AMB AMB AMB"),
    ("08007", "ERROR", "", "", "AMB AMB AMB AMB AMB"),
    ("55P03", "ERROR", "", "", "N N N N N"),
    ("55P03", "ERROR", "", "lock_timeouts", "RB RB RB TX -"),
    ("55006", "ERROR", "", "", "N N N N N"),
    ("55000", "ERROR", "", "", "N N N N N"),
    ("57014", "ERROR", "", "", "N N N N AMB"),
    ("57000", "ERROR", "", "", "N N N N N"),
    ("72000", "ERROR", "", "", "RB N N TX -"),
    // The wrong node, session or plan.
    ("25006", "ERROR", "", "", "RB RB RB TX -"),
    ("25006", "ERROR", "", "read_only", "N N N N N"),
    ("25P02", "ERROR", "", "", "R1 R1 R1 N N"),
    ("25000", "ERROR", "", "", "N N N N N"),
    ("25001", "ERROR", "", "", "N N N N N"),
    ("25P01", "ERROR", "", "", "N N N N N"),
    ("0A000", "ERROR", "RevalidateCachedQuery", "", "R1 R1 R1 TX -"),
    ("0A000", "ERROR", "transformSelectStmt", "", "N N N N N"),
    ("26000", "ERROR", "", "", "R1 R1 R1 TX -"),
    ("42P05", "ERROR", "", "", "R1 R1 R1 TX -"),
    ("42P01", "ERROR", "", "", "N N N N N"),
    ("42703", "ERROR", "", "", "N N N N N"),
    ("42P01", "ERROR", "", "standby", "R1 - - - -"),
    ("42703", "ERROR", "", "standby", "R1 - - - -"),
    // Too little of something.
    ("53100", "ERROR", "", "", "N N N N N"),
    ("53400", "ERROR", "", "", "N N N N N"),
    ("54000", "ERROR", "", "", "N N N N N"),
    ("54001", "ERROR", "", "", "N N N N N"),
    ("54011", "ERROR", "", "", "N N N N N"),
    ("54023", "ERROR", "", "", "N N N N N"),
    ("53200", "ERROR", "", "", "RB N N N N"),
    ("53000", "ERROR", "", "", "RB N N N N"),
    ("53200", "ERROR", "", "second", "N N N N N"),
    ("53000", "ERROR", "", "second", "N N N N N"),
    // The server itself.
    ("58000", "ERROR", "", "", "N N N N AMB"),
    ("58030", "ERROR", "", "", "N N N N AMB"),
    ("XX000", "ERROR", "", "", "N N N N AMB"),
    ("XX001", "ERROR", "", "", "N N N N AMB"),
    ("XX002", "ERROR", "", "", "N N N N AMB"),
    ("F0000", "ERROR", "", "", "N N N N AMB"),
    ("XX000", "FATAL", "", "", "N AMB AMB N AMB"),
    // The protocol, and what PgBouncer says.
    ("08P01", "ERROR", "", "", "N AMB AMB N AMB"),
    ("08P01", "FATAL", "", "", "N AMB AMB N AMB"),
    ("08P01", "FATAL", "query_wait_timeout", "", "N AMB AMB N AMB"),
    ("08P01", "FATAL", "query_wait_timeout", "pooler", "RB RB RB TX AMB"),
    (
        "08P01",
        "FATAL",
        "server login failed: FATAL",
        "pooler",
        "RB RB RB TX AMB",
    ),
    (
        "08P01",
        "FATAL",
        "pgbouncer cannot connect to server",
        "pooler",
        "RB RB RB TX AMB",
    ),
    (
        "08P01",
        "FATAL",
        "the pooler is shutting down",
        "pooler",
        "RB AMB RB TX AMB",
    ),
    ("08P01", "FATAL", "anything else", "pooler", "N AMB AMB N AMB"),
];

/// Classes and codes that are about the statement or its data, or are no errors: never, in any column.
const NEVER: [&str; 14] = [
    "00", "01", "02", "0A", "21", "22", "23", "34", "3B", "3F", "42", "44", "P0", "2D",
];

const COLUMNS: [(Effect, Phase); 5] = [
    (Effect::Read, Phase::Autocommit),
    (Effect::Write, Phase::Autocommit),
    (Effect::Idempotent, Phase::Autocommit),
    (Effect::Write, Phase::InTransaction),
    (Effect::Write, Phase::Commit),
];

fn short(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Never => "N",
        Verdict::Once(_) => "R1",
        Verdict::Backoff(_) => "RB",
        Verdict::RerunTransaction(_) => "TX",
        Verdict::Ambiguous => "AMB",
    }
}

fn verdict(row: Row, situation: &Situation) -> Verdict {
    let (code, severity, text, ..) = row;
    let rejection = Rejection {
        state: SqlState::from_code(code),
        fatal: severity == "FATAL",
        routine: Some(text).filter(|text| !text.is_empty()),
        message: text,
    };
    of_rejection(rejection, situation).verdict(situation)
}

fn situation(options: &str, column: usize) -> Situation {
    let (effect, phase) = COLUMNS[column];
    Situation {
        standby: options == "standby",
        read_only: options == "read_only",
        lock_timeouts: options == "lock_timeouts",
        pooler: options == "pooler",
        attempt: if options == "second" { 2 } else { 1 },
        ..Situation::new(effect, phase)
    }
}

#[test]
fn every_row_in_every_column() {
    let mut wrong = Vec::new();
    for row in ROWS {
        for (column, wanted) in row.4.split(' ').enumerate() {
            let got = short(verdict(*row, &situation(row.3, column)));
            if wanted != "-" && got != wanted {
                wrong.push(format!("{row:?}: column {column} is {got}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_named_state_has_a_row() {
    let rows: BTreeSet<&str> = ROWS.iter().map(|row| row.0).collect();
    for (_, code) in SqlState::NAMED {
        if rows.contains(code) {
            continue;
        }
        assert!(NEVER.contains(&&code[..2]), "{code} has no row");
        for column in 0..5 {
            let got = verdict((code, "ERROR", "", "", ""), &situation("", column));
            assert_eq!(got, Verdict::Never, "{code}, column {column}");
        }
    }
    for code in ["22P02", "23505", "42601", "44000", "P0001", "99999", "HV000"] {
        for column in 0..5 {
            assert_eq!(
                verdict((code, "ERROR", "", "", ""), &situation("", column)),
                Verdict::Never,
                "{code}"
            );
        }
    }
}

#[test]
fn a_write_is_repeated_only_when_it_is_known_that_it_did_not_run() {
    for row in ROWS {
        let write = situation(row.3, 1);
        let rejection_undid_it = verdict(*row, &write);
        let retried = matches!(rejection_undid_it, Verdict::Once(_) | Verdict::Backoff(_));
        let half = verdict(
            *row,
            &Situation {
                all_or_nothing: false,
                ..write
            },
        );
        let not_sent = row.1 == "FATAL" && retried;
        if retried && !not_sent {
            assert_eq!(half, Verdict::Ambiguous, "{row:?}: a rejection that undid only a part");
        } else {
            assert_eq!(half, rejection_undid_it, "{row:?}");
        }
    }
}

#[test]
fn what_can_not_be_replayed_is_never_repeated() {
    for row in ROWS {
        for column in 0..5 {
            let fixed = Situation {
                replayable: false,
                ..situation(row.3, column)
            };
            assert!(
                matches!(short(verdict(*row, &fixed)), "N" | "AMB"),
                "{row:?}, column {column}"
            );
        }
    }
}

#[test]
fn a_transaction_is_never_repeated_by_parts_and_a_sent_commit_only_after_contention() {
    for row in ROWS {
        let inside = verdict(*row, &situation(row.3, 3));
        assert!(!matches!(inside, Verdict::Once(_) | Verdict::Backoff(_)), "{row:?}");
        let at_commit = verdict(*row, &situation(row.3, 4));
        let contention = matches!(row.0, "40001" | "40P01") && row.1 == "ERROR" && row.3.is_empty();
        assert_eq!(matches!(at_commit, Verdict::RerunTransaction(_)), contention, "{row:?}");
    }
}
