//! A model of the worst disk that keeps its promises: of a file it keeps what had been written when
//! it was last synced, and nothing else.
//!
//! `disk.c` is loaded before the C library into the process that writes, and keeps a copy of each
//! file of the folder as it is synced. The power cut is the end of the process and the copies put in
//! the place of their files. It is in C because that is what stands between a program and its C
//! library without unsafe code in this project, and a C compiler is needed to build it anyway.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ROUNDS, WRITES};
use crate::writer::{Writer, lost};

#[test]
fn what_was_synced_is_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = compile(dir.path()) else {
        println!("not run: the model of a disk needs a C compiler (cc)");
        return;
    };
    let folder = dir.path().join("database");
    let mut last = 0;
    for round in 1..=ROUNDS {
        let mut writer = Writer::start_on_a_model(&folder, last, &model);
        if !folder.join("probe.synced").exists() {
            println!("not run: this test is linked statically, and can not be given a model of a disk");
            return;
        }
        writer.wait_for(last + WRITES);
        last = writer.kill();
        cut_power(&folder);
        assert_eq!(lost(&folder, last), Vec::<String>::new(), "round {round}");
    }
}

fn compile(dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/power/disk.c");
    let library = dir.join("disk.so");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output().ok()?;
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    Some(library)
}

/// Every file goes back to what it was at its last sync. A file that never was synced stays as it
/// is: sled's own are not what this is about.
fn cut_power(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "synced") {
            std::fs::rename(&path, path.with_extension("")).unwrap();
        }
    }
}
