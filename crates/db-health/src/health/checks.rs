//! The checks that come with the crate.

pub(crate) mod local;
pub(crate) mod server;
