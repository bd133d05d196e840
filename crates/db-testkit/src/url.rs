//! Connection URLs as text that both sqlx and libpq read.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

/// The same URL with another database.
pub(crate) fn with_database(url: &str, database: &str) -> String {
    let (url, query) = match url.split_once('?') {
        Some((url, query)) => (url, Some(query)),
        None => (url, None),
    };
    let authority = url.find("://").map_or(0, |at| at + 3);
    let end = url[authority..].find('/').map_or(url.len(), |at| authority + at);
    let mut out = format!("{}/{}", &url[..end], encoded(database));
    if let Some(query) = query {
        out.push('?');
        out.push_str(query);
    }
    out
}

/// The same URL with another host and port.
pub(crate) fn with_address(url: &str, addr: SocketAddr) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
    let user = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
    format!("{}{addr}{}", &url[..user], &url[end..])
}

/// A URL for TCP.
pub(crate) fn tcp(host: &str, port: u16, password: Option<&str>, database: &str) -> String {
    let password = password
        .map(|password| format!(":{}", encoded(password)))
        .unwrap_or_default();
    format!("postgres://postgres{password}@{host}:{port}/{}", encoded(database))
}

/// A URL for the Unix socket in `dir`.
pub(crate) fn socket(dir: &Path, port: u16, database: &str) -> String {
    let dir = encoded(&dir.to_string_lossy());
    format!("postgres:///{}?host={dir}&port={port}&user=postgres", encoded(database))
}

/// Percent-encodes all but the unreserved characters.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_replaced_and_the_rest_kept() {
        let cases = [
            ("postgres://u:p@h:1/a", "postgres://u:p@h:1/b"),
            ("postgres://u:p@h:1", "postgres://u:p@h:1/b"),
            ("postgres://h/a?sslmode=disable", "postgres://h/b?sslmode=disable"),
            (
                "postgres:///a?host=%2Ftmp%2Fx&port=5",
                "postgres:///b?host=%2Ftmp%2Fx&port=5",
            ),
            ("postgres://h?user=x", "postgres://h/b?user=x"),
        ];
        for (before, after) in cases {
            assert_eq!(with_database(before, "b"), after);
        }
        let addr = SocketAddr::from(([127, 0, 0, 1], 9));
        assert_eq!(
            with_address("postgres://u:p@h:1/a?x=y", addr),
            "postgres://u:p@127.0.0.1:9/a?x=y"
        );
        assert_eq!(with_address("postgres://h", addr), "postgres://127.0.0.1:9");
        assert_eq!(
            tcp("h", 1, Some("p@/%"), "a b"),
            "postgres://postgres:p%40%2F%25@h:1/a%20b"
        );
    }
}
