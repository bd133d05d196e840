//! What a report says.

use super::detail::Detail;
use db_core::config::duration;
use serde::{Serialize, Serializer};
use std::{borrow::Cow, fmt, time::Duration};

/// How something is, from good to bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    #[default]
    Healthy,
    /// It could not be found out.
    Unknown,
    /// It works, and somebody should look at it.
    Degraded,
    /// It does not work.
    Unhealthy,
}

impl Status {
    /// The name under which it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unknown => "unknown",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// How it is.
    pub status: Status,
    /// Why, in words.
    pub message: Cow<'static, str>,
    /// The figures.
    pub detail: Detail,
}

impl Finding {
    /// A finding with its figures still to come.
    pub fn new(status: Status, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            message: message.into(),
            detail: Detail::None,
        }
    }

    /// All is well.
    pub fn healthy(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Status::Healthy, message)
    }

    /// Somebody should look at it.
    pub fn degraded(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Status::Degraded, message)
    }

    /// It does not work.
    pub fn unhealthy(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Status::Unhealthy, message)
    }

    /// It could not be found out.
    pub fn unknown(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Status::Unknown, message)
    }

    /// The same with figures.
    #[must_use]
    pub fn with(mut self, detail: Detail) -> Self {
        self.detail = detail;
        self
    }
}

/// One check of a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CheckReport {
    /// Its name.
    pub name: Cow<'static, str>,
    /// How it is.
    pub status: Status,
    /// How long finding out took.
    #[serde(serialize_with = "milliseconds", rename = "took_ms")]
    pub took: Duration,
    /// Why, in words.
    pub message: Cow<'static, str>,
    /// The figures.
    #[serde(skip_serializing_if = "Detail::is_none")]
    pub detail: Detail,
}

impl CheckReport {
    pub(crate) fn new(name: impl Into<Cow<'static, str>>, finding: Finding, took: Duration) -> Self {
        Self {
            name: name.into(),
            status: finding.status,
            took,
            message: finding.message,
            detail: finding.detail,
        }
    }
}

/// How the database is, check by check.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HealthReport {
    /// That of the worst check.
    pub status: Status,
    /// How long the report took.
    #[serde(serialize_with = "milliseconds", rename = "took_ms")]
    pub took: Duration,
    /// The checks: first those on the connection beside the pool, then those that need none, then the user's own.
    pub checks: Vec<CheckReport>,
}

impl HealthReport {
    pub(crate) fn new(checks: Vec<CheckReport>, took: Duration) -> Self {
        Self {
            status: checks.iter().map(|check| check.status).max().unwrap_or_default(),
            took,
            checks,
        }
    }

    /// One check.
    pub fn check(&self, name: &str) -> Option<&CheckReport> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// 200, or 503 when something does not work.
    pub fn http_status(&self) -> u16 {
        match self.status {
            Status::Healthy | Status::Unknown | Status::Degraded => 200,
            Status::Unhealthy => 503,
        }
    }
}

impl fmt::Display for HealthReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {:.1?}", self.status, self.took)?;
        for check in &self.checks {
            write!(
                f,
                "\n  {:<20} {:<9} {:>9}  {}",
                check.name,
                check.status.name(),
                format!("{:.1?}", check.took),
                check.message
            )?;
        }
        Ok(())
    }
}

fn milliseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((time.as_secs_f64() * 1e6).round() / 1e3)
}

/// A time in words.
pub(crate) fn show(time: Duration) -> String {
    duration::show(Duration::from_millis(
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
    ))
}
