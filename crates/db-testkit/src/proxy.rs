//! A TCP proxy that can go wrong in every way a network can.

mod accept;
mod counters;
mod cut;
mod fault;
mod fault_proxy;
mod frontend;
mod link;
mod pump;
mod shared;

pub use counters::Counters;
pub use cut::{Cut, Matches, When};
pub use fault::{CutStyle, Direction, Fault, Scope};
pub use fault_proxy::FaultProxy;
