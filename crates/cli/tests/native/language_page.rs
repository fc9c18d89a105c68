//! Does what the page on adding a language shows, and compares what it says.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ampoule_testkit::Suite;

use crate::languages::Place;

const PAGE: &str = include_str!("../../../../docs/add-a-language.md");

/// A block of the page: the last file named in the text before it, what it is, its text.
struct Block<'a> {
    named: Option<&'a str>,
    kind: &'a str,
    text: String,
}

/// The blocks of a part of the page, in order.
fn blocks(part: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let (mut named, mut inside) = (None, false);
    for line in part.lines() {
        match line.strip_prefix("```") {
            Some(kind) if !inside => {
                blocks.push(Block { named: named.take(), kind, text: String::new() });
                inside = true;
            }
            Some(_) => inside = false,
            None if inside => {
                let block = blocks.last_mut().unwrap();
                block.text.push_str(line);
                block.text.push('\n');
            }
            // `… this into `awk/manifest.toml`:` names what the next block is.
            None => {
                let name = line.strip_suffix("`:").and_then(|line| line.rsplit('`').next());
                named = name.or(named);
            }
        }
    }
    blocks
}

/// Whether a text is as shown, where `…` stands for anything on its line.
fn is_as_shown(said: &str, shown: &str) -> bool {
    let is_line = |said: &str, shown: &str| {
        let mut rest = said;
        let mut parts = shown.split('…');
        let first = parts.next().unwrap_or_default();
        let Some(after) = rest.strip_prefix(first) else { return false };
        rest = after;
        let parts: Vec<&str> = parts.collect();
        let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
        for part in middle {
            let Some((_, after)) = rest.split_once(part) else { return false };
            rest = after;
        }
        rest.ends_with(last)
    };
    said.lines().count() == shown.lines().count()
        && said.lines().zip(shown.lines()).all(|(said, shown)| is_line(said, shown))
}

/// The parts of the page, by their headings.
fn part(heading: &str) -> &'static str {
    let (_, after) = PAGE.split_once(&format!("\n## {heading}\n")).unwrap();
    after.split_once("\n## ").map_or(after, |(part, _)| part)
}

pub(crate) fn add(suite: &mut Suite) {
    suite.test("language_page::the_page_does_what_it_shows", || {
        let place = Place::new();
        let (mut files, mut commands) = (0, 0);
        for block in blocks(part("From an empty folder to a run")) {
            if block.kind != "console" {
                let name = block.named.ok_or("a block without a name")?;
                let path = place.path(name);
                fs::create_dir_all(path.parent().unwrap())?;
                fs::write(path, &block.text)?;
                files += 1;
                continue;
            }
            for shown in block.text.split("$ ").skip(1) {
                let (command, shown) = shown.split_once('\n').unwrap();
                let said = shell(&place, command)?;
                assert!(is_as_shown(&said, shown), "$ {command}\n{said}\ninstead of\n{shown}");
                commands += 1;
            }
        }
        assert!(files >= 3 && commands >= 9, "{files} files and {commands} commands");
        Ok(())
    });
    suite.test("language_page::its_tables_name_every_field", || {
        let place = Place::new();
        let folder = place.path("awk");
        fs::create_dir_all(&folder)?;
        let blocks = blocks(part("From an empty folder to a run"));
        fs::write(folder.join("runner.sh"), &blocks[1].text)?;
        let good = &blocks[0].text;
        for (table, manifest) in [
            ("| field |", format!("nothing = 1\n{good}")),
            ("| field of `[example]` |", good.replace("[example]", "[example]\nnothing = 1")),
            ("| field of `[packages]` |", format!("{good}\n[packages]\nnothing = 1\n")),
        ] {
            fs::write(folder.join("manifest.toml"), manifest)?;
            let said = shell(&place, "ampoule runtimes add awk")?;
            let (_, fields) = said.split_once("expected one of ").ok_or(said.clone())?;
            let known: Vec<&str> = fields.split('`').skip(1).step_by(2).collect();
            assert!(known.len() >= 3, "{said}");
            let (_, rows) = PAGE.split_once(table).unwrap();
            let rows = rows.lines().skip(2).take_while(|line| line.starts_with('|'));
            let shown: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
            assert_eq!(shown, known, "{table}");
        }
        Ok(())
    });
}

/// What a command of the page prints, on both streams; without what `run` says of the machine.
fn shell(place: &Place, command: &str) -> std::io::Result<String> {
    let like = place.command();
    let program = Path::new(like.get_program()).parent().map(PathBuf::from).unwrap_or_default();
    let path = std::env::join_paths([program.as_path(), Path::new("/usr/bin"), Path::new("/bin")]);
    let mut shell = Command::new("sh");
    for (name, value) in like.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.env("PATH", path.map_err(std::io::Error::other)?);
    shell.current_dir(like.get_current_dir().unwrap()).arg("-c");
    let output = shell.arg(format!("{{ {command}\n}} 2>&1")).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let of_the_machine = |line: &&str| line.starts_with("ampoule: not enforced on this machine:");
    Ok(said.split_inclusive('\n').filter(|line| !of_the_machine(line)).collect())
}
