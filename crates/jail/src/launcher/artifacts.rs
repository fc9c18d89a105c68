//! Finds what a run left in `artifacts/`, after every process of it is dead.
//!
//! Everything goes through the directory descriptor that the cell opened before any user code, and
//! nothing is opened for reading before it is known to be a regular file.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat2},
    io::Errno,
};

use crate::protocol::{FileNote, NAME_LEN};

/// Entries that are told apart; more are only counted.
const MOST_TOLD: usize = 64;
/// Entries that are looked at, at all.
const MOST_LISTED: usize = 20_000;
const DIRECTORY: &str = "artifacts";

/// One entry of `artifacts/`.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) size: u64,
    pub(super) note: FileNote,
    pub(super) file: Option<OwnedFd>,
}

/// Lists and opens; the entries in the order of their names, and how many there are beyond.
pub(super) fn collect(workspace: &OwnedFd) -> (Vec<Entry>, u32) {
    let Ok(directory) = open_beneath(workspace, DIRECTORY, OFlags::RDONLY | OFlags::DIRECTORY)
    else {
        // The program removed it: no artifacts.
        return (Vec::new(), 0);
    };
    let mut names = Vec::new();
    if let Ok(entries) = Dir::read_from(&directory) {
        for entry in entries.take(MOST_LISTED).flatten() {
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
    }
    names.sort_unstable();
    let more = names.len().saturating_sub(MOST_TOLD);
    let entries = names.into_iter().take(MOST_TOLD).map(|name| look_at(&directory, name)).collect();
    (entries, u32::try_from(more).unwrap_or(u32::MAX))
}

fn look_at(directory: &OwnedFd, name: Vec<u8>) -> Entry {
    let mut entry = Entry { size: 0, note: FileNote::Unreadable, file: None, name };
    if entry.name.len() > NAME_LEN {
        return entry;
    }
    let Ok(handle) = open_beneath(directory, &entry.name, OFlags::PATH) else { return entry };
    let Ok(seen) = fstat(&handle) else { return entry };
    entry.note = match FileType::from_raw_mode(seen.st_mode) {
        FileType::RegularFile => FileNote::Readable,
        FileType::Directory => FileNote::Directory,
        _ => FileNote::Special,
    };
    entry.size = u64::try_from(seen.st_size).unwrap_or(0);
    if entry.note == FileNote::Readable {
        entry.file = open_beneath(directory, &entry.name, OFlags::RDONLY | OFlags::NONBLOCK)
            .ok()
            .filter(|file| fstat(file).is_ok_and(|opened| opened.st_ino == seen.st_ino));
        if entry.file.is_none() {
            entry.note = FileNote::Unreadable;
        }
    }
    entry
}

fn open_beneath(
    directory: impl AsFd,
    name: impl rustix::path::Arg,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    openat2(
        directory,
        name,
        flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV,
    )
}
