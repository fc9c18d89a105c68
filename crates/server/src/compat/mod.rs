//! Foreign wires that users already speak, one file each.

pub(crate) mod ragflow;
