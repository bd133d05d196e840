//! Which tests apply behind a transaction pooler: all of facade and pool but those of `xtask/through-pgbouncer.txt`, each of
//! which is there under its reason.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context, Result, ensure};

const LIST: &str = include_str!("../through-pgbouncer.txt");
/// Tells the run behind the pooler which of them it is.
pub(crate) const KIND: &str = "DB_STACK_PG_POOLER_KIND";

/// What a PgBouncer does with prepared statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Follows them by name: 1.21 and newer.
    Named,
    /// Does not know them.
    Unnamed,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Unnamed => "unnamed",
        }
    }

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        [Self::Named, Self::Unnamed]
            .into_iter()
            .find(|kind| kind.name() == name)
    }

    /// By what the program says of its version.
    pub(crate) fn of_program(program: &std::ffi::OsStr) -> Result<Self> {
        let output = Command::new(program).arg("--version").output();
        let output = output.with_context(|| format!("cannot run {}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Self::of_version(&text).with_context(|| format!("{} does not say its version", program.display()))
    }

    fn of_version(text: &str) -> Option<Self> {
        let number = text
            .split_whitespace()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        let mut parts = number.split('.').map_while(|part| part.parse::<u32>().ok());
        Some(match (parts.next()?, parts.next()?) {
            (major, minor) if (major, minor) >= (1, 21) => Self::Named,
            _ => Self::Unnamed,
        })
    }
}

/// A test that does not apply.
#[derive(Debug, PartialEq, Eq)]
struct Left<'a> {
    /// `None`: behind neither.
    kind: Option<Kind>,
    /// `db-pool::close`
    binary: &'a str,
    test: &'a str,
    because: &'a str,
}

fn list(text: &str) -> Result<Vec<Left<'_>>> {
    let (mut all, mut because) = (Vec::new(), "");
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(reason) = line.strip_prefix("because ") {
            because = reason;
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(kind), Some(binary), Some(test), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            anyhow::bail!("not a test: {line}");
        };
        ensure!(!because.is_empty(), "no reason: {line}");
        let kind = match kind {
            "both" => None,
            one => Some(Kind::of_name(one).with_context(|| format!("both, named or unnamed: {line}"))?),
        };
        all.push(Left {
            kind,
            binary,
            test,
            because,
        });
    }
    Ok(all)
}

/// The tests that apply, as nextest's filters say it.
pub(crate) fn filter(kind: Kind) -> Result<String> {
    let mut filter = "all()".to_owned();
    for left in list(LIST)? {
        if left.kind.is_none_or(|only| only == kind) {
            // `*`: all of the binary.
            let test = if left.test == "*" {
                String::new()
            } else {
                format!(" & test(={})", left.test)
            };
            let _ = write!(filter, " - (binary_id({}){test})", left.binary);
        }
    }
    Ok(filter)
}

/// How many are left out, by reason.
pub(crate) fn summary(kind: Kind) -> Result<String> {
    let mut reasons: Vec<(&str, usize)> = Vec::new();
    for left in list(LIST)?
        .iter()
        .filter(|left| left.kind.is_none_or(|only| only == kind))
    {
        match reasons.iter_mut().find(|(because, _)| *because == left.because) {
            Some((_, count)) => *count += 1,
            None => reasons.push((left.because, 1)),
        }
    }
    let mut text =
        String::from("left out, since they do not apply behind a transaction pooler (xtask/through-pgbouncer.txt):\n");
    for (because, count) in reasons {
        let _ = writeln!(text, "  {count:3}  {because}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that was renamed would run unseen, one that is gone stay for ever.
    #[test]
    fn the_list_names_tests_that_are_there() {
        for left in list(LIST).unwrap() {
            let (package, binary) = left.binary.split_once("::").expect("package::binary");
            let file = format!("crates/{package}/tests/{binary}.rs");
            let text = std::fs::read_to_string(crate::cargo::root().join(&file)).expect(&file);
            let there = left.test == "*" || text.contains(&format!("fn {}(", left.test));
            assert!(there, "{} of {file} is not there", left.test);
        }
        assert!(filter(Kind::Named).unwrap().len() < filter(Kind::Unnamed).unwrap().len());
        assert!(summary(Kind::Unnamed).unwrap().contains("session"));
    }

    #[test]
    fn versions_and_lines_are_read() {
        assert_eq!(Kind::of_version("PgBouncer 1.18.0\nlibevent 2"), Some(Kind::Unnamed));
        assert_eq!(Kind::of_version("PgBouncer 1.24.1"), Some(Kind::Named));
        assert_eq!(Kind::of_version("nothing"), None);
        let read = list("# a note\nbecause of that\nunnamed a::b one\nboth a::b two\n").unwrap();
        assert_eq!((read[0].kind, read[0].because), (Some(Kind::Unnamed), "of that"));
        assert_eq!((read[1].kind, read[1].binary, read[1].test), (None, "a::b", "two"));
        for wrong in ["both a::b one", "because x\nboth a::b", "because x\nsome a::b one"] {
            assert!(list(wrong).is_err(), "{wrong}");
        }
    }
}
