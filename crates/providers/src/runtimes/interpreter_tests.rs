//! Interpreters in made-up trees.

use std::os::unix::fs::symlink;

use super::*;
use crate::runtimes::Catalogue;

struct Tree {
    _directory: tempfile::TempDir,
    root: PathBuf,
}

impl Tree {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        Self { _directory: directory, root }
    }

    fn file(&self, path: &str, content: &[u8]) -> PathBuf {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn binary(&self, path: &str) -> PathBuf {
        self.file(path, b"\x7fELF rest")
    }

    fn search(&self, language: &str, over: Option<&str>) -> Result<Interpreter> {
        let catalogue = Catalogue::builtin();
        let mut manifest = catalogue.get(language).unwrap().manifest.clone();
        manifest.interpreter = vec!["python3".to_owned(), "node".to_owned()];
        let path = env::join_paths([self.root.join("shims"), self.root.join("p/bin")]).unwrap();
        let home = Some(self.root.join("home"));
        let over = over.map(|path| self.root.join(path));
        Search { manifest: &manifest, path, home }.resolve(over.as_deref().map(Path::as_os_str))
    }
}

#[test]
fn a_python_of_a_version_manager_has_its_prefix_shown() {
    let tree = Tree::new();
    tree.binary("p/bin/python3.12");
    symlink("python3.12", tree.root.join("p/bin/python3")).unwrap();
    tree.file("p/lib/python3.12/os.py", b"");
    let found = tree.search("python", None).unwrap();
    assert_eq!(found.host_path, tree.root.join("p/bin/python3.12"));
    assert_eq!(found.inside_path, "/opt/interpreter/bin/python3.12");
    let prefix = PrefixTree { host: tree.root.join("p"), inside: "/opt/interpreter".to_owned() };
    assert_eq!(found.prefix_tree, Some(prefix));
    assert_eq!(found.library_path, None);
    assert_eq!(found.minor_version().unwrap(), (3, 12));

    tree.file("p/lib/libpython3.12.so.1.0", b"");
    let found = tree.search("python", None).unwrap();
    assert_eq!(found.library_path.as_deref(), Some("/opt/interpreter/lib"));
}

#[test]
fn a_shim_is_asked_for_the_real_file() {
    let tree = Tree::new();
    let real = tree.binary("versions/3.12/bin/python3.12");
    tree.file("versions/3.12/lib/python3.12/os.py", b"");
    let script = format!("#!/bin/sh\necho {}\n", real.display());
    tree.file("shims/python3", script.as_bytes());
    assert_eq!(tree.search("python", None).unwrap().host_path, real);

    tree.file("shims/python3", b"#!/bin/sh\necho no version is set >&2; exit 127\n");
    let error = tree.search("python", Some("shims/python3")).unwrap_err();
    assert!(error.message().contains("`AMPOULE_PYTHON_BIN` is"), "{error}");
    assert!(error.message().contains("finds no interpreter: no version is set"), "{error}");
}

#[test]
fn a_virtual_environment_means_its_base() {
    let tree = Tree::new();
    let base = tree.binary("p/bin/python3.12");
    tree.file("p/lib/python3.12/os.py", b"");
    fs::create_dir_all(tree.root.join("linked/bin")).unwrap();
    symlink(&base, tree.root.join("linked/bin/python")).unwrap();
    assert_eq!(tree.search("python", Some("linked/bin/python")).unwrap().host_path, base);

    tree.binary("copied/bin/python3.12");
    let home = format!("home = {}\nversion = 3.12\n", base.parent().unwrap().display());
    tree.file("copied/pyvenv.cfg", home.as_bytes());
    assert_eq!(tree.search("python", Some("copied/bin/python3.12")).unwrap().host_path, base);
}

#[test]
fn node_is_shown_with_its_directory_only() {
    let tree = Tree::new();
    let node = tree.binary("p/bin/node");
    let found = tree.search("javascript", None).unwrap();
    assert_eq!(found.host_path, node);
    assert_eq!(found.inside_path, "/opt/interpreter/bin/node");
    let bin =
        PrefixTree { host: tree.root.join("p/bin"), inside: "/opt/interpreter/bin".to_owned() };
    assert_eq!(found.prefix_tree, Some(bin));

    // Built against its own shared library, it needs the rest too.
    tree.file("p/lib/libnode.so.127", b"");
    let found = tree.search("javascript", None).unwrap();
    assert_eq!(found.prefix_tree.unwrap().host, tree.root.join("p"));
    assert_eq!(found.library_path.as_deref(), Some("/opt/interpreter/lib"));
}

#[test]
fn a_manifest_may_ask_for_the_whole_prefix() {
    let tree = Tree::new();
    let ruby = tree.binary("p/bin/ruby");
    let catalogue = Catalogue::builtin();
    let mut manifest = catalogue.get("javascript").unwrap().manifest.clone();
    manifest.language = ampoule_core::Language::new("ruby");
    for (needs_prefix, shown) in [(false, "p/bin"), (true, "p")] {
        manifest.needs_prefix = needs_prefix;
        let search = Search { manifest: &manifest, path: OsString::new(), home: None };
        let found = search.resolve(Some(ruby.as_os_str())).unwrap();
        assert_eq!(found.prefix_tree.unwrap().host, tree.root.join(shown));
        assert_eq!(found.inside_path, "/opt/interpreter/bin/ruby");
    }
}

#[test]
fn a_home_directory_is_never_shown() {
    let tree = Tree::new();
    tree.binary("home/node");
    let error = tree.search("javascript", Some("home/node")).unwrap_err();
    assert!(error.message().contains("move it to a directory of its own"), "{error}");
    tree.binary("home/bin/python3.12");
    tree.file("home/lib/python3.12/os.py", b"");
    let error = tree.search("python", Some("home/bin/python3.12")).unwrap_err();
    assert!(error.message().contains("move it to a directory of its own"), "{error}");
}

#[test]
fn what_is_wrong_with_each_candidate_is_said() {
    let tree = Tree::new();
    tree.binary("p/bin/python3");
    let error = tree.search("python", None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("has no standard library beside it"), "{error}");
    assert!(error.message().contains("`node`: it is not on `PATH`"), "{error}");
    assert!(error.message().contains("set `AMPOULE_PYTHON_BIN`"), "{error}");
    let error = tree.search("python", Some("none")).unwrap_err();
    assert!(error.message().contains("there is no such file"), "{error}");
}

#[test]
fn the_interpreter_of_the_system_stays_at_its_path() {
    let catalogue = Catalogue::builtin();
    let manifest = &catalogue.get("python").unwrap().manifest;
    let Ok(found) = resolve(manifest, Some(OsStr::new("/usr/bin/python3"))) else {
        return; // A machine without it has nothing to stay.
    };
    assert_eq!(found.inside_path, found.host_path.to_str().unwrap());
    assert_eq!(found.prefix_tree, None);
    assert!(found.version().unwrap().starts_with("3."));
    found.check_version(manifest).unwrap();
}

#[test]
fn an_old_version_is_refused_with_the_variable() {
    let tree = Tree::new();
    let script = b"#!/bin/sh\necho v18.3.0\n";
    let path = tree.file("p/bin/node", script);
    let catalogue = Catalogue::builtin();
    let manifest = &catalogue.get("javascript").unwrap().manifest;
    let search = Search { manifest, path: OsString::new(), home: None };
    let error = search.place(path).unwrap().check_version(manifest).unwrap_err();
    assert!(error.message().contains("found javascript 18.3.0 at"), "{error}");
    assert!(error.message().contains("need 20 or newer; hint: set `AMPOULE_NODE_BIN`"), "{error}");
}

#[test]
fn versions_compare_by_their_numbers() {
    assert!(numbers("3.10.1") >= numbers("3.9"));
    assert!(numbers("20.0.0") >= numbers("20"));
    assert!(numbers("9.9") < numbers("20"));
    assert_eq!(first_version("Python 3.11.2\n").as_deref(), Some("3.11.2"));
    assert_eq!(first_version("v24.1.0").as_deref(), Some("24.1.0"));
    assert_eq!(first_version("none"), None);
}

#[test]
fn a_runner_is_compiled_by_its_interpreter_or_the_failure_is_told() {
    let tree = Tree::new();
    tree.file("p/lib/python3.12/os.py", b"");
    let path = tree.binary("p/bin/python3.12");
    symlink("python3.12", tree.root.join("p/bin/python3")).unwrap();
    let found = tree.search("python", None).unwrap();
    let command = ["{interpreter}", "{runner}"].map(str::to_owned);
    fs::write(&path, "#!/bin/sh\necho \"$1\"; exec cat\n").unwrap();
    assert_eq!(found.compile(&command, "/r.py", "source").unwrap(), b"/r.py\nsource");
    fs::write(&path, "#!/bin/sh\necho no >&2; exit 1\n").unwrap();
    let error = found.compile(&command, "/r.py", "source").unwrap_err().to_string();
    assert!(error.starts_with("failed to compile a runner: `"), "{error}");
    assert!(error.contains("does not: no; hint: mend `compiled.command`"), "{error}");
}
