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

/// What is there of the tool's own, of whatever run.
fn left() -> Vec<String> {
    let mut left = Vec::new();
    for folder in ["/run/netns", "/sys/fs/cgroup/freezer", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"] {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        left.extend(names.filter(|name| name.starts_with("hfc")));
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    left.extend(mounts.lines().filter(|line| line.contains("holdfast-chaos/")).map(str::to_owned));
    left
}

/// The only test that makes something on this machine, so that what is left is its own.
#[test]
fn the_doctor_tells_of_every_fault_and_leaves_nothing_even_when_it_is_killed() {
    let doctor = || Command::new(env!("CARGO_BIN_EXE_holdfast-chaos")).args(["doctor", "--json"]).output();
    let said = doctor().unwrap();
    assert_eq!(said.status.code(), Some(0), "{}", text(&said));
    let report: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    let faults = report["faults"].as_array().unwrap();
    assert!(faults.len() >= 11, "{report}");
    for fault in faults {
        let works = fault["works"].as_bool().unwrap();
        assert!(works || (fault["reason"].is_string() && fault["instead"].is_string()), "{fault}");
        println!("{} {}", fault["fault"], if works { "works" } else { "is not to be had here" });
    }
    assert_eq!((&faults[0]["fault"], &faults[0]["works"]), (&"kill and pause".into(), &true.into()));
    assert_eq!(left(), Vec::<String>::new());
    for pause_ms in [60, 150, 300, 600, 1_000] {
        let mut doctor = Command::new(env!("CARGO_BIN_EXE_holdfast-chaos"))
            .arg("doctor")
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(pause_ms));
        doctor.kill().unwrap();
        doctor.wait().unwrap();
        let said = Command::new(env!("CARGO_BIN_EXE_holdfast-chaos")).arg("clean").output().unwrap();
        assert_eq!(said.status.code(), Some(0), "{}", text(&said));
        assert_eq!(left(), Vec::<String>::new(), "killed after {pause_ms} ms");
    }
}
