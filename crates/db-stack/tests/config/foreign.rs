//! Settings that somebody mistyped, cut off or made up: an error, never a panic, and never the password.

use db_stack::config::DbConfig;

const SECRET: &str = "kanarienvogel";
const BEFORE: &str = "[connection]\nhost = \"localhost\"\nport = 5432\nuser = \"app\"\n";
const AFTER: &str = "\n[pool]\nmax_connections = 20\nacquire_timeout = \"2s\"\n[timeout]\nmode = \"observe\"\n\
     [replica]\nurls = [\"postgres://db-2\", \"postgres://db-3\"]\n[tenants]\npattern = \"[a-z]+\"\n";

/// A text with a few of its characters taken away, doubled or replaced.
fn spoilt(text: &str, dice: &mut fastrand::Rng) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..dice.usize(1..6) {
        if chars.len() < 2 {
            break;
        }
        let at = dice.usize(0..chars.len());
        match dice.u8(0..4) {
            0 => drop(chars.remove(at)),
            1 => chars.insert(at, chars[at]),
            2 => chars[at] = dice.char('\0'..='\u{ff}'),
            _ => chars.truncate(at.max(1)),
        }
    }
    chars.into_iter().collect()
}

#[test]
fn spoilt_texts_are_errors_without_the_password() {
    let (mut refused, mut read) = (0, 0);
    for seed in 0..3_000 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let (mut before, mut after) = (BEFORE.to_owned(), AFTER.to_owned());
        if dice.bool() {
            before = spoilt(BEFORE, &mut dice);
            before.push('\n');
        } else {
            after = format!("\n{}", spoilt(AFTER, &mut dice));
        }
        let text = format!("{before}password = \"{SECRET}\"{after}");
        match DbConfig::from_toml_str(&text) {
            Ok(config) => {
                read += 1;
                assert!(!format!("{config:?}").contains(SECRET), "seed {seed}");
            }
            Err(error) => {
                refused += 1;
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains(SECRET), "seed {seed}:\n{text}\n{shown}");
            }
        }
    }
    assert!(refused > 500 && read > 50, "{refused} {read}");
}

#[test]
fn spoilt_urls_and_values_are_errors_or_settings() {
    let url =
        "postgres://app:secret@db.example:5432/orders?sslmode=require&application_name=shop&options=-c%20geqo%3Doff";
    for seed in 0..3_000 {
        let mut dice = fastrand::Rng::with_seed(seed);
        // What matters is that it returns.
        let _ = DbConfig::from_url(&spoilt(url, &mut dice)).map(|config| config.connect_options().is_ok());
        let variables = [
            ("DB_STACK_CONNECTION__URL", spoilt(url, &mut dice)),
            ("DB_STACK_POOL__ACQUIRE_TIMEOUT", spoilt("1m 10s", &mut dice)),
            ("DB_STACK_RETRY__JITTER", spoilt("0.25", &mut dice)),
            ("DB_STACK_SESSION__EXTRA__WORK_MEM", spoilt("64MB", &mut dice)),
        ];
        let _ = DbConfig::load().env_from("DB_STACK_", variables).build();
    }
}
