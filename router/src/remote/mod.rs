//! Controllers in other processes. To the rest of the router they are `dyn Controller`, like a policy in this one.

mod attached;
mod dialled;
#[cfg(test)]
mod tests;
mod tunnel;
mod versions;
mod word;

pub(crate) use attached::Attached;
pub(crate) use dialled::Dialled;
pub(crate) use tunnel::{Slot, Tunnels};

/// Largest answer taken, in bytes: reason, rule and warnings of a few lines.
pub(crate) const LARGEST_ANSWER: usize = 256 << 10;
/// Largest question sent, in bytes.
pub(crate) const LARGEST_QUESTION: usize = 8 << 20;
/// Connections are tried with a ping so often; after two that are missed they are dead.
pub(crate) const PING: std::time::Duration = std::time::Duration::from_secs(20);
