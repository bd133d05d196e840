//! Statements that define, change and empty tables.

use super::{StatementKind as Kind, classify::rows, ease::QUERY, found::Found, tokens::Tokens};

pub(super) fn truncate(found: &mut Found, mut tokens: Tokens<'_>) {
    found.summary.op("TRUNCATE");
    found.kind(Kind::Write);
    tokens.eat("table");
    write_all(found, &mut tokens);
    found.everything |= tokens.has("cascade");
}

pub(super) fn refresh(found: &mut Found, mut tokens: Tokens<'_>) {
    found.summary.op("REFRESH");
    found.kind(Kind::Write);
    tokens.eat("materialized");
    tokens.eat("view");
    tokens.eat("concurrently");
    // The view's query is not part of the text.
    found.opaque = true;
    write_all(found, &mut tokens);
}

pub(super) fn create(found: &mut Found, mut tokens: Tokens<'_>) {
    if tokens.eat("or") {
        tokens.eat("replace");
    }
    tokens.eat_any(&["global", "local"]);
    let temporary = tokens.eat_any(&["temp", "temporary"]);
    tokens.eat_any(&["unlogged", "foreign", "recursive", "unique"]);
    let stored = tokens.eat("materialized");
    let sort = sort(&tokens);
    found.summary.op(&format!("CREATE {}", sort.to_ascii_uppercase()));
    tokens.skip(1);
    match sort {
        "table" | "view" | "sequence" => {
            tokens.eat_if_exists();
            let Some(table) = tokens.table() else {
                return found.unknown();
            };
            let temporary = temporary || table.schema.as_deref() == Some("pg_temp");
            let dropped = tokens.find(|here| here.at("commit") && here.second("drop"));
            found.kind(if temporary { Kind::Session } else { Kind::Ddl });
            found.leaves_state |= temporary && dropped.is_none();
            found.write(table);
            if sort == "table" || stored {
                created_as(found, tokens);
            }
        }
        "index" => match tokens.find(|here| here.at("on")) {
            Some(mut table) => {
                found.kind(Kind::Ddl);
                table.skip(1);
                write_one(found, &mut table);
            }
            None => found.unknown(),
        },
        _ => {
            found.kind(Kind::Ddl);
            found.everything = true;
        }
    }
}

/// `CREATE TABLE … AS` runs its query.
fn created_as(found: &mut Found, tokens: Tokens<'_>) {
    let Some(mut query) = tokens.find(|here| here.at("as")) else {
        return;
    };
    query.skip(1);
    if let [rest @ .., with, data] = query.rest
        && data.is(query.sql, "data")
    {
        let no = with.is(query.sql, "no");
        query.rest = if no {
            &rest[..rest.len().saturating_sub(1)]
        } else {
            rest
        };
    }
    if query.at_mark(b'(') || query.at_any(QUERY) {
        rows(found, query);
    } else {
        found.unknown();
    }
}

pub(super) fn alter(found: &mut Found, mut tokens: Tokens<'_>) {
    tokens.eat("foreign");
    let sort = sort(&tokens);
    found.summary.op(&format!("ALTER {}", sort.to_ascii_uppercase()));
    found.kind(Kind::Ddl);
    tokens.skip(1);
    if sort != "table" || tokens.at("all") {
        found.everything = true;
        return;
    }
    tokens.eat_if_exists();
    write_one(found, &mut tokens);
    // These change what another name means, or which rows another table shows.
    let others = [
        "rename", "schema", "attach", "detach", "inherit", "cascade", "trigger", "rule", "policy", "security",
    ];
    found.everything |= others.iter().any(|word| tokens.has(word));
}

pub(super) fn drop(found: &mut Found, mut tokens: Tokens<'_>) {
    tokens.eat_any(&["foreign", "materialized"]);
    let sort = sort(&tokens);
    found.summary.op(&format!("DROP {}", sort.to_ascii_uppercase()));
    found.kind(Kind::Ddl);
    tokens.skip(1);
    tokens.eat("concurrently");
    tokens.eat_if_exists();
    match sort {
        "table" | "view" | "sequence" => write_all(found, &mut tokens),
        "index" => {}
        _ => found.everything = true,
    }
    found.everything |= tokens.has("cascade");
}

/// What is defined; `other` keeps names out of the summary that are no keywords.
fn sort(tokens: &Tokens<'_>) -> &'static str {
    const SORTS: &[&str] = &[
        "table",
        "view",
        "sequence",
        "index",
        "schema",
        "function",
        "procedure",
        "trigger",
        "type",
        "domain",
        "role",
        "user",
        "database",
        "extension",
        "policy",
        "rule",
        "aggregate",
        "server",
        "publication",
        "subscription",
        "statistics",
        "collation",
        "cast",
        "operator",
        "system",
        "tablespace",
        "event",
        "language",
        "owned",
    ];
    SORTS.iter().copied().find(|sort| tokens.at(sort)).unwrap_or("other")
}

fn write_one(found: &mut Found, tokens: &mut Tokens<'_>) {
    match tokens.table() {
        Some(table) => found.write(table),
        None => found.unknown(),
    }
}

fn write_all(found: &mut Found, tokens: &mut Tokens<'_>) {
    match tokens.tables() {
        Some(tables) => tables.into_iter().for_each(|table| found.write(table)),
        None => found.unknown(),
    }
}
