//! The reference of all keys, as data and as a page.

use std::fmt::{self, Write as _};

use super::{DbConfig, KEYS, REPORT_NAMES, tree};

/// What kind of value a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Text.
    Text,
    /// Text that is never shown.
    Secret,
    /// A URL, shown without its password.
    Url,
    /// A whole number.
    Integer,
    /// A number, a fraction allowed.
    Number,
    /// URLs, as a list or one text with commas; shown without their passwords.
    Urls,
    /// Text with a unit, `500ms`.
    Duration,
    /// The same, or `off`.
    DurationOrOff,
    /// `off`, `observe` or `enforce`.
    Mode,
    /// True or false.
    Flag,
    /// One of some words.
    Word,
    /// A table of names and texts.
    Table,
}

impl Kind {
    /// Whether the value must not be shown.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Url | Self::Urls)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Secret => "secret text",
            Self::Url => "URL",
            Self::Urls => "URLs",
            Self::Integer => "whole number",
            Self::Number => "number",
            Self::Duration => "duration",
            Self::DurationOrOff => "duration or off",
            Self::Mode => "mode",
            Self::Flag => "true or false",
            Self::Word => "word",
            Self::Table => "table",
        })
    }
}

/// What there is to know about one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyDoc {
    /// The dotted name.
    pub name: &'static str,
    /// What kind of value it takes.
    pub kind: Kind,
    /// The default as text; empty for none.
    pub default: &'static str,
    /// What is allowed.
    pub allowed: &'static str,
    /// What it does.
    pub doc: &'static str,
}

impl KeyDoc {
    pub(super) const fn new(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        allowed: &'static str,
        doc: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            default,
            allowed,
            doc,
        }
    }

    /// The environment variable, with the default prefix.
    pub fn env(&self) -> String {
        format!(
            "{}{}",
            DbConfig::ENV_PREFIX,
            self.name.replace('.', "__").to_uppercase()
        )
    }

    /// The section that the key is in.
    pub fn section(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(section, _)| section)
    }

    pub(super) fn name_in_section(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, name)| name)
    }
}

/// The key with this name; a name under the table of free names is that table's.
pub(super) fn find(name: &str) -> Option<&'static KeyDoc> {
    let name = tree::table_of(name).unwrap_or(name);
    KEYS.iter().find(|key| key.name == name)
}

/// The configuration reference, in Markdown: `docs/configuration.md` is this text.
pub fn render_reference() -> String {
    let mut page = String::from(INTRODUCTION);
    let mut section = "";
    for key in KEYS {
        if key.section() != section {
            section = key.section();
            let layer = if super::BUILT.contains(&section) {
                ""
            } else {
                " (not active yet: its layer is not built)"
            };
            // Writing to a String can't fail.
            let _ = write!(page, "\n## `[{section}]`{layer}\n\n{COLUMNS}");
        }
        let default = if key.default.is_empty() {
            "none".to_owned()
        } else {
            format!("`{}`", key.default)
        };
        let _ = writeln!(
            page,
            "| `{}` | {} | {default} | {} | {} |",
            key.name_in_section(),
            key.kind,
            key.allowed,
            key.doc
        );
    }
    page.push_str(REPORT);
    for (report, name) in REPORT_NAMES {
        let _ = writeln!(page, "| `{report}` | `{name}` |");
    }
    page
}

const COLUMNS: &str = "| key | kind | default | allowed | what it does |\n|---|---|---|---|---|\n";

const INTRODUCTION: &str = r#"# Configuration

Generated from `crates/db-stack/src/config/keys.rs`; rewrite it with `UPDATE_DOCS=1 cargo test -p db-stack --test config`.

```rust
let config = DbConfig::load()
    .optional_file("/etc/app/db.toml")
    .env(DbConfig::ENV_PREFIX) // DB_STACK_
    .with("pool.max_connections", 20)
    .build()?;
```

* A later source wins: file, environment, overrides, in the order in which they were added.
* The variable of `pool.max_connections` is `DB_STACK_POOL__MAX_CONNECTIONS`: prefix, section, two underscores, key.
* `DATABASE_URL` is taken for `connection.url` when no source sets `url`, `host`, `port`, `database` or `user`.
* A duration is text with a unit: `500ms`, `5s`, `2m 10s`. A bare number is an error.
* A mode is `off`, `observe` (counts what it would have done and touches nothing) or `enforce`.
* An unknown key is an error that names the nearest known one. All errors are reported at once, each with its key,
  value, source and what is allowed. Passwords are never shown.
* Unless `ssl_mode` is stated (key, `sslmode` in the URL, `PGSSLMODE`), a server on another machine gets
  `verify-full`; on this machine (loopback, unix socket) libpq's `prefer` stays.
* Of session settings, a key that differs from its default wins over `options` in the URL and `PGOPTIONS`, and these
  win over a default. The same holds for `application_name` and `statement-cache-capacity` in the URL.
"#;

const REPORT: &str = "
## Names of the report

The names of the database report's Appendix A, for those who come from there.

| report | here |
|---|---|
";
