//! What every member's `Cargo.toml` takes from the workspace.

use toml::{Table, Value};

const INHERITED: [&str; 4] = ["edition", "rust-version", "license", "publish"];

/// What is wrong with the manifest of one member.
pub(crate) fn findings(text: &str) -> Vec<String> {
    let manifest: Table = match text.parse() {
        Ok(manifest) => manifest,
        Err(error) => return vec![format!("not readable: {error}")],
    };
    let package = manifest.get("package").and_then(Value::as_table);
    let mut found: Vec<_> = INHERITED
        .iter()
        .filter(|key| !from_workspace(package.and_then(|package| package.get(**key))))
        .map(|key| format!("{key} must be inherited ({key}.workspace = true)"))
        .collect();
    if !from_workspace(manifest.get("lints")) {
        found.push("lints must be inherited ([lints] workspace = true)".to_owned());
    }
    found
}

fn from_workspace(value: Option<&Value>) -> bool {
    value.and_then(|value| value.get("workspace")).and_then(Value::as_bool) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::findings;

    const GOOD: &str = "
        [package]
        name = \"db-x\"
        edition.workspace = true
        rust-version = { workspace = true }
        license.workspace = true
        publish.workspace = true
        [lints]
        workspace = true";

    #[test]
    fn both_spellings_of_inheritance_count() {
        assert!(findings(GOOD).is_empty());
    }

    #[test]
    fn what_is_not_inherited_is_named() {
        assert_eq!(findings("[package]\nname = \"x\"").len(), 5);
        assert_eq!(
            findings(&GOOD.replace("publish.workspace = true", "publish = true")).len(),
            1
        );
        assert_eq!(
            findings(&GOOD.replace("[lints]\n        workspace = true", "")).len(),
            1
        );
        assert_eq!(findings("not toml").len(), 1);
    }
}
