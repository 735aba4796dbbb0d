//! The built program against histories that were made by hand: what is sound passes, and each broken
//! promise is found by its own checker.

#![allow(clippy::unwrap_used, reason = "a test that can not go on should say where")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn history(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories").join(format!("{name}.jsonl"))
}

fn check(path: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast-chaos")).arg("check").arg(path).args(more).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_sound_history_passes_every_checker() {
    let said = check(&history("good"), &["--json"]);
    assert_eq!(said.status.code(), Some(0), "{}", text(&said));
    let report: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    for finding in report["findings"].as_array().unwrap() {
        assert_eq!(finding["verdict"], "kept", "{finding}");
    }
}

#[test]
fn each_broken_promise_is_found_by_its_own_checker() {
    for (name, checker) in [
        ("lost-write", "ledger"),
        ("stale-read", "registers"),
        ("double-count", "counters"),
        ("deposed-controller", "epochs"),
        ("old-price", "invalidation"),
        ("mixed-releases", "deploys"),
        ("double-order", "requests"),
        ("failed-request", "requests"),
        ("leak", "leaks"),
    ] {
        let said = check(&history(name), &["--json"]);
        assert_eq!(said.status.code(), Some(1), "{name}: {}", text(&said));
        let report: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        let broken: Vec<&str> = findings
            .iter()
            .filter(|finding| finding["verdict"] == "violated")
            .map(|finding| finding["check"].as_str().unwrap())
            .collect();
        assert_eq!(broken, [checker], "{name}");
        let words = text(&check(&history(name), &[]));
        assert!(words.contains("VIOLATED"), "{words}");
    }
}

#[test]
fn a_history_that_tests_nothing_proves_nothing() {
    let said = check(&history("nothing"), &[]);
    assert_eq!(said.status.code(), Some(4), "{}", text(&said));
    assert!(text(&said).contains("not tested"), "{}", text(&said));
}

#[test]
fn what_is_no_history_is_told_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    let good = std::fs::read_to_string(history("good")).unwrap();
    let mut lines: Vec<&str> = good.lines().collect();
    lines.insert(3, "nonsense");
    std::fs::write(&path, lines.join("\n")).unwrap();
    let said = check(&path, &[]);
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said).contains("line 4 is not understood"), "{}", text(&said));
    let said = check(&dir.path().join("absent"), &[]);
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said).contains("can not judge"), "{}", text(&said));
    // Half a line at the end is a writer that was killed.
    std::fs::write(&path, &good[..good.len() - 9]).unwrap();
    let said = check(&path, &[]);
    assert_eq!(said.status.code(), Some(0), "{}", text(&said));
    assert!(text(&said).contains("was cut"), "{}", text(&said));
}
