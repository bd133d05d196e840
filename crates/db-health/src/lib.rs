//! Health that tells the truth.
