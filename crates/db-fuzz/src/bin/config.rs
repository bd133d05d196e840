//! Settings from files and URLs: understood or refused, and a password is in no error and no `Debug`.
#![cfg_attr(fuzzing, no_main)]

use db_stack::DbConfig;

const PASSWORD: &str = "hunter2-not-to-be-seen";

db_fuzz::target!(|text: &str| {
    let _ = DbConfig::from_toml_str(text).map(|config| config.validate());
    let url = format!("postgres://someone:{PASSWORD}{text}");
    let told = match DbConfig::from_url(&url) {
        Ok(config) => format!("{config:?} {:?}", config.validate()),
        Err(error) => format!("{error:?} {error}"),
    };
    assert!(!told.contains(PASSWORD), "{told}");
});
