//! Runtimes: the interpreters that run programs, and the packages that programs find.
//!
//! A runtime is a folder: a manifest, one runner that every provider uses, and a locked list of
//! packages. [`Catalogue`] knows the folders, [`NewRuntime`] adds one, [`resolve`] finds an interpreter on this host and says
//! what of it the sandbox must show, [`install`] puts the packages of the list into the data
//! directory, and [`status`] tells a person what is there and what is missing.

mod added;
mod ask;
mod catalogue;
mod folder;
mod install;
mod installers;
mod interpreter;
mod status;

pub use added::{NewRuntime, remove};
pub use catalogue::{BrokenRuntime, Catalogue};
pub use folder::{Placeholders, RuntimeFolder};
pub use install::{data_dir, default_data_dir, install, packages_dir};
pub use interpreter::{Interpreter, PrefixTree, resolve, resolve_from_environment};
pub use status::{InterpreterStatus, PackageStatus, RuntimeStatus, status};

/// Where the sandbox shows an interpreter that is not under `/usr`.
pub const INTERPRETER_INSIDE: &str = "/opt/interpreter";

/// Where the sandbox shows the packages of a runtime.
pub const PACKAGES_INSIDE: &str = "/opt/ampoule/packages";

/// What an error of an installation happened during.
const OPERATION: &str = "install packages";
