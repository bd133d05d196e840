//! Settings as a tree of sections, and their dotted names.

use std::collections::BTreeMap;

use figment::value::{Dict, Empty, Value};
use serde::Serialize;

/// The table whose names may hold dots.
pub(super) const FREE: &str = "session.extra";

/// The keys that hold tables whose names the user chooses.
const TABLES: [&str; 3] = [FREE, "timeout.custom", "leak.custom"];

/// The table of free names that this name is in.
pub(super) fn table_of(name: &str) -> Option<&'static str> {
    let within = |table: &&str| name.strip_prefix(*table).is_some_and(|rest| rest.starts_with('.'));
    TABLES.into_iter().find(within)
}

/// Puts `value` at a dotted name; the names under [`FREE`] have dots of their own.
pub(super) fn insert(tree: &mut Dict, name: &str, value: Value) {
    match name.strip_prefix(FREE).and_then(|rest| rest.strip_prefix('.')) {
        Some(free) => insert_at(tree, &mut FREE.split('.').chain([free]), value),
        None => insert_at(tree, &mut name.split('.'), value),
    }
}

fn insert_at(tree: &mut Dict, path: &mut dyn Iterator<Item = &str>, value: Value) {
    let Some(first) = path.next() else { return };
    let path: Vec<&str> = path.collect();
    if path.is_empty() {
        tree.insert(first.to_owned(), value);
        return;
    }
    let section = tree.entry(first.to_owned()).or_insert_with(|| Dict::new().into());
    if !matches!(section, Value::Dict(..)) {
        *section = Dict::new().into();
    }
    if let Value::Dict(_, section) = section {
        insert_at(section, &mut path.into_iter(), value);
    }
}

/// Every dotted name with its value; of tables only the empty ones.
pub(super) fn leaves(tree: &Dict) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    collect(tree, "", &mut found);
    found
}

fn collect(tree: &Dict, section: &str, found: &mut Vec<(String, Value)>) {
    for (key, value) in tree {
        let name = if section.is_empty() {
            key.clone()
        } else {
            format!("{section}.{key}")
        };
        match value {
            Value::Dict(_, inner) if !inner.is_empty() => collect(inner, &name, found),
            leaf => found.push((name, leaf.clone())),
        }
    }
}

/// What a reader of a message or table sees.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(_, text) => text.escape_debug().to_string(),
        Value::Char(_, char) => char.escape_debug().to_string(),
        Value::Bool(_, bool) => bool.to_string(),
        Value::Num(_, num) => {
            let whole = num.to_i128().map(|whole| whole.to_string());
            let natural = || num.to_u128().map(|natural| natural.to_string());
            // `Debug` keeps the `.0` that tells a number with a fraction from a count.
            let fraction = || num.to_f64().map(|fraction| format!("{fraction:?}"));
            whole.or_else(natural).or_else(fraction).unwrap_or_default()
        }
        Value::Empty(_, Empty::None | Empty::Unit) => String::new(),
        Value::Dict(_, inner) if inner.is_empty() => String::new(),
        Value::Dict(..) => "a table".to_owned(),
        Value::Array(..) => "a list".to_owned(),
    }
}

/// Every key of `settings` with its text.
pub(super) fn texts(settings: &impl Serialize) -> BTreeMap<String, String> {
    // Plain data under text keys always serialises.
    let tree = Value::serialize(settings)
        .ok()
        .and_then(Value::into_dict)
        .unwrap_or_default();
    leaves(&tree)
        .into_iter()
        .map(|(name, value)| (name, text(&value)))
        .collect()
}
