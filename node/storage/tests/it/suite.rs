use node_storage::{Database, Options, SnapshotFiles};
use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};

use node_consensus::{Batch, Engine as _};

const OPTIONS: Options = Options { cache_bytes: 1 << 20 };

#[test]
fn the_log_and_the_state_machine_pass_openrafts_suite_on_sled() {
    node_consensus::suite::run(|| {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("db"), OPTIONS).unwrap();
        let snapshots = Arc::new(SnapshotFiles::new(dir.path().to_owned()));
        (dir, database as _, snapshots as _)
    })
    .unwrap();
}

#[test]
fn commits_that_come_together_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("db"), OPTIONS).unwrap();
    let before = database.stats();
    let (tell, told) = mpsc::channel();
    for n in 0..500u32 {
        let mut batch = Batch::default();
        batch.put(n.to_be_bytes().to_vec(), vec![1]);
        let tell = tell.clone();
        database.commit(batch, Box::new(move |result| tell.send(result).unwrap()));
    }
    for _ in 0..500 {
        told.recv().unwrap().unwrap();
    }
    let after = database.stats();
    assert_eq!(after.commits - before.commits, 500);
    assert!(after.syncs - before.syncs < 500, "{after:?}");
}

#[test]
fn a_range_is_deleted_in_steps_and_later_writes_into_it_stay_out_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("db"), OPTIONS).unwrap();
    let commit = |batch: Batch| {
        let (tell, told) = mpsc::channel();
        database.commit(batch, Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap().unwrap();
    };
    for start in (0..2_000u32).step_by(500) {
        let mut batch = Batch::default();
        for n in start..start + 500 {
            batch.put(n.to_be_bytes().to_vec(), vec![1]);
        }
        commit(batch);
    }
    let mut batch = Batch::default();
    batch.delete_range(0u32.to_be_bytes().to_vec(), 1_990u32.to_be_bytes().to_vec());
    commit(batch);
    let count = || {
        let mut count = 0;
        database
            .range(&0u32.to_be_bytes(), &5_000u32.to_be_bytes(), &mut |_, _| {
                count += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        count
    };
    for _ in 0..10_000 {
        if count() == 10 {
            return;
        }
        std::thread::yield_now();
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("{} keys are left", count());
}

#[test]
fn a_damaged_database_is_told_apart_from_a_fault_of_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("db");
    drop(Database::open(&folder, OPTIONS).unwrap());
    // The configuration file carries a checksum.
    std::fs::write(folder.join("conf"), b"garbage that is no configuration").unwrap();
    let opened = Database::open(&folder, OPTIONS);
    assert!(matches!(opened, Err(node_storage::StorageError::Corrupt { .. })));
}

#[test]
fn a_snapshot_of_sleds_that_was_cut_off_is_not_taken_for_damage() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("db");
    let database = Database::open(&folder, OPTIONS).unwrap();
    let mut batch = Batch::default();
    batch.put(b"key".to_vec(), b"value".to_vec());
    let (tell, told) = mpsc::channel();
    database.commit(batch, Box::new(move |result| tell.send(result).unwrap()));
    told.recv().unwrap().unwrap();
    drop(database);
    // What a kill, a full disk or a power cut leaves; it sorts after every finished one.
    let halves = ["snap.0000000000000000.generating", "snap.FFFFFFFFFFFFFFFF.generating"];
    for half in halves {
        std::fs::write(folder.join(half), b"short").unwrap();
    }
    let database = Database::open(&folder, OPTIONS).unwrap();
    assert_eq!(database.get(b"key"), Ok(Some(b"value".to_vec())));
    assert!(halves.iter().all(|half| !folder.join(half).exists()));
}

#[test]
fn a_database_that_forgot_everything_is_not_taken_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("db");
    drop(Database::open(&folder, OPTIONS).unwrap());
    drop(Database::open(&folder, OPTIONS).unwrap());
    // sled opens what is left of such a file as an empty database.
    let file = folder.join("db");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[..64].fill(0xff);
    std::fs::write(&file, bytes).unwrap();
    for snapshot in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        if snapshot.file_name().unwrap().to_string_lossy().starts_with("snap.") {
            std::fs::remove_file(snapshot).unwrap();
        }
    }
    let opened = Database::open(&folder, OPTIONS);
    assert!(matches!(opened, Err(node_storage::StorageError::Corrupt { .. })));
}

#[test]
fn a_database_whose_folder_was_removed_is_not_taken_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("db");
    drop(Database::open(&folder, OPTIONS).unwrap());
    std::fs::remove_dir_all(&folder).unwrap();
    // A replica that began anew under its old name would vote where it has voted.
    let opened = Database::open(&folder, OPTIONS);
    assert!(matches!(opened, Err(node_storage::StorageError::Corrupt { .. })));
}

#[test]
fn a_database_that_is_open_is_said_to_be_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("db");
    let _open = Database::open(&folder, OPTIONS).unwrap();
    let again = Database::open(&folder, OPTIONS);
    assert!(matches!(again, Err(node_storage::StorageError::Locked(_))));
}
