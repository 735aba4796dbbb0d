//! A process that has no file descriptor left, be it by a flood of connections. What has to open a file
//! waits; nothing else is disturbed.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use node_consensus::{Batch, Engine as _, SnapshotError, Snapshots as _};
use node_storage::{Database, SnapshotFiles};
use proto::ids::GroupId;

use crate::writer::{FOLDER, OPTIONS};

const CHILD: &str = "descriptors::child_that_has_no_descriptor_left";
const LIMIT: usize = 64;
/// Longer than between two marks, so that one falls into it.
const DROUGHT: Duration = Duration::from_millis(1_500);
const PATIENCE: Duration = Duration::from_secs(20);

/// Not a test by itself: only a process of its own can be without descriptors.
#[test]
fn child_that_has_no_descriptor_left() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = Path::new(&folder);
    let database = Database::open(&folder.join("db"), OPTIONS).unwrap();
    let snapshots = SnapshotFiles::new(folder.to_owned());
    // A mark is a file of its own; to look at it takes no descriptor.
    let marked = || std::fs::metadata(folder.join("db.commits")).unwrap().ino();
    let before = marked();

    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
        assert!(taken.len() < LIMIT, "the limit holds");
    }
    assert!(matches!(snapshots.save(GroupId(1), b"state"), Err(SnapshotError::NotNow(_))));
    assert!(matches!(snapshots.load(GroupId(1)), Err(SnapshotError::NotNow(_))));
    let begun = Instant::now();
    while begun.elapsed() < DROUGHT {
        put(&database);
    }
    assert_eq!(marked(), before, "there was no descriptor for a mark");

    drop(taken);
    snapshots.save(GroupId(1), b"state").unwrap();
    let begun = Instant::now();
    while marked() == before {
        assert!(begun.elapsed() < PATIENCE, "the mark is made up for");
        put(&database);
    }
}

fn put(database: &Database) {
    let mut batch = Batch::default();
    batch.put(b"key".to_vec(), b"value".to_vec());
    let (tell, told) = mpsc::channel();
    database.commit(batch, Box::new(move |result| tell.send(result).unwrap()));
    told.recv().unwrap().unwrap();
}

#[test]
fn without_a_descriptor_commits_go_on_and_marks_and_snapshots_wait() {
    let dir = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {LIMIT} && exec \"$0\" \"$@\"")]);
    shell.arg(std::env::current_exe().unwrap()).args([CHILD, "--exact", "--test-threads=1"]);
    let output = shell.env(FOLDER, dir.path()).output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && words.contains("1 passed"), "{words}");
}
