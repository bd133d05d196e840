//! Where the PostgreSQL programs are.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::error::StartError;

/// A folder that holds at least `postgres` and `initdb`.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// Looks at the given folder only, else at `DB_STACK_PG_BIN` only, else at all usual places.
    ///
    /// A folder that was named explicitly and is wrong is an error: quietly taking another server would test the wrong one.
    pub(crate) fn find(explicit: Option<&Path>) -> Result<Self, StartError> {
        let named = explicit.map(|dir| ("bin_dir".to_owned(), dir.to_owned())).or_else(|| {
            let dir = env::var_os("DB_STACK_PG_BIN").filter(|dir| !dir.is_empty())?;
            Some(("DB_STACK_PG_BIN".to_owned(), PathBuf::from(dir)))
        });
        let candidates = match named {
            Some(named) => vec![named],
            None => usual_places(),
        };
        let mut looked = Vec::with_capacity(candidates.len());
        for (why, dir) in candidates {
            match lacking(&dir) {
                None => return Ok(Self { dir }),
                Some(lacking) => looked.push(format!("{} ({why}): no {lacking}", dir.display())),
            }
        }
        Err(StartError::NoBinaries { looked })
    }

    /// The path of a program, or an error when this installation lacks it.
    pub(crate) fn tool(&self, tool: &'static str) -> Result<PathBuf, StartError> {
        let path = self.dir.join(tool);
        if path.is_file() {
            Ok(path)
        } else {
            Err(StartError::MissingTool {
                tool,
                bin_dir: self.dir.clone(),
            })
        }
    }
}

fn lacking(dir: &Path) -> Option<&'static str> {
    ["postgres", "initdb"]
        .into_iter()
        .find(|tool| !dir.join(tool).is_file())
}

fn usual_places() -> Vec<(String, PathBuf)> {
    let mut places = Vec::new();
    let path = env::var_os("PATH").unwrap_or_default();
    for dir in env::split_paths(&path) {
        let postgres = dir.join("postgres");
        if !postgres.is_file() {
            continue;
        }
        // A link into the real folder: its siblings are there, not beside the link.
        let real = fs::canonicalize(&postgres).unwrap_or(postgres);
        if let Some(dir) = real.parent() {
            places.push(("PATH".to_owned(), dir.to_owned()));
        }
    }
    if places.is_empty() {
        places.push(("PATH".to_owned(), PathBuf::from("$PATH")));
    }
    places.push((
        "pg_config --bindir".to_owned(),
        pg_config().unwrap_or_else(|| "pg_config".into()),
    ));
    for (folder, starts_with, below) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr/libexec", "postgresql", ""),
        ("/usr", "pgsql-", "bin"),
        ("/opt/homebrew/opt", "postgresql", "bin"),
        ("/usr/local/opt", "postgresql", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ] {
        let found = newest_first(Path::new(folder), starts_with);
        if found.is_empty() {
            places.push((
                "usual".to_owned(),
                Path::new(folder).join(format!("{starts_with}*")).join(below),
            ));
        }
        places.extend(found.into_iter().map(|dir| ("usual".to_owned(), dir.join(below))));
    }
    places.extend(["/usr/bin", "/usr/local/bin"].map(|dir| ("usual".to_owned(), PathBuf::from(dir))));
    places
}

fn pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config")
        .arg("--bindir")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let dir = String::from_utf8(output.stdout).ok()?;
    let dir = dir.trim();
    (!dir.is_empty()).then(|| PathBuf::from(dir))
}

fn newest_first(folder: &Path, starts_with: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let rest = name.strip_prefix(starts_with)?;
            Some((version_in(rest), entry.path()))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, dir)| dir).collect()
}

/// The first number in a folder name: 9 sorts below 15, unlike the text.
fn version_in(name: &str) -> u32 {
    let digits: String = name
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_by_number_not_by_text() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["9.6", "15", "18", "other"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let names: Vec<_> = newest_first(dir.path(), "")
            .into_iter()
            .map(|dir| dir.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["18", "15", "9.6", "other"]);
    }

    #[test]
    fn a_wrong_explicit_folder_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let error = Binaries::find(Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
        assert!(error.contains("no postgres"), "{error}");
        assert!(error.contains("DB_STACK_PG_BIN"), "{error}");
    }
}
