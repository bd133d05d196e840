//! Checks of the user's own.

use super::report::Finding;
use crate::breaker::Boxed;
use std::{future::Future, sync::Arc};

/// A check of the user's own. Runs beside the others and under the same bound; past it, or when it panics, the finding is
/// unknown.
pub trait Check: Send + Sync + 'static {
    /// Its name in the report. One of the name of another replaces it.
    fn name(&self) -> &str;

    /// Finds out. Dropped when the report's time is up.
    fn check(&self) -> Boxed<'_, Finding>;
}

/// A check made of a closure; see [`check_fn`].
pub struct CheckFn<F> {
    name: String,
    check: F,
}

/// A check made of a name and a closure.
///
/// ```
/// use db_health::{Finding, check_fn};
///
/// let check = check_fn("disk", || async { Finding::degraded("81 % full") });
/// # let _ = check;
/// ```
pub fn check_fn<F, Fut>(name: impl Into<String>, check: F) -> Arc<CheckFn<F>>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Finding> + Send + 'static,
{
    Arc::new(CheckFn {
        name: name.into(),
        check,
    })
}

impl<F, Fut> Check for CheckFn<F>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Finding> + Send + 'static,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn check(&self) -> Boxed<'_, Finding> {
        Box::pin((self.check)())
    }
}

impl<F> std::fmt::Debug for CheckFn<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckFn")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
