//! Which artifacts `/run` answers with.

use ampoule_core::{Artifact, SkippedArtifact};
use ampoule_manager::{is_safe_name, shown_name};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

/// The most files in one answer.
const MAX_FILES: usize = 10;
/// The most bytes in one file.
const MAX_BYTES: usize = 10 << 20;
/// Content from which on encoding is worth a thread.
const LARGE_BYTES: usize = 1 << 20;

/// The extensions that RAGFlow knows, and what they are.
const TYPES: [(&str, &str); 8] = [
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("svg", "image/svg+xml"),
    ("pdf", "application/pdf"),
    ("csv", "text/csv"),
    ("json", "application/json"),
    ("html", "text/html"),
];

/// A file in an answer.
#[derive(Debug, Serialize)]
pub(super) struct ArtifactBody {
    name: String,
    mime_type: &'static str,
    size: usize,
    content_b64: String,
}

/// Whether encoding these takes noticeably long.
pub(super) fn are_large(artifacts: &[Artifact]) -> bool {
    artifacts.iter().map(|artifact| artifact.content.len()).sum::<usize>() > LARGE_BYTES
}

/// Takes the first ten files, by name, that RAGFlow's rules let through; tells of all others why
/// not, after those that the provider skipped.
pub(super) fn select(
    mut artifacts: Vec<Artifact>,
    mut skipped: Vec<SkippedArtifact>,
) -> (Vec<ArtifactBody>, Vec<SkippedArtifact>) {
    artifacts.sort_by(|a, b| a.name.cmp(&b.name));
    let mut bodies = Vec::new();
    for Artifact { name, content } in artifacts {
        match fits(&name, &content, bodies.len()) {
            Ok(mime_type) => bodies.push(ArtifactBody {
                mime_type,
                size: content.len(),
                content_b64: STANDARD.encode(&content),
                name,
            }),
            Err(reason) => skipped.push(SkippedArtifact { name: shown_name(&name), reason }),
        }
    }
    (bodies, skipped)
}

fn fits(name: &str, content: &[u8], taken: usize) -> Result<&'static str, String> {
    if !is_safe_name(name) {
        return Err("the name is not allowed".to_owned());
    }
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let known = TYPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(extension));
    let Some((_, mime_type)) = known else {
        let known: Vec<&str> = TYPES.iter().map(|(known, _)| *known).collect();
        return Err(format!("the extension is not one of {}", known.join(", ")));
    };
    if content.is_empty() {
        return Err("it is empty".to_owned());
    }
    if content.len() > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    if taken == MAX_FILES {
        return Err(format!("there are more than {MAX_FILES} files"));
    }
    Ok(mime_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(name: &str, content: &[u8]) -> Artifact {
        Artifact { name: name.to_owned(), content: content.to_vec() }
    }

    #[test]
    fn the_rules_choose_and_the_rest_is_told() {
        let large = vec![0; MAX_BYTES + 1];
        let artifacts = vec![
            artifact("z.PNG", b"p"),
            artifact("empty.csv", b""),
            artifact("large.json", &large),
            artifact("tool.exe", b"x"),
            artifact("none", b"x"),
            artifact(".hidden.png", b"x"),
            artifact("a\u{1}.png", b"x"),
            artifact("a.jpg", &vec![0; MAX_BYTES]),
        ];
        let before = SkippedArtifact { name: "link.png".to_owned(), reason: "a link".to_owned() };
        let (bodies, skipped) = select(artifacts, vec![before.clone()]);
        let names: Vec<&str> = bodies.iter().map(|body| body.name.as_str()).collect();
        assert_eq!(names, ["a.jpg", "z.PNG"]);
        assert_eq!(bodies[1].mime_type, "image/png");
        assert_eq!(bodies[1].content_b64, "cA==");
        assert_eq!(skipped[0], before);
        let told: Vec<(&str, &str)> = skipped[1..]
            .iter()
            .map(|skipped| (skipped.name.as_str(), skipped.reason.as_str()))
            .collect();
        let extensions = "the extension is not one of png, jpg, jpeg, svg, pdf, csv, json, html";
        assert_eq!(
            told,
            [
                (".hidden.png", "the name is not allowed"),
                ("a\u{fffd}.png", "the name is not allowed"),
                ("empty.csv", "it is empty"),
                ("large.json", "it is larger than 10485760 bytes"),
                ("none", extensions),
                ("tool.exe", extensions),
            ]
        );
    }

    #[test]
    fn the_first_ten_by_name_are_taken() {
        let artifacts = (0..12).rev().map(|i| artifact(&format!("{i:02}.csv"), b"1")).collect();
        let (bodies, skipped) = select(artifacts, Vec::new());
        assert_eq!(bodies.len(), 10);
        assert_eq!(bodies[9].name, "09.csv");
        assert_eq!(skipped.len(), 2);
        assert_eq!(skipped[0].reason, "there are more than 10 files");
    }
}
