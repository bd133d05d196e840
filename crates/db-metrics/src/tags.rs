//! Comments behind each statement that tell the server who asks, in the way of sqlcommenter.
//!
//! Only what is the same for every call: a prepared statement is found by its text, so that a comment with a trace's
//! number would prepare every call anew and fill the server with statements that nobody asks for again.

use quick_cache::sync::Cache;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use std::{
    fmt::{self, Write},
    sync::Arc,
};

/// Texts whose tagged form is remembered.
const TEXTS: usize = 4096;
/// Longer texts are sent as they are: they are migrations and dumps.
const LONGEST: usize = 16 * 1024;
/// Tags of one comment.
const MOST: usize = 8;
/// Bytes of a tag's value.
const VALUE: usize = 100;

/// What is allowed in the setting.
pub(crate) const ALLOWED: &str = "at most 8 of `name=value`, with commas in between; names of a-z, 0-9 and _";

/// The comment for `name=value` pairs; `None` where they can't be used, empty for none.
pub(crate) fn comment(tags: &str) -> Option<String> {
    let tags: Vec<_> = tags.split(',').map(str::trim).filter(|tag| !tag.is_empty()).collect();
    let mut pairs = Vec::new();
    for tag in tags {
        let (name, value) = tag.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if name.is_empty() || !name.bytes().all(plain) || value.is_empty() || value.len() > VALUE {
            return None;
        }
        pairs.push((name, value));
    }
    pairs.sort_unstable();
    if pairs.len() > MOST || pairs.windows(2).any(|two| two[0].0 == two[1].0) {
        return None;
    }
    let mut out = String::new();
    for (name, value) in pairs {
        out.push_str(if out.is_empty() { " /*" } else { "," });
        out.push_str(name);
        out.push_str("='");
        // Encoded, so that nothing in it ends the comment.
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                write!(out, "%{byte:02X}").ok()?;
            }
        }
        out.push('\'');
    }
    if !out.is_empty() {
        out.push_str("*/");
    }
    Some(out)
}

/// Puts one comment behind texts.
pub struct Tags {
    comment: String,
    texts: Cache<Box<str>, Arc<str>>,
}

impl Tags {
    /// For `name=value` pairs with commas in between; `None` for none, or when they can't be used.
    pub fn new(tags: &str) -> Option<Self> {
        let comment = comment(tags).filter(|comment| !comment.is_empty())?;
        Some(Self {
            comment,
            texts: Cache::new(TEXTS),
        })
    }

    /// The text with the comment; `None` for one that has a comment already, or is too long.
    pub fn on(&self, sql: &str) -> Option<SqlStr> {
        let text = match self.texts.get(sql) {
            Some(text) => text,
            None if sql.len() > LONGEST || sql.contains("/*") || sql.contains("--") => return None,
            None => {
                let text: Arc<str> = format!("{}{}", sql.trim_end(), self.comment).into();
                self.texts.insert(sql.into(), text.clone());
                text
            }
        };
        // The caller's own text, and a comment that nothing can leave.
        Some(AssertSqlSafe(text).into_sql_str())
    }
}

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tags")
            .field("comment", &self.comment)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_sorted_encoded_and_can_not_leave_their_comment() {
        assert_eq!(
            comment("route=/orders/{id}, app=it's */ DROP").as_deref(),
            Some(" /*app='it%27s%20%2A%2F%20DROP',route='%2Forders%2F%7Bid%7D'*/")
        );
        assert_eq!(comment(" ").as_deref(), Some(""));
        for bad in [
            "app",
            "=x",
            "App=x",
            "app=",
            "a=1,a=2",
            "a=1,b=2,c=3,d=4,e=5,f=6,g=7,h=8,i=9",
        ] {
            assert_eq!(comment(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_same_text_is_tagged_alike_and_one_with_a_comment_not_at_all() {
        let tags = Tags::new("app=orders").unwrap();
        let on = |sql| tags.on(sql).map(|text| text.as_str().to_owned());
        let tagged = Some("SELECT 1 /*app='orders'*/".to_owned());
        assert_eq!([on("SELECT 1"), on("SELECT 1\n")], [tagged.clone(), tagged]);
        assert_eq!([on("SELECT 1 /* mine */"), on("SELECT 1 -- mine")], [None, None]);
        assert!(Tags::new("").is_none());
    }
}
