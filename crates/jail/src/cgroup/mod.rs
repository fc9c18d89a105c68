//! Meters: memory, processes and CPU of a whole process tree, by control groups v1 or v2.
//!
//! The keeper makes one base group per manager and opens it; the launcher holds those directory
//! descriptors only and makes one group per run beneath them. No path crosses a boundary.

mod base;
mod hierarchies;
mod run;
mod scope;

pub(crate) use base::{Base, Layout, remove_tree};
pub(crate) use hierarchies::Hierarchies;
pub(crate) use run::{Group, Meters};

/// What every base group's name starts with.
pub(crate) const PREFIX: &str = "ampoule-";
/// On v2, where processes go that stood in the way of children.
const LEAF: &str = "ampoule.manager";
/// Without these there is no rung: half a meter would be mistaken for one.
const NEEDED: [&str; 2] = ["memory", "pids"];
