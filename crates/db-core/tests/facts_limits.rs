//! Texts that are too deep, too long or too many must cost little and fall to the safe side.

use db_core::{FactsCache, StatementFacts, StatementKind};
use std::{hint::black_box, sync::Arc, time::Instant};

/// Texts that nest or chain `n` times, in every way that the grammar has.
fn shapes(n: usize) -> Vec<String> {
    let around = |head: &str, open: &str, inner: &str, close: &str| {
        format!("{head}{}{inner}{}", open.repeat(n), close.repeat(n))
    };
    vec![
        around("SELECT ", "(", "1", ")"),
        around("SELECT * FROM ", "(", "a", " JOIN b ON true)"),
        around("SELECT * FROM ", "(", "a", ")"),
        around("", "(", "SELECT 1", ")"),
        around("", "SELECT (", "SELECT 1", ")"),
        around("", "SELECT * FROM (", "SELECT 1", ") x"),
        around("SELECT ", "f(", "1", ")"),
        around("SELECT ", "CASE WHEN ", "1", " THEN 1 END"),
        around("SELECT ", "NOT ", "1", ""),
        around("SELECT ", "- ", "1", ""),
        around("SELECT ", "ARRAY[", "1", "]"),
        around("SELECT ", "a IN (", "1", ")"),
        around("SELECT ", "EXISTS(SELECT ", "1", ")"),
        around("", "WITH x AS (", "SELECT 1", ") SELECT 1"),
        around("", "EXPLAIN ", "SELECT 1", ""),
        around("", "(SELECT 1 UNION ", "SELECT 1", ")"),
        around("SELECT ", "", "1", " + 1"),
        around("SELECT a", "", "", " AND a = 1"),
        around("SELECT a", "", "", "::int"),
        around("SELECT a", "", "", " IS NULL"),
        around("SELECT a", "", "", "[1]"),
        around("SELECT a", "", "", ".b"),
        around("SELECT (a)", "", "", ".b"),
        around("SELECT a", "", "", " COLLATE c"),
        around("SELECT a", "", "", " AT TIME ZONE b"),
        around("SELECT a", "", "", " IN (1)"),
        around("SELECT a", "", "", " LIKE b"),
        around("SELECT a", "", "", " BETWEEN 1 AND 2"),
        around("SELECT 1", "", "", " UNION SELECT 1"),
        around("SELECT * FROM a", "", "", " JOIN b ON true"),
        around("SELECT * FROM a", "", "", ", b"),
        around("SELECT 1", "", "", "; SELECT 1"),
        around("INSERT INTO t VALUES (1)", "", "", ", (1)"),
        around("SELECT ", "in (values (", "1", "))"),
        around("SELECT ", "in (", "", ""),
        around("SELECT 1", "", "", ")"),
        around("", "/*", "", "*/"),
        around("", "'", "", ""),
        around("SELECT 1::a", "", "", "[]"),
        around("SELECT 1::a", "", "", " ARRAY"),
        around("SELECT 1::", "a<", "int", ">"),
        around("SELECT f", "", "", "(1)"),
        around("SELECT ", "CAST(", "1", " AS int)"),
        around("SELECT ", "ARRAY[", "1", "]"),
        around("SELECT ARRAY", "[", "1", "]"),
        around("SELECT ", "{'a': ", "1", "}"),
        around("SELECT ", "x -> ", "1", ""),
        around("SELECT ", "f(x => ", "1", ")"),
        around("SELECT ", "DATE ", "'1'", ""),
        around("SELECT ", "INTERVAL ", "'1'", ""),
        around("SELECT ", "_a ", "'1'", ""),
        around("SELECT ", "1 = ANY (", "1", ")"),
        around("SELECT ", "sum(1) OVER (ORDER BY ", "1", ")"),
        around("SELECT a", "", "", " IS DISTINCT FROM a"),
        around("SELECT a", "", "", " ISNULL"),
        around("SELECT a", "", "", " a"),
        around("SELECT a", "", "", ":a"),
        around("SELECT * FROM ", "a JOIN ", "a", ""),
        around("SELECT * FROM ", "a JOIN ", "a", " ON true"),
        around("SELECT * FROM a", "", "", " NATURAL JOIN a"),
        around("SELECT * FROM ", "LATERAL (SELECT * FROM ", "a", ")"),
        around("SELECT 1 GROUP BY ", "(", "a", ")"),
        around("SELECT 1 GROUP BY ", "ROLLUP (", "a", ")"),
        around("UPDATE t SET ", "(", "a", ")"),
        around("", "COPY (", "SELECT 1", ") TO STDOUT"),
        around("", "CREATE TABLE a AS ", "SELECT 1", ""),
        around("", "DECLARE a CURSOR FOR ", "SELECT 1", ""),
        around("", "PREPARE a AS ", "SELECT 1", ""),
        around("", "WITH x AS (DELETE FROM t WHERE a IN (", "SELECT 1", ")) SELECT 1"),
        around("CREATE FUNCTION f() BEGIN ATOMIC ", "CASE ", "", "END "),
        around("SELECT a", "", "", " OPERATOR(pg_catalog.+) 1"),
    ]
}

/// Runs on a stack of a quarter of what a tokio worker has.
fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .stack_size(512 * 1024)
        .spawn(work)
        .expect("a thread")
        .join()
        .expect("a thread that ends well");
}

#[test]
fn depth_and_length_never_blow_the_stack() {
    on_a_small_stack(|| {
        let most = if cfg!(debug_assertions) { 20_000 } else { 100_000 };
        for n in [1, 10, 45, 200, 900, 990, 3_000, most] {
            for sql in shapes(n) {
                let begun = Instant::now();
                black_box(StatementFacts::of(&sql));
                let limit = if cfg!(debug_assertions) { 3_000 } else { 300 };
                let (spent, shape) = (begun.elapsed(), &sql[..sql.len().min(40)]);
                assert!(spent.as_millis() < limit, "{n} times {shape}: {spent:?}");
            }
        }
    });
}

#[test]
fn long_chains_of_a_query_builder_are_understood() {
    let sql = format!("SELECT * FROM t WHERE id = 0{}", " OR id = $1".repeat(400));
    assert!(StatementFacts::of(&sql).is_pure_read());
}

#[test]
fn a_text_over_64_kib_touches_everything_but_keeps_its_fingerprint() {
    let rows = |n: usize| format!("INSERT INTO t VALUES ($1, 'x'){}", ", ($2, 'y')".repeat(n));
    let (long, short) = (StatementFacts::of(&rows(10_000)), StatementFacts::of(&rows(3)));
    assert_eq!(long.kind(), StatementKind::Unknown);
    assert!(long.touches_everything() && !long.is_self_contained());
    assert_eq!(long.statements(), 1);
    assert_eq!(short.kind(), StatementKind::Write);
    assert_eq!(long.fingerprint(), short.fingerprint());
    assert_eq!(long.normalized(), "insert into t values ($, ?)");
}

#[test]
fn more_than_64_tables_touch_everything() {
    let from = |n: usize| (0..n).map(|i| format!("t{i}")).collect::<Vec<_>>().join(", ");
    let facts = StatementFacts::of(&format!("SELECT * FROM {}", from(64)));
    assert_eq!((facts.reads().len(), facts.touches_everything()), (64, false));
    let facts = StatementFacts::of(&format!("SELECT * FROM {}", from(65)));
    assert_eq!((facts.reads().len(), facts.touches_everything()), (64, true));
    assert!(!facts.is_pure_read());
}

#[test]
fn normalized_text_and_summary_are_bounded_and_cut_between_characters() {
    let facts = StatementFacts::of(&format!("SELECT {}", "\"äöü\", ".repeat(2_000)));
    assert!(facts.normalized().len() <= 2_048 && facts.normalized().len() > 2_000);
    let from = (0..60)
        .map(|i| format!("table_number_{i}"))
        .collect::<Vec<_>>()
        .join(", ");
    let facts = StatementFacts::of(&format!("SELECT * FROM {from}"));
    assert!(facts.summary().len() <= 255 && facts.summary().len() > 230);
    assert!(facts.summary().starts_with("SELECT table_number_0 table_number_1 "));
    assert!(
        facts
            .summary()
            .split(' ')
            .all(|word| word == "SELECT" || word.starts_with("table_number_"))
    );
}

#[test]
fn the_cache_is_bounded_by_entries_and_by_bytes() {
    let cache = FactsCache::new(64, 1024 * 1024);
    for i in 0..1_000 {
        cache.facts(&format!("SELECT * FROM t{i}"));
    }
    assert!(cache.len() <= 64, "{}", cache.len());
    let cache = FactsCache::new(100_000, 64 * 1024);
    for i in 0..1_000 {
        cache.facts(&format!("SELECT * FROM t{i} WHERE a = '{}'", "x".repeat(1_000)));
    }
    assert!(cache.len() <= 64, "{}", cache.len());
}

#[test]
fn the_cache_hands_out_the_same_facts_again() {
    let cache = FactsCache::default();
    let first = cache.facts("SELECT 1");
    assert!(Arc::ptr_eq(&first, &cache.facts("SELECT 1")));
    assert!(!Arc::ptr_eq(&first, &cache.facts("SELECT 2")));
    assert_eq!(cache.facts("SELECT 2").fingerprint(), first.fingerprint());
    assert_eq!(cache.len(), 2);
    let secret = cache.facts("SELECT 'hunter2' FROM t -- hunter3");
    assert!(!format!("{cache:?} {secret:?} {secret:#?}").contains("hunter"));
}

/// Prints the cost of a hit: `cargo test --release -p db-core --test facts_limits -- --nocapture cost`.
#[test]
fn cost_of_a_cache_hit() {
    let cache = FactsCache::default();
    let sql = "SELECT id, total, state FROM orders WHERE account_id = $1 --";
    assert_eq!(sql.len(), 60);
    for i in 0..500 {
        cache.facts(&format!("SELECT {i}"));
    }
    // The best of many short rounds: the box has other work to do.
    let best = |rounds: u32, work: &dyn Fn()| {
        let round = || {
            let begun = Instant::now();
            (0..rounds).for_each(|_| work());
            begun.elapsed().as_secs_f64() * 1e9 / f64::from(rounds)
        };
        (0..100).map(|_| round()).fold(f64::INFINITY, f64::min)
    };
    let hit = best(10_000, &|| drop(black_box(cache.facts(black_box(sql)))));
    let miss = best(50, &|| drop(black_box(StatementFacts::of(black_box(sql)))));
    println!("cache hit: {hit:.1} ns; uncached: {:.1} us", miss / 1e3);
}
