//! Fingerprints must see the statement and nothing else; nothing may panic on any text.

use db_core::StatementFacts;
use proptest::prelude::*;

/// A token, in a form that can be written in several ways.
#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Word(&'static str),
    Quoted(&'static str),
    Literal,
    Param,
    Mark(&'static str),
}

const WORDS: &[&str] = &[
    "select", "from", "where", "orders", "t1", "größe", "and", "insert", "x$y", "end", "case",
];
const QUOTED: &[&str] = &[
    "\"a b\"",
    "\"a  b\"",
    "\"A b\"",
    "\"orders\"",
    "\"a\"\"b\"",
    "\"--\"",
    "\"'\"",
];
const MARKS: &[&str] = &[
    "(", ")", ",", "=", "<>", "*", "::", ".", "||", "->>", "@>", "[", "]", "?|", "%",
];
const LITERALS: &[&str] = &[
    "0",
    "42",
    "1.5e-3",
    ".5",
    "0xFF",
    "1_000",
    "''",
    "'a'",
    "'it''s'",
    "'a  b'",
    "'-- no comment'",
    "E'\\'; x'",
    "e'a''b'",
    "$$ ; $$",
    "$tag$ $$ '$tag$",
    "B'01'",
    "x'ff'",
    "U&'\\0041'",
    "'\"q\"'",
    "'/*'",
    "'line\nbreak'",
    "true",
    "FALSE",
    "Null",
];
const BLANKS: &[&str] = &[
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\u{c}",
    " /* c */ ",
    "/**/",
    " /* a /* b ' */ \" */\n",
    " -- ' \" $$ /*\n",
    "--\n",
];

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        4 => prop::sample::select(WORDS).prop_map(Piece::Word),
        2 => prop::sample::select(QUOTED).prop_map(Piece::Quoted),
        2 => Just(Piece::Literal),
        1 => Just(Piece::Param),
        4 => prop::sample::select(MARKS).prop_map(Piece::Mark),
    ]
}

/// A text in which strings do not touch (with a line break between them they would be one string) and none follows
/// a dot (`.true` is a name).
fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    prop::collection::vec(piece(), 0..30).prop_map(|mut pieces| {
        pieces.dedup_by(|a, b| *a == Piece::Literal && matches!(b, Piece::Literal | Piece::Mark(".")));
        pieces
    })
}

/// Writes the pieces; the numbers choose blanks, cases and literals.
fn write(pieces: &[Piece], choices: &[usize]) -> String {
    let mut choices = choices.iter().copied().cycle();
    let mut pick = move |from: &[&str]| from[choices.next().unwrap_or(0) % from.len()].to_owned();
    let mut sql = pick(BLANKS);
    for piece in pieces {
        sql += &match piece {
            Piece::Word(word) => pick(&[word, &word.to_ascii_uppercase(), &word.to_ascii_lowercase()]),
            Piece::Quoted(name) => (*name).to_owned(),
            Piece::Literal => pick(LITERALS),
            Piece::Param => pick(&["$1", "$2", "$1234"]),
            Piece::Mark(mark) => (*mark).to_owned(),
        };
        sql += &pick(BLANKS);
    }
    sql + &pick(&["", ";", " ; ;"])
}

fn print(sql: &str) -> String {
    StatementFacts::of(sql).fingerprint().to_string()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(debug_assertions) { 400 } else { 20_000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_text_has_facts(sql in any::<String>()) {
        check(&sql)?;
    }

    #[test]
    fn any_mixture_of_sql_has_facts(parts in prop::collection::vec(prop_oneof![
        4 => prop::sample::select(WORDS), 2 => prop::sample::select(QUOTED), 3 => prop::sample::select(LITERALS),
        4 => prop::sample::select(MARKS), 3 => prop::sample::select(BLANKS),
        6 => prop::sample::select(&["with x as (", "delete from", "update", "set", "values (", "in (", "only", "table",
            "on conflict (", "do", "for update of", "as (", "create", "begin", "atomic", ";", "explain", "copy", "'",
            "\"", "$$", "/*", "*/", "union", "group by", "order by", "over (", "interval", "like", "not", "-", "$1",
            "declare", "cursor", "for", "lock", "truncate", "\u{1}", "\0", "\\", "E'\\", "merge into", "using", "when"][..]),
    ], 0..40)) {
        check(&parts.join(" "))?;
        check(&parts.concat())?;
    }

    #[test]
    fn writing_a_statement_otherwise_keeps_its_fingerprint(
        pieces in pieces(),
        one in prop::collection::vec(any::<usize>(), 1..40),
        two in prop::collection::vec(any::<usize>(), 1..40),
    ) {
        let (one, two) = (write(&pieces, &one), write(&pieces, &two));
        let (first, second) = (StatementFacts::of(&one), StatementFacts::of(&two));
        prop_assert_eq!(first.normalized(), second.normalized(), "{}\n{}", one, two);
        prop_assert_eq!(first.fingerprint(), second.fingerprint());
    }

    #[test]
    fn another_statement_has_another_fingerprint(one in pieces(), two in pieces()) {
        prop_assume!(one != two);
        prop_assert_ne!(print(&write(&one, &[0])), print(&write(&two, &[0])));
    }

    #[test]
    fn a_piece_more_or_less_is_another_statement(pieces in pieces(), at in any::<prop::sample::Index>()) {
        prop_assume!(!pieces.is_empty());
        let mut fewer = pieces.clone();
        fewer.remove(at.index(pieces.len()));
        prop_assert_ne!(print(&write(&pieces, &[0])), print(&write(&fewer, &[0])));
    }

    #[test]
    fn the_length_of_lists_does_not_count(n in 1..50_usize, m in 1..50_usize, k in 1..5_usize) {
        let list = |item: &str, n: usize| vec![item; n].join(", ");
        let row = |n: usize| list(&format!("({}, now(), default)", list("$1", k)), n);
        for (a, b) in [
            (format!("select * from t where a in ({})", list("1", n)), format!("select * from t where a in ({})", list("'x'", m))),
            (format!("select * from t where a not in ({})", list("$1", n)), format!("select * from t where a not in ({})", list("$2", m))),
            (format!("select 1 where (a, b) in ({}) and c", list("(1, 2)", n)), format!("select 1 where (a, b) in ({}) and c", list("(3, 4)", m))),
            (format!("insert into t values {} returning a", row(n)), format!("insert into t values {} returning a", row(m))),
            (format!("select * from (values {}) v", row(n)), format!("select * from (values {}) v", row(m))),
        ] {
            prop_assert_eq!(print(&a), print(&b), "{}\n{}", a, b);
        }
    }

    #[test]
    fn literals_never_show(secret in "[a-z]{12}", form in 0..6_usize) {
        let literal = match form {
            0 => format!("'{secret}'"),
            1 => format!("E'\\'{secret}'"),
            2 => format!("$${secret}$$"),
            3 => format!("$a${secret}$a$"),
            4 => format!("'x'\n'{secret}'"),
            _ => format!("'' -- {secret}\n"),
        };
        for sql in [
            format!("select {literal}"),
            format!("alter role x password {literal}"),
            format!("insert into t values ({literal}, {literal})"),
            format!("/* {secret} */ selec {literal} ("),
            format!("copy t from {literal}"),
            format!("select '{secret}"),
            format!("select $${secret}"),
        ] {
            let facts = StatementFacts::of(&sql);
            let shown = format!("{facts:?} {facts:#?} {} {}", facts.normalized(), facts.summary());
            prop_assert!(!shown.contains(&secret), "{}: {}", sql, shown);
        }
    }
}

fn check(sql: &str) -> Result<(), TestCaseError> {
    let (facts, again) = (StatementFacts::of(sql), StatementFacts::of(sql));
    prop_assert!(facts.normalized().len() <= 2_048 && facts.summary().len() <= 255);
    prop_assert_eq!(facts.fingerprint(), again.fingerprint());
    prop_assert_eq!(facts.fingerprint().to_string().len(), 16);
    prop_assert!(!facts.touches_everything() || !facts.is_pure_read());
    Ok(())
}

#[test]
fn fingerprints_are_the_same_in_every_run() {
    // A change here breaks whatever has stored fingerprints: do it knowingly.
    assert_eq!(print("SELECT 1"), print("select  2 ;"));
    assert_eq!(print("SELECT * FROM orders WHERE id = $1"), "eb1876e5021863cf");
    assert_eq!(print(""), "efd01f60ba992926");
}

#[test]
fn what_shares_a_fingerprint() {
    for (one, two) in [
        ("SELECT 'a  b'", "SELECT 'a b'"),
        ("SELECT * FROM t WHERE a = -1", "SELECT * FROM t WHERE a = 1"),
        ("SELECT -1, - 2", "SELECT 1, +2"),
        ("SELECT a WHERE b=-1", "select a where b = 7"),
        ("SELECT a WHERE b BETWEEN -1 AND -2", "SELECT a WHERE b BETWEEN 1 AND 2"),
        ("INSERT INTO t VALUES (NULL)", "INSERT INTO t VALUES (1)"),
        ("SELECT a = true", "SELECT a = false"),
        ("SELECT 'a'\n'b'", "SELECT 'c'"),
        (
            "VALUES (1, default), (2, 3), (4, default)",
            "VALUES (1, default), (2, 3)",
        ),
        ("SELECT 1; ; SELECT 2;", "SELECT 1; SELECT 2"),
        ("SELECT U&\"a\"", "SELECT u&\"a\""),
    ] {
        assert_eq!(print(one), print(two), "{one}\n{two}");
    }
}

#[test]
fn what_differs() {
    for (one, two) in [
        ("SELECT \"a  b\"", "SELECT \"a b\""),
        ("SELECT \"A\"", "SELECT \"a\""),
        ("SELECT \"a\"", "SELECT a"),
        ("SELECT a - 1", "SELECT a 1"),
        ("SELECT (a) - 1", "SELECT (a) 1"),
        ("SELECT a - 1", "SELECT a + 1"),
        ("SELECT a IS NULL", "SELECT a IS TRUE"),
        ("SELECT a IS NOT TRUE", "SELECT a IS NOT FALSE"),
        ("SELECT a WHERE b = $1", "SELECT a WHERE b = 1"),
        ("SELECT ARRAY[1, 2]", "SELECT ARRAY[1]"),
        ("SELECT f(1, 2)", "SELECT f(1)"),
        ("SELECT a IN (SELECT b, b FROM t)", "SELECT a IN (SELECT b FROM t)"),
        ("VALUES (1, 2)", "VALUES (1)"),
        ("SELECT a <- 1", "SELECT a <-1 - 1"),
        ("SELECT a ? 'b'", "SELECT a 'b' ?"),
        ("SELECT ' unterminated", "SELECT ' other"),
        ("SELECT 1; SELECT 1", "SELECT 1"),
        ("SELECT \u{1}", "SELECT 1"),
    ] {
        assert_ne!(print(one), print(two), "{one}\n{two}");
    }
}
