//! What kind of statement it is, by its first words. Queries and changes of rows go on to sqlparser.

use super::{
    StatementKind as Kind, define,
    ease::{QUERY, ease},
    found::Found,
    functions::names_a_moment,
    lex::{self, Cut, Lexer, Token},
    tokens::Tokens,
    walk::Walk,
};
use sqlparser::{ast::Statement, dialect::PostgreSqlDialect, parser::Parser, tokenizer::Tokenizer};

/// Longer texts are not parsed.
pub(super) const PARSED: usize = 64 * 1024;
/// Levels that sqlparser's recursion may reach.
const RECURSION: usize = 50;

/// What the text does, and how many statements it has.
pub(super) fn classify(sql: &str) -> (Found, u32) {
    let (mut found, mut cut, mut state) = (Found::default(), Cut::default(), Transaction::default());
    if sql.len() > PARSED {
        Lexer::new(sql).for_each(|token| _ = cut.ends(sql, &token));
        found.unknown();
        return (found, cut.statements.max(1));
    }
    let tokens: Vec<Token> = Lexer::new(sql).collect();
    let mut from = 0;
    for (at, token) in tokens.iter().enumerate() {
        if cut.ends(sql, token) {
            statement(
                &mut found,
                &mut state,
                Tokens {
                    sql,
                    rest: &tokens[from..at],
                },
            );
            from = at + 1;
        }
    }
    statement(
        &mut found,
        &mut state,
        Tokens {
            sql,
            rest: &tokens[from..],
        },
    );
    found.leaves_open |= state.open;
    (found, cut.statements)
}

/// Whether a transaction is open after the statements so far.
#[derive(Default)]
struct Transaction {
    begun: bool,
    open: bool,
}

fn statement(found: &mut Found, state: &mut Transaction, tokens: Tokens<'_>) {
    let Some(first) = tokens.rest.first() else {
        return;
    };
    found.summary.next_statement();
    if tokens.rest.iter().any(|token| token.kind == lex::Kind::Broken) {
        found.summary.op("OTHER");
        return found.unknown();
    }
    if !transaction(found, state, tokens) {
        one(found, first.text(tokens.sql), tokens);
    }
}

/// Handles transaction control; false for any other statement.
fn transaction(found: &mut Found, state: &mut Transaction, mut tokens: Tokens<'_>) -> bool {
    let sql = tokens.sql;
    let second = |words: &[&str]| tokens.rest.get(1).is_some_and(|token| token.is_any(sql, words));
    let two_phase = second(&["prepared"]);
    let op = if tokens.at("begin") {
        "BEGIN"
    } else if tokens.at("start") && second(&["transaction"]) {
        "START TRANSACTION"
    } else if tokens.at_any(&["commit", "end"]) {
        "COMMIT"
    } else if tokens.at("prepare") && second(&["transaction"]) {
        "PREPARE TRANSACTION"
    } else if tokens.at_any(&["rollback", "abort"]) {
        "ROLLBACK"
    } else if tokens.at("savepoint") {
        "SAVEPOINT"
    } else if tokens.at("release") {
        "RELEASE"
    } else {
        return false;
    };
    found.kind(Kind::TxControl);
    found.summary.op(op);
    found.controls = true;
    tokens.skip(1);
    // `AND CHAIN` begins the next transaction at once; `AND NO CHAIN` does not.
    let chain = tokens.has("chain") && !tokens.has("no");
    match op {
        "BEGIN" | "START TRANSACTION" => (state.begun, state.open) = (true, true),
        _ if two_phase => found.everything = true,
        "COMMIT" | "ROLLBACK" | "PREPARE TRANSACTION" if !tokens.has("to") => {
            // The end of a transaction that begins elsewhere: what the text is part of can't be seen here.
            state.open = chain || !state.begun;
        }
        _ => state.open |= !state.begun,
    }
    true
}

/// Any statement but transaction control.
pub(super) fn one(found: &mut Found, first: &str, mut tokens: Tokens<'_>) {
    let word = first.to_ascii_lowercase();
    if first == "(" || QUERY.contains(&&*word) {
        return rows(found, tokens);
    }
    tokens.skip(1);
    let op = word.to_ascii_uppercase();
    match &*word {
        "explain" => explain(found, tokens),
        "copy" => copy(found, tokens),
        "truncate" => define::truncate(found, tokens),
        "refresh" => define::refresh(found, tokens),
        "create" => define::create(found, tokens),
        "alter" => define::alter(found, tokens),
        "drop" => define::drop(found, tokens),
        "set" => set(found, tokens),
        "lock" => lock(found, tokens),
        "declare" => declare(found, tokens),
        "prepare" | "reset" | "discard" | "listen" | "unlisten" | "deallocate" | "load" => {
            found.summary.op(&op);
            found.kind(Kind::Session);
            found.leaves_state = true;
        }
        "fetch" | "move" => {
            found.summary.op(&op);
            found.kind(Kind::Session);
            // The cursor's query is not part of the text.
            (found.volatile, found.opaque, found.everything) = (true, true, true);
        }
        "close" => {
            found.summary.op(&op);
            found.kind(Kind::Session);
        }
        "show" => {
            found.summary.op(&op);
            found.session = true;
        }
        "notify" => {
            found.summary.op(&op);
            found.kind(Kind::Write);
            found.volatile = true;
        }
        "vacuum" | "analyze" | "analyse" | "cluster" | "reindex" | "checkpoint" | "comment" => {
            found.summary.op(&op);
            found.kind(Kind::Ddl);
        }
        "grant" | "revoke" | "reassign" | "import" | "security" => {
            found.summary.op(&op);
            found.kind(Kind::Ddl);
            found.everything = true;
        }
        "do" | "call" | "execute" => {
            found.summary.op(&op);
            found.unknown();
        }
        // The first word of something unknown may be anything, a password too.
        _ => {
            found.summary.op("OTHER");
            found.unknown();
        }
    }
}

/// A query, or a statement that changes rows.
pub(super) fn rows(found: &mut Found, tokens: Tokens<'_>) {
    let sql = tokens.sql;
    found.time |= tokens
        .rest
        .iter()
        .any(|token| token.kind == lex::Kind::Text && names_a_moment(token.text(sql)));
    match ease(sql, tokens.rest).and_then(|text| parse(&text)) {
        Some(statement) => {
            if tokens.at("values") {
                found.summary.op("VALUES");
            }
            Walk::new(found).statement(&statement);
        }
        None => {
            let op = tokens.rest.first().filter(|token| token.is_any(sql, QUERY));
            found
                .summary
                .op(&op.map_or("OTHER".to_owned(), |token| token.text(sql).to_ascii_uppercase()));
            found.unknown();
        }
    }
}

/// Parses one statement. sqlparser's own entry point would write the text to the log.
fn parse(text: &str) -> Option<Statement> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text)
        .tokenize_with_location()
        .ok()?;
    let mut parser = Parser::new(&PostgreSqlDialect {})
        .with_recursion_limit(RECURSION)
        .with_tokens_with_locations(tokens);
    let mut statements = parser.parse_statements().ok()?;
    if statements.len() == 1 { statements.pop() } else { None }
}

/// `EXPLAIN` reads the plan; with `ANALYZE` it runs the statement.
fn explain(found: &mut Found, mut tokens: Tokens<'_>) {
    found.summary.op("EXPLAIN");
    let mut analyze = false;
    if tokens.at_mark(b'(') && tokens.rest.get(1).is_some_and(|token| !token.is_any(tokens.sql, QUERY)) {
        let mut options = tokens;
        tokens.skip_parens();
        options.rest = &options.rest[..options.rest.len() - tokens.rest.len()];
        if let Some(mut option) = options
            .rest
            .iter()
            .position(|t| t.is_any(options.sql, &["analyze", "analyse"]))
        {
            option += 1;
            let off = |token: &Token| {
                matches!(
                    token.text(options.sql).trim_matches('\'').to_ascii_lowercase().as_str(),
                    "false" | "off" | "0"
                )
            };
            analyze = !options.rest.get(option).is_some_and(off);
        }
    } else {
        analyze = tokens.eat_any(&["analyze", "analyse"]);
        tokens.eat("verbose");
    }
    let mut inner = Found::default();
    if let Some(first) = tokens.rest.first().filter(|first| !first.is(tokens.sql, "explain")) {
        one(&mut inner, first.text(tokens.sql), tokens);
    } else {
        inner.unknown();
    }
    if !analyze && inner.kind != Kind::Unknown {
        inner.kind = Kind::Read;
        inner.reads.append(&mut inner.writes);
        (inner.locking, inner.leaves_state, inner.leaves_open) = (false, false, false);
    }
    // Plans and timings change without any statement.
    inner.volatile = true;
    found.runs(inner);
}

fn copy(found: &mut Found, mut tokens: Tokens<'_>) {
    found.summary.op("COPY");
    if tokens.at_mark(b'(') {
        let mut rest = tokens;
        rest.skip_parens();
        let inner = tokens.rest.len() - rest.rest.len();
        let Some(query) = tokens.rest.get(1..inner.saturating_sub(1)) else {
            return found.unknown();
        };
        rows(
            found,
            Tokens {
                sql: tokens.sql,
                rest: query,
            },
        );
        found.volatile |= !rest.has("stdout");
        return;
    }
    tokens.eat("binary");
    let Some(table) = tokens.table() else {
        return found.unknown();
    };
    tokens.skip_parens();
    if tokens.eat("from") {
        found.kind(Kind::Write);
        found.write(table);
        // A column list hides nothing, but the expressions of COPY … WHERE are not looked at.
        found.opaque |= tokens.has("where");
    } else if tokens.eat("to") {
        found.read(table);
        // A file or a program on the server is an effect that lasts.
        found.volatile |= !tokens.at("stdout");
    } else {
        found.unknown();
    }
}

fn set(found: &mut Found, mut tokens: Tokens<'_>) {
    found.summary.op("SET");
    found.kind(Kind::Session);
    // `SET TRANSACTION`, `SET CONSTRAINTS` and `SET LOCAL` end with the transaction.
    found.leaves_state |= !tokens.eat_any(&["transaction", "constraints", "local"]);
}

fn lock(found: &mut Found, mut tokens: Tokens<'_>) {
    found.summary.op("LOCK");
    found.locking = true;
    tokens.eat("table");
    match tokens.tables() {
        Some(tables) => tables.into_iter().for_each(|table| found.read(table)),
        None => found.unknown(),
    }
}

fn declare(found: &mut Found, tokens: Tokens<'_>) {
    found.kind(Kind::Session);
    found.summary.op("DECLARE");
    let Some(mut query) = tokens.find(|here| here.at("for")) else {
        return found.unknown();
    };
    let head = Tokens {
        sql: tokens.sql,
        rest: &tokens.rest[..tokens.rest.len() - query.rest.len()],
    };
    found.leaves_state |= head.has("hold") && !head.has("without");
    query.skip(1);
    rows(found, query);
}
