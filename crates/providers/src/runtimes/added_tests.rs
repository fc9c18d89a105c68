//! Folders on their way into a data directory and out of it.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::runtimes::Catalogue;
use crate::runtimes::interpreter::directory_names;

const BASH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../runtimes/bash");

/// A copy of a good folder, and a data directory that does not exist yet.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("folder")).unwrap();
        for file in ["manifest.toml", "runner.sh"] {
            fs::copy(Path::new(BASH).join(file), root.path().join("folder").join(file)).unwrap();
        }
        Self { root }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("folder")
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn names(&self) -> Vec<String> {
        let mut names = directory_names(&self.data().join("languages"));
        names.retain(|name| name != ".lock");
        names
    }
}

#[test]
fn a_runtime_is_stored_replaced_and_removed() {
    let place = Place::new();
    let runtime = NewRuntime::read(&place.folder()).unwrap();
    let stored = runtime.store(&place.data(), false).unwrap();
    assert_eq!(stored, place.data().join("languages/bash"));
    assert_eq!(Catalogue::load(&place.data(), &[]).unwrap().get("sh").unwrap().path, Some(stored));

    let error = runtime.store(&place.data(), false).unwrap_err();
    assert!(error.message().contains("`bash` is there already; hint: `--replace`"), "{error}");

    fs::write(place.folder().join("runner.sh"), "echo other").unwrap();
    NewRuntime::read(&place.folder()).unwrap().store(&place.data(), true).unwrap();
    assert_eq!(
        Catalogue::load(&place.data(), &[]).unwrap().get("sh").unwrap().runner,
        "echo other"
    );
    assert_eq!(place.names(), ["bash"]);

    remove("bash", &place.data()).unwrap();
    assert_eq!(place.names(), [""; 0]);
    for name in ["bash", "python", "..", ".", "", "a/b", "../languages/bash"] {
        let error = remove(name, &place.data()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{name}");
    }
}

#[test]
fn what_is_checked_is_what_is_stored() {
    let place = Place::new();
    fs::write(place.folder().join("NOTES.md"), "read me").unwrap();
    let runtime = NewRuntime::read(&place.folder()).unwrap();
    fs::remove_dir_all(place.folder()).unwrap();
    let stored = runtime.store(&place.data(), false).unwrap();
    assert_eq!(fs::read_to_string(stored.join("NOTES.md")).unwrap(), "read me");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&stored), mode(&stored.join("runner.sh"))), (0o755, 0o644));
}

#[test]
fn only_plain_files_are_taken() {
    type Spoil = fn(&Path);
    let cases: [(Spoil, &str); 9] = [
        (|folder| fs::create_dir(folder.join("more")).unwrap(), "more` is no plain file; hint:"),
        (
            |folder| symlink("/etc/passwd", folder.join("passwd")).unwrap(),
            "passwd` is a symbolic link; hint:",
        ),
        (
            |folder| {
                fs::rename(folder.join("runner.sh"), folder.join("real.sh")).unwrap();
                symlink("real.sh", folder.join("runner.sh")).unwrap();
            },
            "runner.sh` is a symbolic link",
        ),
        (
            |folder| {
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                rustix::fs::mkfifoat(CWD, folder.join("pipe"), mode).unwrap();
            },
            "pipe` is no plain file",
        ),
        (
            |folder| fs::write(folder.join("large"), vec![b'x'; (4 << 20) + 1]).unwrap(),
            "large` is larger than 4194304 bytes",
        ),
        (
            |folder| fs::write(folder.join("runner.sh"), vec![b'x'; (1 << 20) + 1]).unwrap(),
            "`runner.sh` is larger than 1048576 bytes",
        ),
        (
            |folder| fs::write(folder.join("runner.sh"), b"\xff\xfe").unwrap(),
            "runner.sh` is not UTF-8",
        ),
        (
            |folder| {
                for number in 0..100 {
                    fs::write(folder.join(number.to_string()), "x").unwrap();
                }
            },
            "holds more than 64 files",
        ),
        (
            |folder| fs::remove_file(folder.join("manifest.toml")).unwrap(),
            "`manifest.toml` is missing",
        ),
    ];
    for (spoil, said) in cases {
        let place = Place::new();
        spoil(&place.folder());
        let error = NewRuntime::read(&place.folder()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().contains(said), "{said}: {error}");
    }
    let error = NewRuntime::read(Path::new("/nowhere/ruby")).unwrap_err();
    assert!(error.message().contains("`/nowhere/ruby` cannot be read; hint:"), "{error}");
}

/// A link in a stored folder leads nowhere either: it is not followed when the folder is read.
#[test]
fn links_are_not_followed_later() {
    let place = Place::new();
    let runtime = NewRuntime::read(&place.folder()).unwrap();
    let stored = runtime.store(&place.data(), false).unwrap();
    fs::remove_file(stored.join("runner.sh")).unwrap();
    symlink("/etc/passwd", stored.join("runner.sh")).unwrap();
    let error = Catalogue::load(&place.data(), &[]).unwrap_err();
    assert!(error.message().contains("is a symbolic link"), "{error}");
    assert!(error.message().contains("ampoule runtimes remove bash"), "{error}");
}

#[test]
fn an_interrupted_store_leaves_nothing_that_counts() {
    let place = Place::new();
    let stage = place.data().join("languages/.bash.partial");
    fs::create_dir_all(&stage).unwrap();
    fs::write(stage.join("manifest.toml"), "half").unwrap();
    assert!(Catalogue::load(&place.data(), &[]).unwrap().find("bash").is_none());
    NewRuntime::read(&place.folder()).unwrap().store(&place.data(), false).unwrap();
    assert_eq!(place.names(), ["bash"]);
}

#[test]
fn of_two_at_once_one_is_stored() {
    let place = Place::new();
    let runtime = NewRuntime::read(&place.folder()).unwrap();
    let store = || runtime.store(&place.data(), false).is_ok();
    let stored = std::thread::scope(|scope| {
        let both = [scope.spawn(store), scope.spawn(store)];
        both.map(|one| one.join().unwrap())
    });
    assert_eq!(stored.iter().filter(|stored| **stored).count(), 1);
    assert_eq!(place.names(), ["bash"]);
    assert!(Catalogue::load(&place.data(), &[]).is_ok());
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let place = Place::new();
    fs::write(place.data(), "a file").unwrap();
    let error = NewRuntime::read(&place.folder()).unwrap().store(&place.data(), false).unwrap_err();
    assert!(error.message().contains("hint: set `AMPOULE_DATA_DIR`"), "{error}");
}
