//! Artifacts of a program, written to a directory of the user's.
//!
//! Names come from a stranger. A file is written beside its place and then renamed, so that a link
//! that stands there is replaced and never followed.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use ampoule_core::Artifact;
use ampoule_manager::is_safe_name;

use crate::exit::Failure;

/// The directory for the artifacts.
#[derive(Debug)]
pub(crate) struct ArtifactDirectory(PathBuf);

/// Why an artifact is not there.
#[derive(Debug)]
pub(crate) enum NotWritten {
    /// Its name is not allowed.
    BadName,
    /// The file system said no.
    Failed(std::io::Error),
}

impl ArtifactDirectory {
    /// Takes a directory, which is made if it is not there.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(path).map_err(|error| {
            Failure::usage(format!("failed to create `{}`: {error}", path.display()))
        })?;
        Ok(Self(path.to_owned()))
    }

    /// Writes one file and says where it is.
    pub(crate) fn write(&self, artifact: &Artifact) -> Result<PathBuf, NotWritten> {
        if !is_safe_name(&artifact.name) {
            return Err(NotWritten::BadName);
        }
        let path = self.0.join(&artifact.name);
        let beside = self.0.join(format!(".ampoule-{}", std::process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&beside)
            .and_then(|mut file| file.write_all(&artifact.content))
            .and_then(|()| fs::rename(&beside, &path));
        written.map(|()| path).map_err(|error| {
            // It may not even have been made; the error above says what is wrong.
            let _ = fs::remove_file(&beside);
            NotWritten::Failed(error)
        })
    }
}
