//! What the tree promises of itself: who may know whom, and where a thing is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources() -> Vec<PathBuf> {
    let listed = Command::new("git").args(["ls-files", "*.rs"]).current_dir(root()).output();
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    assert!(text.lines().count() > 100, "the sources are listed by git");
    text.lines().map(|line| root().join(line)).filter(|path| path.exists()).collect()
}

/// The build that breaks promises on purpose, which is no release.
const MUTANTS: &str = "cfg(holdfast_mutants)";

/// A workspace member and what it links by its manifest, for the program and not for tests.
fn dependencies() -> Vec<(String, BTreeSet<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = json["packages"].as_array().unwrap().iter().map(|package| {
        let linked = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| dependency["kind"].is_null())
            .filter(|dependency| dependency["target"] != MUTANTS);
        let names = linked.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect();
        (package["name"].as_str().unwrap().to_owned(), names)
    });
    packages.collect()
}

#[test]
fn crates_know_only_those_below_them() {
    let allowed: &[(&str, &[&str])] = &[
        ("proto", &[]),
        ("node-core", &["proto"]),
        ("node-consensus", &["proto", "node-core"]),
        ("node-storage", &["proto", "node-consensus"]),
        ("node-resp", &["proto", "node-core"]),
        ("node-security", &["proto"]),
        ("node-membership", &["proto", "node-core", "node-security"]),
        ("node-apps", &["proto", "node-core", "node-storage"]),
        ("balancer", &["proto"]),
        (
            "node",
            &[
                "proto",
                "balancer",
                "node-apps",
                "node-consensus",
                "node-core",
                "node-membership",
                "node-resp",
                "node-security",
                "node-storage",
            ],
        ),
        ("cli", &["proto", "node", "node-apps"]),
        ("mutation", &[]),
        // The simulation runs the product's own machines.
        ("simulation", &["proto", "node-core", "node-membership", "node-consensus", "node-security"]),
        // What judges the product links none of it, but for asking it as any client does.
        ("chaos", &["proto", "simulation"]),
    ];
    let members: BTreeSet<&str> = allowed.iter().map(|(name, _)| *name).collect();
    for (name, linked) in dependencies() {
        let (_, may) =
            allowed.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name} is new"));
        let ours = linked.iter().filter(|dependency| members.contains(dependency.as_str()));
        let wrong: Vec<_> = ours.filter(|dependency| !may.contains(&dependency.as_str())).collect();
        assert!(wrong.is_empty(), "{name} may not link {wrong:?}");
    }
}

/// Only the build that exists to be caught can be told to do wrong.
#[cfg(not(holdfast_mutants))]
#[test]
fn the_program_can_not_be_told_to_break_its_promises() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_holdfast")).unwrap();
    let says = |word: &[u8]| program.windows(word.len()).any(|window| window == word);
    assert!(says(b"HOLDFAST_LOG"), "the words of a program are found in it");
    assert!(!says(b"HOLDFAST_MUTANT"));
}

#[test]
fn each_engine_is_known_to_one_crate() {
    for (engine, owner) in [
        ("foca", "node-membership"),
        ("openraft", "node-consensus"),
        ("sled", "node-storage"),
        ("httparse", "balancer"),
    ] {
        for (name, linked) in dependencies() {
            assert!(name == owner || !linked.contains(engine), "{name} links {engine}, which is {owner}'s");
        }
    }
}

#[test]
fn the_heart_links_no_runtime() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "-p", "node-core", "-e", "normal", "--offline", "--prefix", "none"])
        .current_dir(root())
        .output()
        .unwrap();
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(tree.contains("node-core"), "{}", String::from_utf8_lossy(&output.stderr));
    for runtime in ["tokio", "tonic", "hyper", "mio", "foca", "openraft", "sled"] {
        let found = tree.lines().any(|line| line.split(' ').next() == Some(runtime));
        assert!(!found, "node-core links {runtime}");
    }
}

#[test]
fn files_have_names_that_say_something_and_are_one_noun_long() {
    for path in sources() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let odd = ["mod.rs", "util.rs", "utils.rs", "helper.rs", "helpers.rs", "common.rs", "misc.rs"];
        assert!(!odd.contains(&name.as_str()), "{}", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        let is_test = path.components().any(|part| part.as_os_str() == "tests") || name == "tests.rs";
        assert!(is_test || lines <= 500, "{} has {lines} lines before its tests", path.display());
    }
}

#[test]
fn the_top_level_is_what_the_readme_says() {
    let listed = Command::new("git").args(["ls-files"]).current_dir(root()).output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let top: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split('/').next())
        .filter(|name| !name.starts_with('.'))
        .collect();
    let expected = BTreeSet::from([
        "Cargo.lock",
        "Cargo.toml",
        "README.md",
        "balancer",
        "chaos",
        "cli",
        "node",
        "proto",
    ]);
    assert_eq!(top, expected);
}

/// The data folder's durable files are opened by node-storage alone. What else opens a file for writing
/// is named here, with the reason.
#[test]
fn durable_files_are_opened_in_one_place() {
    let allowed = [
        // The storage itself.
        "node/storage/",
        // Moves a complete folder into place.
        "node/src/identity.rs",
        "node/apps/src/store.rs",
        "node/apps/src/store/unpack.rs",
        // Output of instances: a log that may be cut, and is not synced.
        "node/apps/src/supervisor/output.rs",
        // The demonstration writes its own folder, which a restart makes anew.
        "cli/src/demo",
        // It breaks disks of its own.
        "chaos/src/",
    ];
    let opens = ["File::create", "OpenOptions::new", "fs::write(", "fs::rename("];
    for path in sources() {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let is_test = name.contains("/tests") || name.ends_with("build.rs");
        if is_test || allowed.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let program: String =
            text.lines().take_while(|line| *line != "#[cfg(test)]").collect::<Vec<_>>().join("\n");
        // `DurableFile::create` is the storage's.
        let program = program.replace("DurableFile::create", "");
        for open in opens {
            assert!(!program.contains(open), "{name} has {open}");
        }
    }
}
