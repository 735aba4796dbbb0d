//! Disks that forget what was not synced.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_consensus::memory::MemorySnapshots;
use node_consensus::{Batch, Done, Engine, EngineError, SnapshotError, Snapshots, Write};
use proto::ids::GroupId;
use rand::Rng as _;
use tokio::sync::Notify;

use super::scene::Scene;

type Keys = BTreeMap<Vec<u8>, Vec<u8>>;

/// How long a sync takes on a disk that is well.
const SYNC_US: RangeInclusive<u64> = 300..=8_000;
const SLOW_SYNC_US: RangeInclusive<u64> = 50_000..=900_000;
/// The same of a whole snapshot. Below what the last part of one may take to be answered.
const SAVE_US: RangeInclusive<u64> = 1_000..=400_000;
const SLOW_SAVE_US: RangeInclusive<u64> = 500_000..=6_000_000;

/// What is really there, whoever runs above it.
#[derive(Default)]
pub struct Disk {
    kept: Mutex<Kept>,
    /// Each is replaced as a whole, and there when that returns, which takes its time.
    snapshots: MemorySnapshots,
}

#[derive(Default)]
struct Kept {
    keys: Keys,
    slow: usize,
}

impl Disk {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fault begins, or ends, for which each sync takes its time.
    pub fn slow(&self, begins: bool) {
        let mut kept = self.kept();
        kept.slow = if begins { kept.slow + 1 } else { kept.slow.saturating_sub(1) };
    }
}

/// A disk as one life of an agent sees it.
pub struct Opened {
    scene: Arc<Scene>,
    disk: Arc<Disk>,
    state: Mutex<State>,
    work: Notify,
}

struct State {
    /// With what was not synced yet.
    seen: Keys,
    waiting: VecDeque<(Batch, Done)>,
    /// When the snapshots that are being saved are there, in microseconds of the scene.
    saves: BTreeMap<GroupId, u64>,
    is_dead: bool,
}

impl Opened {
    pub fn new(scene: Arc<Scene>, disk: Arc<Disk>) -> Self {
        let seen = disk.kept().keys.clone();
        let state = State { seen, waiting: VecDeque::new(), saves: BTreeMap::new(), is_dead: false };
        Self { scene, disk, state: Mutex::new(state), work: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_dead(&self) -> bool {
        self.state().is_dead
    }

    /// Syncs what waits, together, until the life is over.
    pub async fn sync(self: Arc<Self>) {
        loop {
            let count = self.state().waiting.len();
            if self.state().is_dead {
                return;
            }
            if count == 0 {
                self.work.notified().await;
                continue;
            }
            let took_us = self.draw_us(SYNC_US, SLOW_SYNC_US);
            tokio::time::sleep(Duration::from_micros(took_us)).await;
            let synced: Vec<Done> = {
                let mut state = self.state();
                if state.is_dead {
                    return;
                }
                let mut kept = self.disk.kept();
                let done = state.waiting.drain(..count);
                done.map(|(batch, done)| {
                    write(&mut kept.keys, batch);
                    done
                })
                .collect()
            };
            for done in synced {
                done(Ok(()));
            }
        }
    }

    /// How long something takes on this disk as it is now.
    fn draw_us(&self, well: RangeInclusive<u64>, slow: RangeInclusive<u64>) -> u64 {
        let is_slow = self.disk.kept().slow > 0;
        self.scene.draw(|random| random.random_range(if is_slow { slow } else { well }))
    }

    /// Whether what is saved of this group has had its time. A call can not wait here, where time goes on
    /// when everybody waits; it is refused for the moment, and whoever saves calls again.
    fn is_written(&self, group: GroupId) -> bool {
        let now_us = self.scene.now_us();
        let mut state = self.state();
        let due_us =
            *state.saves.entry(group).or_insert_with(|| now_us + self.draw_us(SAVE_US, SLOW_SAVE_US));
        if now_us < due_us {
            return false;
        }
        state.saves.remove(&group);
        true
    }

    /// The life is over, at once. Of what was not synced the kernel may have written a beginning.
    pub fn crash(&self) {
        let waiting = {
            let mut state = self.state();
            state.is_dead = true;
            let mut waiting = std::mem::take(&mut state.waiting);
            let survive = self.scene.draw(|random| random.random_range(0..=waiting.len()));
            let mut kept = self.disk.kept();
            for (batch, _) in waiting.drain(..survive) {
                write(&mut kept.keys, batch);
            }
            waiting
        };
        self.work.notify_one();
        for (_, done) in waiting {
            done(Err(off()));
        }
    }
}

fn off() -> EngineError {
    EngineError("the power is off".to_owned())
}

fn write(keys: &mut Keys, batch: Batch) {
    for write in batch.writes {
        match write {
            Write::Put { key, value } => {
                keys.insert(key, value);
            }
            Write::Delete { key } => {
                keys.remove(&key);
            }
            Write::DeleteRange { from, to } => keys.retain(|key, _| *key < from || *key >= to),
        }
    }
}

impl Engine for Opened {
    fn commit(&self, batch: Batch, done: Done) {
        {
            let mut state = self.state();
            if !state.is_dead {
                write(&mut state.seen, batch.clone());
                state.waiting.push_back((batch, done));
                drop(state);
                self.work.notify_one();
                return;
            }
        }
        done(Err(off()));
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.state().seen.get(key).cloned())
    }

    fn range(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        for (key, value) in self.state().seen.range(from.to_vec()..to.to_vec()) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Snapshots for Opened {
    fn is_prompt(&self) -> bool {
        true
    }

    fn save(&self, group: GroupId, bytes: &[u8]) -> Result<(), SnapshotError> {
        if self.is_dead() {
            return Err(off().into());
        }
        if !self.is_written(group) {
            return Err(SnapshotError::NotNow("it is being written".to_owned()));
        }
        self.disk.snapshots.save(group, bytes)
    }

    fn load(&self, group: GroupId) -> Result<Option<Vec<u8>>, SnapshotError> {
        self.disk.snapshots.load(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str) -> Batch {
        let mut batch = Batch::default();
        batch.put(key.into(), b"value".to_vec());
        batch
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_synced_is_gone_from_some_point_on() {
        let mut lost = 0;
        for seed in 0..20 {
            let scene = Arc::new(Scene::new(seed));
            let disk = Arc::new(Disk::default());
            let opened = Arc::new(Opened::new(Arc::clone(&scene), Arc::clone(&disk)));
            tokio::spawn(Arc::clone(&opened).sync());
            let (synced, told) = tokio::sync::oneshot::channel();
            opened.commit(put("1"), Box::new(move |result| synced.send(result).unwrap()));
            told.await.unwrap().unwrap();
            for key in ["2", "3"] {
                opened.commit(put(key), Box::new(|_| {}));
            }
            opened.crash();
            let after = Opened::new(scene, disk);
            let has = |key: &str| after.get(key.as_bytes()).unwrap().is_some();
            assert!(has("1"));
            assert!(has("2") || !has("3"));
            lost += usize::from(!has("3"));
        }
        assert!(lost > 0 && lost < 20, "{lost}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_takes_its_time_and_is_lost_by_whoever_dies_meanwhile() {
        let scene = Arc::new(Scene::new(1));
        let disk = Arc::new(Disk::default());
        let group = GroupId(1);
        let save = |opened: &Opened| opened.save(group, b"state");
        let dies = Opened::new(Arc::clone(&scene), Arc::clone(&disk));
        assert!(matches!(save(&dies), Err(SnapshotError::NotNow(_))));
        dies.crash();
        assert!(matches!(save(&dies), Err(SnapshotError::Fault(_))));
        let lives = Opened::new(scene, disk);
        assert_eq!(lives.load(group), Ok(None));
        assert!(matches!(save(&lives), Err(SnapshotError::NotNow(_))));
        tokio::time::sleep(Duration::from_micros(*SAVE_US.end())).await;
        assert_eq!(save(&lives), Ok(()));
        assert_eq!(lives.load(group), Ok(Some(b"state".to_vec())));
    }
}
