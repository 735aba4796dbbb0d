//! A raft group's replica on sled and snapshot files, killed and started again.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use node_consensus::{
    EntryMeta, Group, Groups, RestoreError, Settings, StateMachine, Transport, TransportError,
};
use node_storage::{Database, SnapshotFiles};
use proto::ids::{GroupId, NodeId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::writer::{FOLDER, OPTIONS, Writer, acknowledge, numbers};

const CHILD: &str = "replica::child_that_leads_a_group_until_it_is_killed";
const ROUNDS: u64 = 5;

/// The numbers that were written.
#[derive(Default)]
struct Numbers(BTreeSet<u64>);

impl StateMachine for Numbers {
    fn apply(&mut self, _meta: &EntryMeta, op: &Bytes) -> Bytes {
        self.0.insert(u64::from_be_bytes(op[..8].try_into().unwrap()));
        Bytes::new()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let (numbers, rest) = snapshot.as_chunks::<8>();
        assert!(rest.is_empty());
        self.0 = numbers.iter().map(|n| u64::from_be_bytes(*n)).collect();
        Ok(())
    }
}

/// There is nobody else.
struct Nobody;

impl Transport for Nobody {
    fn call(
        &self,
        _to: NodeId,
        _group: GroupId,
        _payload: Bytes,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        async { Err(TransportError::Unreachable("nobody".to_owned())) }.boxed()
    }
}

/// A node with one group of which it is the only voter.
struct Replica {
    group: Group<Numbers>,
    database: Weak<Database>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// Opens the replica, or says why not.
async fn open(folder: &Path) -> Result<Replica, String> {
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let groups = Groups::new(NodeId(1), Arc::new(Nobody), tracker.clone(), stop.clone());
    let database = Database::open(&folder.join("db"), OPTIONS).map_err(|error| error.to_string())?;
    let snapshots = Arc::new(SnapshotFiles::new(folder.to_owned()));
    // The log is cut and snapshots are replaced while it is killed.
    let settings = Settings { snapshot_entries: 30, ..Settings::default() };
    let weak = Arc::downgrade(&database);
    let opened = groups.open(GroupId(1), database, snapshots, settings, Numbers::default()).await;
    let group = opened.map_err(|error| error.to_string())?;
    group.initialize([NodeId(1)].into()).await.map_err(|error| error.to_string())?;
    let mut view = group.watch();
    view.wait_for(|view| view.is_leader).await.map_err(|error| error.to_string())?;
    Ok(Replica { group, database: weak, tracker, stop })
}

impl Replica {
    async fn start(folder: &Path) -> Self {
        open(folder).await.unwrap()
    }

    /// Returns when the database is closed.
    async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        drop(self.group);
        // raft's own tasks let go of it a little later.
        for _ in 0..1_000 {
            if self.database.strong_count() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("somebody still holds the database");
    }
}

/// Not a test by itself: the child's life.
#[tokio::test]
async fn child_that_leads_a_group_until_it_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let replica = Replica::start(Path::new(&folder)).await;
    for n in numbers() {
        // Some take more than one chunk of the log.
        let size = if n % 10 == 0 { 9_000 } else { 8 };
        let mut op = n.to_be_bytes().to_vec();
        op.resize(size, 0);
        replica.group.write(op.into()).await.unwrap();
        acknowledge(n);
    }
}

#[tokio::test]
async fn a_replica_that_is_killed_again_and_again_has_every_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 1..=ROUNDS {
        let mut writer = Writer::start_as(CHILD, dir.path(), last);
        writer.wait_for(last + 100);
        last = writer.kill();
        let replica = Replica::start(dir.path()).await;
        let lost = replica.group.read(|numbers| (1..=last).filter(|n| !numbers.0.contains(n)).count()).await;
        assert_eq!(lost, Ok(0), "round {round}, {last} acknowledged");
        replica.end().await;
    }
}

#[tokio::test]
async fn a_snapshot_that_is_damaged_keeps_a_replica_from_starting_with_less() {
    let dir = tempfile::tempdir().unwrap();
    let replica = Replica::start(dir.path()).await;
    for n in 0..200u64 {
        replica.group.write(n.to_be_bytes().to_vec().into()).await.unwrap();
    }
    replica.end().await;
    let snapshot = dir.path().join("group-1.snapshot");
    let mut bytes = std::fs::read(&snapshot).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&snapshot, bytes).unwrap();
    let reason = open(dir.path()).await.err().expect("it must not open");
    assert!(reason.contains("damaged"), "{reason}");
}

#[tokio::test]
async fn a_file_of_sled_that_was_damaged_anywhere_is_refused_or_has_lost_nothing() {
    const WRITES: u64 = 25;
    const PLACES: usize = 12;
    let dir = tempfile::tempdir().unwrap();
    let replica = Replica::start(dir.path()).await;
    for n in 0..WRITES {
        // Together larger than several of sled's segments, so that the damage hits some and spares others.
        let mut op = n.to_be_bytes().to_vec();
        op.resize(100_000, 0);
        replica.group.write(op.into()).await.unwrap();
    }
    replica.end().await;
    assert!(!dir.path().join("group-1.snapshot").exists(), "the log is all there is");
    let whole = std::fs::read(dir.path().join("db/db")).unwrap();
    let mut refused = 0;
    for place in 0..PLACES {
        let copy = tempfile::tempdir().unwrap();
        copy_files(&dir.path().join("db"), &copy.path().join("db"));
        std::fs::copy(dir.path().join("db.commits"), copy.path().join("db.commits")).unwrap();
        let mut damaged = whole.clone();
        let start = whole.len() / PLACES * place;
        damaged[start..start + 64].fill(0xff);
        std::fs::write(copy.path().join("db/db"), damaged).unwrap();
        match open(copy.path()).await {
            Err(reason) => {
                assert!(reason.contains("damaged"), "{reason}");
                refused += 1;
            }
            // What was hit was a part that sled no longer needs.
            Ok(replica) => {
                let found = replica.group.read(|numbers| numbers.0.len() as u64).await;
                assert_eq!(found, Ok(WRITES), "damage at {start}");
                replica.end().await;
            }
        }
    }
    assert!(refused > 0, "nothing of use was hit");
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
