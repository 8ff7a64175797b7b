//! What the documentation shows is true: its configurations pass `check`, its files are there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::run;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The README and every document below `docs`.
fn documents() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md")];
    for folder in ["docs", "docs/decisions"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// The blocks of `text` that are marked as `language`.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    let after = text.split(&begin).skip(1);
    after.map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_demo_passes_check_without_a_warning() {
    let ran = run(&root().join("examples/fleet"), &["check"]);
    assert_eq!((ran.code, ran.err.contains("warning")), (0, false), "{}{}", ran.out, ran.err);
    let names = ["server", "greeter", "echo", "crasher", "pulse", "channel@music"];
    for name in names {
        assert!(ran.out.lines().any(|line| line == name), "{name} in {}", ran.out);
    }
}

#[test]
fn the_fleet_that_lives_on_tokens_passes_check() {
    let ran = run(&root().join("examples/tokens"), &["check"]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    for name in ["provider", "python", "node", "rust"] {
        assert!(ran.out.lines().any(|line| line == name), "{name} in {}", ran.out);
    }
}

#[test]
fn every_configuration_that_is_shown_passes_check() {
    let mut checked = 0;
    for document in documents() {
        for block in blocks(&fs::read_to_string(&document).unwrap(), "toml") {
            if !block.contains("[instance.") && !block.contains("[template.") {
                continue;
            }
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("kissops.toml"), block).unwrap();
            let ran = run(folder.path(), &["check"]);
            assert_eq!(ran.code, 0, "{}:\n{block}\n{}", document.display(), ran.err);
            checked += 1;
        }
    }
    assert!(checked >= 3, "{checked}");
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    // This one holds what was measured, and is written last.
    let later = root().join("docs/performance.md");
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            let path = document.parent().unwrap().join(path);
            let exists = path.exists() || path.file_name() == later.file_name();
            assert!(exists, "{}: {target}", document.display());
        }
    }
}

#[test]
fn the_readme_names_files_that_are_there() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let shown = blocks(&text, "sh").concat();
    assert!(shown.contains("cargo build --release --bins --examples"), "{shown}");
    for path in ["examples/fleet/kissops.toml", "kissops-daemon", "kissops-cli"] {
        assert!(shown.contains(path) && root().join(path).exists(), "{path}");
    }
}
