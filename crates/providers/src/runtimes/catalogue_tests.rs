//! Catalogues of made-up folders.

use ampoule_core::ErrorKind;

use super::*;
use crate::runtimes::Placeholders;

const PLACEHOLDERS: Placeholders<'static> = Placeholders {
    interpreter: "/usr/bin/node",
    runner: "/opt/ampoule/runner.js",
    packages: super::super::PACKAGES_INSIDE,
    heap_mb: Some(192),
};

#[test]
fn the_builtin_runtimes_answer_to_their_names() {
    let catalogue = Catalogue::builtin();
    for (name, language) in [
        ("python", "python"),
        ("Python3", "python"),
        ("JavaScript", "javascript"),
        ("nodejs", "javascript"),
        ("js", "javascript"),
        ("NODE", "javascript"),
    ] {
        assert_eq!(catalogue.get(name).unwrap().language().as_str(), language);
    }
    assert_eq!(catalogue.by_extension("py").unwrap().language().as_str(), "python");
    assert_eq!(catalogue.by_extension("JS").unwrap().language().as_str(), "javascript");
    assert!(catalogue.by_extension("rb").is_none());
    assert_eq!(catalogue.languages().len(), 2);
    for folder in catalogue.iter() {
        assert_eq!(folder.lock_digest().unwrap().len(), 12);
    }
}

#[test]
fn an_unknown_language_lists_the_known() {
    let error = Catalogue::builtin().get("ruby").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!(
        error.message(),
        "unknown language `ruby`; hint: one of `python`, `python3`, `py`, `javascript`, `nodejs`, `js`, `node`"
    );
}

#[test]
fn placeholders_are_filled() {
    let catalogue = Catalogue::builtin();
    let node = catalogue.get("node").unwrap();
    assert_eq!(
        node.command(&PLACEHOLDERS),
        [
            "/usr/bin/node",
            "--max-old-space-size=192",
            "/opt/ampoule/runner.js",
            "/opt/ampoule/packages"
        ]
    );
    assert_eq!(node.environment(&PLACEHOLDERS)["NODE_PATH"], "/opt/ampoule/packages/node_modules");
    for folder in catalogue.iter() {
        let texts = folder.command(&PLACEHOLDERS).into_iter();
        for text in texts.chain(folder.environment(&PLACEHOLDERS).into_values()) {
            assert!(!text.contains(['{', '}']), "{text}");
        }
    }
}

/// Nothing that is embedded may name where it was made: the files go to every user.
#[test]
fn locks_hold_digests_and_no_addresses() {
    for folder in Catalogue::builtin().iter() {
        let lock = folder.lock().unwrap();
        // npm writes where a package takes donations; that is no place to download from.
        let address = |line: &&str| line.contains("://") && !line.contains("\"url\": ");
        assert_eq!(lock.lines().find(address), None, "{}", folder.name);
        assert!(lock.contains("sha256:") || lock.contains("sha512-"), "{}", folder.name);
        for name in &folder.manifest.packages.as_ref().unwrap().names {
            assert!(lock.contains(name.as_str()), "{name}");
        }
    }
}

fn write_runtime(root: &Path, name: &str, manifest: &str) {
    let folder = root.join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(MANIFEST), manifest).unwrap();
    fs::write(folder.join("run.rb"), "puts 1").unwrap();
}

const RUBY: &str = r#"
    language = "ruby"
    aliases = ["rb"]
    interpreter = ["/usr/bin/ruby"]
    interpreter_variable = "RUBY_BIN"
    version_arguments = ["--version"]
    minimum_version = "3"
    runner = "run.rb"
    command = ["{interpreter}", "{runner}"]
    minimum_memory = "32m"
    [example]
    code = "x"
    value = "1"
    failing = "y"
    endless = "z"
"#;

#[test]
fn a_directory_of_runtimes_is_read_and_checked() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    write_runtime(root, "ruby", RUBY);
    let catalogue = Catalogue::builtin().extend(Catalogue::load_dir(root).unwrap()).unwrap();
    assert_eq!(catalogue.get("RB").unwrap().runner, "puts 1");

    for (manifest, expected) in [
        (RUBY.replace("run.rb", "other.rb"), "ruby`: `other.rb` is missing"),
        (RUBY.replace("run.rb", "../x"), "field `runner`"),
        (RUBY.replace("\"{runner}\"", "\"x\""), "field `command`: it does not name `{runner}`"),
        (RUBY.replace("32m", "much"), "field `minimum_memory`"),
        (RUBY.replace("aliases", "alias"), "unknown field `alias`"),
        (RUBY.replace("\"rb\"", "\"js\""), "runtimes `nodejs` and `ruby` both answer to `js`"),
    ] {
        write_runtime(root, "ruby", &manifest);
        let error = Catalogue::load_dir(root)
            .and_then(|catalogue| Catalogue::builtin().extend(catalogue))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().contains("ruby`"), "{error}");
        assert!(error.message().contains(expected), "{error}");
    }
}

#[test]
fn a_directory_without_a_runtime_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let error = Catalogue::load_dir(directory.path()).unwrap_err();
    assert!(error.message().contains("holds no runtime"), "{error}");
    let error = Catalogue::load_dir(&directory.path().join("none")).unwrap_err();
    assert!(error.message().contains("cannot be read"), "{error}");
}
