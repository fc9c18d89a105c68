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

fn write_runtime(root: &Path, name: &str, manifest: &str) -> PathBuf {
    let folder = root.join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(MANIFEST), manifest).unwrap();
    fs::write(folder.join("run.rb"), "puts 1").unwrap();
    folder
}

const RUBY: &str = r#"language = "ruby"
aliases = ["rb"]
extensions = ["rb"]
interpreter = ["/usr/bin/ruby"]
interpreter_variable = "RUBY_BIN"
version_arguments = ["--version"]
minimum_version = "3"
runner = "run.rb"
protocol = "frames"
command = ["{interpreter}", "-W0", "{runner}"]
minimum_memory = "32m"
[environment]
HOME = "/tmp"
[example]
code = "x"
arguments = '{}'
value = "1"
failing = "y"
endless = "z"
"#;

#[test]
fn a_directory_of_runtimes_is_read_and_checked() {
    let directory = tempfile::tempdir().unwrap();
    write_runtime(directory.path(), "ruby", RUBY);
    let catalogue = Catalogue::load_dir(directory.path()).unwrap();
    let catalogue = Catalogue::builtin().extend(catalogue).unwrap();
    assert_eq!(catalogue.get("RB").unwrap().runner, "puts 1");
}

/// One change of a good manifest a row, and the line and the words of the error.
const BROKEN: &[(&str, &str, Option<u32>, &str)] = &[
    (
        "language = \"ruby\"",
        "language = \"Ruby 3\"",
        Some(1),
        "field `language`: `Ruby 3` is no name; hint:",
    ),
    ("language = \"ruby\"", "language = \"../ruby\"", Some(1), "field `language`"),
    ("language = \"ruby\"", "language = \"\"", Some(1), "field `language`"),
    ("language = \"ruby\"", "", None, "missing field `language`"),
    ("[\"rb\"]\nextensions", "[\"R B\"]\nextensions", Some(2), "field `aliases`: `R B` is no name"),
    ("aliases", "alias", Some(2), "unknown field `alias`, expected one of"),
    (
        "extensions = [\"rb\"]",
        "extensions = [\".rb\"]",
        Some(3),
        "field `extensions`: `.rb` is none; hint:",
    ),
    ("[\"/usr/bin/ruby\"]", "[]", Some(4), "field `interpreter`: it is empty; hint:"),
    (
        "[\"/usr/bin/ruby\"]",
        "[\"bin/ruby\"]",
        Some(4),
        "field `interpreter`: `bin/ruby` is neither; hint:",
    ),
    (
        "[\"/usr/bin/ruby\"]",
        "\"ruby\"",
        Some(4),
        "invalid type: string \"ruby\", expected a sequence",
    ),
    (
        "RUBY_BIN",
        "RUBY BIN",
        Some(5),
        "field `interpreter_variable`: `RUBY BIN` is no name of a variable; hint:",
    ),
    ("version_arguments = [\"--version\"]\n", "", None, "missing field `version_arguments`"),
    ("\"3\"", "\"three\"", Some(7), "field `minimum_version`: `three` is none; hint:"),
    ("\"3\"", "3", Some(7), "invalid type: integer `3`, expected a string"),
    ("run.rb", "other.rb", None, "`other.rb` is missing; hint: put it in the folder"),
    ("run.rb", "../run.rb", Some(8), "field `runner`: it is not a file name in this folder; hint:"),
    ("run.rb", ".run.rb", Some(8), "field `runner`"),
    ("\"frames\"", "\"lines\"", Some(9), "unknown variant `lines`, expected `frames` or `text`"),
    (
        "\"{interpreter}\"",
        "\"ruby\"",
        Some(10),
        "field `command`: it does not start with `{interpreter}`; hint:",
    ),
    ("\"{runner}\"", "\"x\"", Some(10), "field `command`: it does not name `{runner}`; hint:"),
    (
        "[example]",
        "[compiled]\nrunner = \"run.rb\"\ncommand = []\n[example]",
        None,
        "field `compiled.runner`: it is not another file name; hint:",
    ),
    (
        "[example]",
        "[compiled]\nrunner = \"run.bin\"\ncommand = [\"rubyc\"]\n[example]",
        None,
        "field `compiled.command`: it does not start with `{interpreter}`; hint:",
    ),
    (
        "[example]",
        "[compiled]\nrunner = \"run.bin\"\ncommand = [\"{interpreter}\", \"{packages}\"]\n[example]",
        None,
        "field `compiled.command`: `{packages}` stands for nothing; hint:",
    ),
    (
        "-W0",
        "{heap}",
        Some(10),
        "field `command`: `{heap}` stands for nothing; hint: one of `{interpreter}`",
    ),
    ("-W0", "\\u0000", Some(10), "field `command`: it holds a null byte"),
    ("32m", "much", Some(11), "field `minimum_memory`: it is not a size; hint: as in `32m`"),
    ("HOME = ", "\"HO ME\" = ", None, "field `environment`: `HO ME` is no name of a variable"),
    (
        "\"/tmp\"",
        "\"{heap_mb}\"",
        Some(13),
        "field `environment.HOME`: `{heap_mb}` stands for nothing",
    ),
    ("[example]", "[examples]", Some(14), "unknown field `examples`"),
    ("code = \"x\"", "code = \" \"", Some(15), "field `example.code`: the code is empty; hint:"),
    ("'{}'", "'[]'", Some(16), "field `example.arguments`: the arguments are an array; hint:"),
    ("value = \"1\"", "value = \"one\"", Some(17), "field `example.value`: it is not JSON"),
    ("failing = \"y\"\n", "", Some(14), "missing field `failing`"),
    ("endless = \"z\"", "endless = \"\"", Some(19), "field `example.endless`: the code is empty"),
    (
        "[example]",
        "[packages]\ninstaller = \"gem\"\nlock = \"l\"\nnames = []\n[example]",
        Some(15),
        "field `packages.installer`: unknown; hint:",
    ),
    (
        "[example]",
        "[packages]\ninstaller = \"pip\"\nlock = \"../l\"\nnames = []\n[example]",
        Some(16),
        "field `packages.lock`: it is not a file name",
    ),
    (
        "[example]",
        "[packages]\ninstaller = \"pip\"\nlock = \"l\"\nnames = []\n[example]",
        None,
        "`l` is missing",
    ),
    ("minimum_memory = \"32m\"", "minimum_memory = ", Some(11), "string values must be quoted"),
];

#[test]
fn each_broken_field_is_named_with_its_line_and_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    for (good, bad, line, said) in BROKEN {
        let manifest = RUBY.replacen(good, bad, 1);
        assert_ne!(manifest, RUBY, "{good}");
        let folder = write_runtime(directory.path(), "ruby", &manifest);
        let error = RuntimeFolder::read(&folder).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let message = error.message();
        assert!(message.contains(said), "{bad}: {message}");
        assert!(message.contains(folder.to_str().unwrap()), "{bad}: {message}");
        if let Some(line) = line {
            assert!(
                message.contains(&format!("`manifest.toml`, line {line}: ")),
                "{bad}: {message}"
            );
        }
        assert!(!message.contains('\n'));
    }
}

#[test]
fn names_of_two_runtimes_do_not_clash() {
    let data = tempfile::tempdir().unwrap();
    let added = data.path().join("languages");
    for (good, bad, said) in [
        (
            "s = [\"rb\"]\next",
            "s = [\"js\"]\next",
            "runtimes `nodejs` and `ruby` both answer to `js`; hint:",
        ),
        (
            "s = [\"rb\"]\next",
            "s = [\"python3\"]\next",
            "runtimes `python` and `ruby` both answer to `python3`",
        ),
        (
            "s = [\"rb\"]\nint",
            "s = [\"PY\"]\nint",
            "runtimes `python` and `ruby` both take files named `.PY`; hint:",
        ),
    ] {
        write_runtime(&added, "ruby", &RUBY.replacen(good, bad, 1));
        let error = Catalogue::load(data.path(), &[]).unwrap_err();
        assert!(error.message().contains(said), "{error}");
    }
    write_runtime(&added, "ruby", RUBY);
    write_runtime(&added, "other", RUBY);
    let (catalogue, broken) = Catalogue::survey(data.path(), &[]);
    assert!(catalogue.find("ruby").is_some());
    assert!(broken[0].problem.message().contains("runtimes `other` and `ruby` both answer to"));
}

#[test]
fn a_later_runtime_takes_the_place_of_an_earlier_one_of_its_language() {
    let data = tempfile::tempdir().unwrap();
    let named = tempfile::tempdir().unwrap();
    let directories = [named.path().to_owned()];
    let load = || Catalogue::load(data.path(), &directories).unwrap();
    let path = |language: &str| load().get(language).unwrap().path.clone();

    let ours = write_runtime(named.path(), "mine", &RUBY.replace("\"ruby\"", "\"python\""));
    assert_eq!(path("python"), Some(ours.clone()));
    assert!(load().find("py").is_none(), "the aliases went with the one before");
    fs::remove_dir_all(ours).unwrap();

    let theirs = write_runtime(named.path(), "ruby", RUBY);
    assert_eq!((path("ruby"), path("python")), (Some(theirs), None));
    let added = write_runtime(&data.path().join("languages"), "ruby", RUBY);
    assert_eq!(path("ruby"), Some(added));
    assert_eq!(load().languages().len(), 3);
}

#[test]
fn a_broken_folder_is_an_error_and_hides_no_other() {
    let data = tempfile::tempdir().unwrap();
    let added = data.path().join("languages");
    assert!(Catalogue::load(data.path(), &[]).is_ok());
    write_runtime(&added, "ruby", RUBY);
    write_runtime(&added, "broken", "language = 1");
    fs::create_dir(added.join("empty")).unwrap();
    fs::create_dir(added.join(".ruby.partial")).unwrap();
    let (catalogue, broken) = Catalogue::survey(data.path(), &[]);
    assert!(catalogue.find("ruby").is_some() && catalogue.find("python").is_some());
    let names: Vec<&str> = broken.iter().map(|broken| broken.name.as_str()).collect();
    assert_eq!(names, ["broken", "empty"]);
    assert!(broken[1].problem.message().contains("`manifest.toml` is missing"));
    let error = Catalogue::load(data.path(), &[]).unwrap_err();
    for part in ["languages/broken", "line 1", "ampoule runtimes remove broken"] {
        assert!(error.message().contains(part), "{error}");
    }
    assert_eq!(error.message().matches("hint: ").count(), 1, "{error}");
    fs::remove_dir_all(added.join("broken")).unwrap();
    let error = Catalogue::load(data.path(), &[]).unwrap_err();
    assert!(error.message().contains("remove empty"), "{error}");
    assert_eq!(error.message().matches("hint: ").count(), 1, "{error}");

    let nowhere = data.path().join("nowhere");
    let error = Catalogue::load(data.path(), std::slice::from_ref(&nowhere)).unwrap_err();
    for part in ["nowhere` in `runtimes.dirs` cannot be read: No such file", "; hint: correct"] {
        assert!(error.message().contains(part), "{error}");
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

#[test]
fn templates_have_names_and_imports_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let with = |templates: &str| {
        let folder = write_runtime(directory.path(), "ruby", &format!("{RUBY}\n{templates}"));
        RuntimeFolder::read(&folder)
    };
    let two = "[[templates]]\nname = \"ruby-web\"\nimports = [\"rack\"]\n\
               [[templates]]\nname = \"ruby-data\"\nimports = [\"numo\", \"daru\"]\n";
    assert_eq!(with(two).unwrap().manifest.templates.len(), 2);
    for (good, bad, said) in [
        ("ruby-web", "ruby-data", "`templates.name`: `ruby-data` is there twice"),
        ("ruby-web", "ruby", "`templates.name`: `ruby` is none; hint:"),
        ("ruby-web", "../web", "`templates.name`: `../web` is none; hint:"),
        ("\"rack\"", "", "`templates.imports`: it is empty; hint:"),
        ("rack", "a.b", "`templates.imports`: `a.b` is no name of a module; hint:"),
        ("daru", "numo", "`templates.imports`: `numo` is there twice"),
    ] {
        let error = with(&two.replacen(good, bad, 1)).unwrap_err();
        assert!(error.message().contains(said), "{error}");
    }
    let python = Catalogue::builtin();
    let python = python.get("python").unwrap();
    assert_eq!(python.manifest.templates[0].imports, ["numpy", "pandas", "matplotlib"]);
}
