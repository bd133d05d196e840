//! Reading settings: layers of sources, merged by `figment`, and errors that name key, value and source.

use std::{env, ffi::OsString, fmt, fs, path::Path, time::Duration};

use db_core::config::{Checks, InvalidConfig, InvalidKey, Mode, duration};
use figment::{
    Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};

use super::{
    DatabaseUrl, DbConfig, KEYS, KeyDoc, Kind, REPORT_NAMES, Secret, SslMode,
    near::nearest,
    reference::find,
    secret::MASK,
    tree::{self, FREE},
};

/// Taken for `connection.url` when nothing else says where the server is.
const DATABASE_URL: &str = "DATABASE_URL";
const WHERE: [&str; 5] = [
    "connection.url",
    "connection.host",
    "connection.port",
    "connection.database",
    "connection.user",
];

/// Joins sources into a [`DbConfig`]; the usual order is file, environment, overrides.
///
/// ```no_run
/// use db_stack::config::DbConfig;
///
/// let config = DbConfig::load()
///     .optional_file("/etc/app/db.toml")
///     .env(DbConfig::ENV_PREFIX)
///     .with("pool.max_connections", 20)
///     .build()?;
/// # Ok::<(), db_core::config::InvalidConfig>(())
/// ```
#[must_use]
#[derive(Default)]
pub struct Loader {
    layers: Vec<Layer>,
    database_url: Option<Value>,
    problems: Checks,
}

impl Loader {
    /// A TOML file that must be there.
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        match fs::read_to_string(path) {
            Ok(text) => self.toml(&path.display().to_string(), &text),
            Err(error) => {
                self.problems
                    .require("file", path.display(), false, format!("a readable TOML file ({error})"));
                self
            }
        }
    }

    /// A TOML file that may be missing.
    pub fn optional_file(self, path: impl AsRef<Path>) -> Self {
        if path.as_ref().exists() { self.file(path) } else { self }
    }

    /// A TOML text; `source` names it in errors.
    pub fn toml(mut self, source: &str, text: &str) -> Self {
        match text.parse::<toml::Table>() {
            Ok(table) => {
                let mut tree = Dict::new();
                for (key, value) in table {
                    tree.insert(key, from_toml(value));
                }
                self.layers.push(Layer::new(source, tree));
            }
            Err(error) => {
                // Only the place: the parser's own message quotes the line, with a password in it.
                let line = error
                    .span()
                    .map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
                self.problems
                    .require(source, format!("line {line}"), false, "TOML (the line does not parse)");
            }
        }
        self
    }

    /// The environment: `DB_STACK_POOL__MAX_CONNECTIONS` is `pool.max_connections`, for the prefix `DB_STACK_`.
    ///
    /// Two underscores part section and key. `DATABASE_URL` is taken for `connection.url` when no source says where
    /// the server is. A variable that names no section is not ours and passes.
    pub fn env(self, prefix: &str) -> Self {
        self.env_from(prefix, env::vars_os())
    }

    /// As [`env`](Self::env), with the variables given.
    pub fn env_from<K, V>(mut self, prefix: &str, variables: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        for (variable, value) in variables {
            let Ok(variable) = variable.into().into_string() else {
                continue;
            };
            let value = value.into();
            let ours = variable.strip_prefix(prefix).filter(|rest| is_ours(rest));
            if ours.is_none() && variable != DATABASE_URL {
                continue;
            }
            let Ok(text) = value.into_string() else {
                self.problems.require(&variable, MASK, false, "UTF-8 text");
                continue;
            };
            let Some(name) = ours else {
                self.database_url = Some(text).filter(|url| !url.is_empty()).map(Value::from);
                continue;
            };
            let name = name.to_lowercase().replace("__", ".");
            self.layers.push(Layer::one(&variable, &name, Setting::from(text)));
        }
        self
    }

    /// One key, for example `.with("pool.max_connections", 20)`; text is read as in the environment.
    pub fn with(mut self, key: &str, value: impl Into<Setting>) -> Self {
        self.layers.push(Layer::one("override", key, value.into()));
        self
    }

    /// The settings.
    ///
    /// # Errors
    /// [`InvalidConfig`] names every key that is unknown or can't be used, with its value, its source and what is
    /// allowed; unknown keys and secrets without their value.
    pub fn build(self) -> Result<DbConfig, InvalidConfig> {
        let Self {
            mut layers,
            database_url,
            mut problems,
        } = self;
        let sets = |name: &str| layers.iter().any(|layer| layer.leaves().any(|(key, _)| key == name));
        if let Some(url) = database_url.filter(|_| !WHERE.iter().any(|name| sets(name))) {
            let mut tree = Dict::new();
            tree::insert(&mut tree, "connection.url", url);
            layers.insert(0, Layer::new(DATABASE_URL, tree));
        }
        for layer in &layers {
            for (name, value) in layer.leaves() {
                layer.check(&name, &value, &mut problems);
            }
        }
        problems.finish()?;

        let figment = layers.iter().fold(Figment::new(), Figment::merge);
        let config: DbConfig = figment
            .extract()
            .map_err(|error| InvalidConfig::one(error.path.join("."), MASK, "a value of the key's type"))?;
        let Err(invalid) = config.validate() else {
            return Ok(config);
        };
        let mut named = Checks::default();
        for InvalidKey { key, value, allowed } in invalid.keys() {
            let source = figment.find_metadata(key).map(|source| source.name.to_string());
            let value = source.map_or_else(|| value.clone(), |source| format!("{value} (from {source})"));
            named.require(key, value, false, allowed);
        }
        named.finish().map(|()| config)
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The values may be secrets.
        let sources: Vec<_> = self.layers.iter().map(|layer| &layer.source).collect();
        f.debug_struct("Loader")
            .field("sources", &sources)
            .finish_non_exhaustive()
    }
}

/// The settings of one source.
struct Layer {
    source: String,
    tree: Dict,
}

impl Layer {
    fn new(source: &str, tree: Dict) -> Self {
        let mut typed = Dict::new();
        for (name, value) in tree::leaves(&tree) {
            let empty = value.as_dict().is_some_and(Dict::is_empty);
            if empty && KEYS.iter().any(|key| key.section() == name) {
                continue;
            }
            let value = if is_free(&name) { as_text(value) } else { value };
            tree::insert(&mut typed, &name, value);
        }
        Self {
            source: source.to_owned(),
            tree: typed,
        }
    }

    fn one(source: &str, name: &str, Setting(value): Setting) -> Self {
        let value = match (&value, find(name).map(|key| key.kind)) {
            (Value::String(_, text), Some(kind)) => typed(text, kind).unwrap_or(value),
            _ => value,
        };
        let mut tree = Dict::new();
        tree::insert(&mut tree, name, value);
        Self::new(source, tree)
    }

    fn leaves(&self) -> impl Iterator<Item = (String, Value)> + use<> {
        tree::leaves(&self.tree).into_iter()
    }

    /// Notes a name that nobody knows and a value of the wrong type.
    fn check(&self, name: &str, value: &Value, problems: &mut Checks) {
        let source = &self.source;
        let Some(key) = find(name) else {
            // The value stays hidden: the key may be a misspelt `password`.
            return problems.require(name, format!("{MASK} (from {source})"), false, hint(name));
        };
        let mut alone = Dict::new();
        tree::insert(&mut alone, name, value.clone());
        if Value::from(alone).deserialize::<DbConfig>().is_err() {
            let shown = if key.kind.is_secret() {
                MASK.to_owned()
            } else {
                tree::text(value)
            };
            let allowed = format!("{}, {}", key.kind, key.allowed);
            problems.require(name, format!("{shown} (from {source})"), false, allowed);
        }
    }
}

impl Provider for &Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.tree.clone()))
    }
}

/// A value for [`Loader::with`].
#[derive(Clone)]
pub struct Setting(Value);

macro_rules! setting_from {
    ($($from:ty => |$value:ident| $text:expr),* $(,)?) => {$(
        impl From<$from> for Setting {
            fn from($value: $from) -> Self {
                Self(Value::from($text))
            }
        }
    )*};
}

setting_from! {
    &str => |text| text,
    String => |text| text,
    i32 => |number| number,
    i64 => |number| number,
    u16 => |number| number,
    u32 => |number| number,
    u64 => |number| number,
    usize => |number| number,
    f64 => |number| number,
    bool => |flag| flag,
    Duration => |time| duration::show(time),
    Option<Duration> => |time| time.map_or_else(|| "off".to_owned(), duration::show),
    Mode => |mode| mode.as_str(),
    SslMode => |mode| mode.as_str(),
    Secret => |secret| secret.expose(),
    DatabaseUrl => |url| url.expose(),
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// A variable with a section and a key, or one that forgot an underscore between them.
fn is_ours(rest: &str) -> bool {
    let rest = rest.to_lowercase();
    rest.contains("__") || KEYS.iter().any(|key| rest.starts_with(&format!("{}_", key.section())))
}

fn is_free(name: &str) -> bool {
    name.strip_prefix(FREE).is_some_and(|rest| rest.starts_with('.'))
}

/// The server's settings are text, and a file may write `geqo = false` all the same.
fn as_text(value: Value) -> Value {
    match value {
        Value::Bool(..) | Value::Num(..) => tree::text(&value).into(),
        other => other,
    }
}

/// The text of a number as a number; anything else stays text, also a password of digits.
fn typed(text: &str, kind: Kind) -> Option<Value> {
    let text = text.trim();
    match kind {
        Kind::Flag => text.parse::<bool>().ok().map(Value::from),
        Kind::Integer => text
            .parse::<u64>()
            .map(Value::from)
            .or_else(|_| text.parse::<i64>().map(Value::from))
            .ok(),
        Kind::Number => text.parse::<f64>().map(Value::from).ok(),
        _ => None,
    }
}

fn hint(name: &str) -> String {
    let inside: Vec<_> = KEYS
        .iter()
        .filter(|key| key.section() == name)
        .map(KeyDoc::name_in_section)
        .collect();
    if !inside.is_empty() {
        return format!("a section with {}", inside.join(", "));
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    let reported = REPORT_NAMES
        .iter()
        .find(|(report, _)| *report == last)
        .map(|(_, name)| *name);
    let near = reported
        .or_else(|| nearest(name, KEYS.iter().map(|key| key.name)))
        .unwrap_or_default();
    format!("a known key; the nearest is {near}")
}

fn from_toml(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(list) => list.into_iter().map(from_toml).collect::<Vec<_>>().into(),
        toml::Value::Table(table) => table
            .into_iter()
            .map(|(key, value)| (key, from_toml(value)))
            .collect::<Dict>()
            .into(),
    }
}
