//! The runtime folders that this installation knows.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ampoule_core::{Error, ErrorKind, Language, Result, RuntimeManifest};
use sha2::{Digest, Sha256};

const OPERATION: &str = "read the runtimes";

/// The manifest's file name in a runtime folder.
const MANIFEST: &str = "manifest.toml";

/// One runtime: its manifest and the files beside it.
#[derive(Clone, Debug)]
pub struct RuntimeFolder {
    /// The folder's name, for messages.
    pub name: String,
    /// What the folder says of itself.
    pub manifest: RuntimeManifest,
    /// The runner's source.
    pub runner: Cow<'static, str>,
    /// The files that the packages are installed from, the lock among them, by their names.
    pub package_files: BTreeMap<String, Cow<'static, str>>,
}

/// What stands for the names in braces in a manifest's command and environment.
#[derive(Clone, Debug)]
pub struct Placeholders<'a> {
    /// `{interpreter}`: the interpreter's path inside the sandbox.
    pub interpreter: &'a str,
    /// `{runner}`: the runner's path inside the sandbox.
    pub runner: &'a str,
    /// `{packages}`: the directory of the packages inside the sandbox, installed or not.
    pub packages: &'a str,
    /// `{heap_mb}`: the bound for an interpreter's own heap, in MiB. `None` leaves the word for
    /// whoever knows the limit of the run.
    pub heap_mb: Option<u64>,
}

impl Placeholders<'_> {
    /// Puts the values into one text.
    pub fn fill(&self, text: &str) -> String {
        let text = text
            .replace("{interpreter}", self.interpreter)
            .replace("{runner}", self.runner)
            .replace("{packages}", self.packages);
        match self.heap_mb {
            Some(heap_mb) => text.replace("{heap_mb}", &heap_mb.to_string()),
            None => text,
        }
    }
}

impl RuntimeFolder {
    /// The command line inside the sandbox.
    pub fn command(&self, placeholders: &Placeholders<'_>) -> Vec<String> {
        self.manifest.command.iter().map(|part| placeholders.fill(part)).collect()
    }

    /// The whole environment inside the sandbox.
    pub fn environment(&self, placeholders: &Placeholders<'_>) -> BTreeMap<String, String> {
        let filled = |(name, value): (&String, &String)| (name.clone(), placeholders.fill(value));
        self.manifest.environment.iter().map(filled).collect()
    }

    /// The canonical language.
    pub fn language(&self) -> &Language {
        &self.manifest.language
    }

    /// The locked list of packages, if the runtime has packages.
    pub fn lock(&self) -> Option<&str> {
        let packages = self.manifest.packages.as_ref()?;
        self.package_files.get(&packages.lock).map(AsRef::as_ref)
    }

    /// A short digest of the locked list: two lists never share a directory.
    pub fn lock_digest(&self) -> Option<String> {
        let digest = Sha256::digest(self.lock()?.as_bytes());
        Some(digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Puts a folder together and checks it; `read` gives a file of the folder, if it is there.
    fn build(name: &str, read: impl Fn(&str) -> Result<Option<Cow<'static, str>>>) -> Result<Self> {
        let bad = |problem: String| {
            Error::new(ErrorKind::Config, OPERATION, format!("runtime `{name}`: {problem}"))
        };
        let required = |file: &str| {
            read(file)?
                .ok_or_else(|| bad(format!("`{file}` is missing; hint: put it in the folder")))
        };
        let text = required(MANIFEST)?;
        let manifest: RuntimeManifest = toml::from_str(&text)
            .map_err(|error| bad(format!("`{MANIFEST}`: {}", one_line(&error.to_string()))))?;
        manifest.validate().map_err(|error| bad(format!("`{MANIFEST}`: {error}")))?;
        if !manifest.command.iter().any(|part| part.contains("{runner}")) {
            return Err(bad(format!(
                "`{MANIFEST}`: field `command`: it does not name `{{runner}}`"
            )));
        }
        let runner = required(&manifest.runner)?;
        let mut package_files = BTreeMap::new();
        if let Some(packages) = &manifest.packages {
            let mut files = vec![packages.lock.as_str()];
            if packages.installer == "npm" {
                files.push("package.json");
            }
            for file in files {
                if file.contains('/') || file.starts_with('.') || file.is_empty() {
                    return Err(bad(format!(
                        "`{MANIFEST}`: field `packages.lock`: `{file}` is not a file name in this folder"
                    )));
                }
                package_files.insert(file.to_owned(), required(file)?);
            }
        }
        Ok(Self { name: name.to_owned(), manifest, runner, package_files })
    }
}

/// The runtimes that this installation knows, one for each language.
#[derive(Clone, Debug)]
pub struct Catalogue {
    folders: Vec<RuntimeFolder>,
}

/// The files of a folder that is part of this binary.
macro_rules! embedded {
    ($name:literal, $($file:literal),+ $(,)?) => {
        ($name, &[$(($file, include_str!(concat!("../../../../runtimes/", $name, "/", $file)))),+])
    };
}

/// A folder's name with the names and texts of its files.
type Embedded = (&'static str, &'static [(&'static str, &'static str)]);

const BUILTIN: &[Embedded] = &[
    embedded!("python", "manifest.toml", "runner.py", "requirements.lock"),
    embedded!("nodejs", "manifest.toml", "runner.js", "package.json", "package-lock.json"),
];

impl Catalogue {
    /// The runtimes that are part of this binary.
    pub fn builtin() -> Self {
        let folders = BUILTIN
            .iter()
            .map(|(name, files)| {
                let read = |wanted: &str| {
                    let found = files.iter().find(|(file, _)| *file == wanted);
                    Ok(found.map(|(_, text)| Cow::Borrowed(*text)))
                };
                RuntimeFolder::build(name, read).expect("a test reads the embedded folders")
            })
            .collect();
        Self { folders }
    }

    /// The runtimes under `path`: every folder in it that holds a `manifest.toml`.
    pub fn load_dir(path: &Path) -> Result<Self> {
        let unreadable = |what: &Path, error: std::io::Error| {
            Error::new(ErrorKind::Config, OPERATION, format!("`{}` cannot be read", what.display()))
                .with_source(error)
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(|error| unreadable(path, error))? {
            let entry = entry.map_err(|error| unreadable(path, error))?;
            if entry.path().join(MANIFEST).is_file() {
                names.push(entry.file_name());
            }
        }
        names.sort();
        if names.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                OPERATION,
                format!(
                    "`{}` holds no runtime; hint: put a folder with a `{MANIFEST}` in it",
                    path.display()
                ),
            ));
        }
        let mut catalogue = Self { folders: Vec::new() };
        for name in names {
            let folder = path.join(&name);
            let read = |file: &str| {
                let file = folder.join(file);
                match fs::read_to_string(&file) {
                    Ok(text) => Ok(Some(Cow::Owned(text))),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(unreadable(&file, error)),
                }
            };
            catalogue.add(RuntimeFolder::build(&name.to_string_lossy(), read)?)?;
        }
        Ok(catalogue)
    }

    /// Adds the runtimes of `other`; one of the same language takes the place of ours.
    pub fn extend(mut self, other: Self) -> Result<Self> {
        for folder in other.folders {
            self.folders.retain(|ours| ours.language() != folder.language());
            self.add(folder)?;
        }
        Ok(self)
    }

    fn add(&mut self, folder: RuntimeFolder) -> Result<()> {
        let names = std::iter::once(folder.language().as_str())
            .chain(folder.manifest.aliases.iter().map(String::as_str));
        for name in names {
            if let Some(other) = self.find(name) {
                return Err(Error::new(
                    ErrorKind::Config,
                    OPERATION,
                    format!(
                        "runtimes `{}` and `{}` both answer to `{name}`; hint: change `language` or `aliases` in one `{MANIFEST}`",
                        other.name, folder.name
                    ),
                ));
            }
        }
        self.folders.push(folder);
        Ok(())
    }

    /// The runtime that a caller means by `name`: a language or an alias, in any case.
    pub fn find(&self, name: &str) -> Option<&RuntimeFolder> {
        self.folders.iter().find(|folder| folder.manifest.answers_to(name))
    }

    /// As [`Catalogue::find`]; an unknown name is an error that lists the known ones.
    pub fn get(&self, name: &str) -> Result<&RuntimeFolder> {
        self.find(name).ok_or_else(|| {
            let known: Vec<String> = self
                .folders
                .iter()
                .flat_map(|folder| {
                    let language = folder.language().as_str();
                    let aliases = folder.manifest.aliases.iter().map(String::as_str);
                    std::iter::once(language).chain(aliases).map(|name| format!("`{name}`"))
                })
                .collect();
            Error::new(
                ErrorKind::InvalidRequest,
                "choose a runtime",
                format!("unknown language `{name}`; hint: one of {}", known.join(", ")),
            )
        })
    }

    /// The runtime for a file extension, without the dot.
    pub fn by_extension(&self, extension: &str) -> Option<&RuntimeFolder> {
        let is_it = |known: &String| known.eq_ignore_ascii_case(extension);
        self.folders.iter().find(|folder| folder.manifest.extensions.iter().any(is_it))
    }

    /// The canonical languages.
    pub fn languages(&self) -> Vec<Language> {
        self.folders.iter().map(|folder| folder.language().clone()).collect()
    }

    /// All runtimes.
    pub fn iter(&self) -> impl Iterator<Item = &RuntimeFolder> {
        self.folders.iter()
    }
}

/// A report of several lines on one, for an error's text.
fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(
            node.environment(&PLACEHOLDERS)["NODE_PATH"],
            "/opt/ampoule/packages/node_modules"
        );
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
    "#;

    #[test]
    fn a_directory_of_runtimes_is_read_and_checked() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write_runtime(root, "ruby", RUBY);
        let catalogue = Catalogue::builtin().extend(Catalogue::load_dir(root).unwrap()).unwrap();
        assert_eq!(catalogue.get("RB").unwrap().runner, "puts 1");

        for (manifest, expected) in [
            (RUBY.replace("run.rb", "other.rb"), "runtime `ruby`: `other.rb` is missing"),
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
            assert!(error.message().contains("`ruby`"), "{error}");
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
}
