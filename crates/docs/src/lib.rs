//! Compiles every code block of the README and the docs, reads every block of settings, and looks every named proof up.
//!
//! Nothing here is for use: a document that no longer fits the code fails the test of this crate.
//!
//! ```
//! // What a reader of a guide has in scope, beside `db`.
//! use db_stack::{Db, Error};
//! ```
