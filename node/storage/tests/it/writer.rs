//! A child process that writes and says what was acknowledged, until something ends it.
//!
//! It is this test binary again, told by its environment what to be.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;

use node_consensus::{Batch, Engine as _};
use node_storage::{Database, Options};

const FOLDER: &str = "STORAGE_WRITER_FOLDER";
/// Keys are written over and over, so that an old value in place of a newer one is seen as well.
pub const KEYS: u64 = 50;
pub const OPTIONS: Options = Options { cache_bytes: 1 << 20 };

/// Not a test by itself: the child's life.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let database = Database::open(Path::new(&folder), OPTIONS).unwrap();
    let mut out = std::io::stdout().lock();
    for n in 1u64.. {
        let mut batch = Batch::default();
        batch.put((n % KEYS).to_be_bytes().to_vec(), [&n.to_be_bytes()[..], &[7; 500]].concat());
        let (tell, told) = mpsc::channel();
        database.commit(batch, Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap().unwrap();
        writeln!(out, "acknowledged {n}").unwrap();
        out.flush().unwrap();
    }
}

/// A running writer and what it says.
pub struct Writer {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Writer {
    pub fn start(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "writer::child_that_writes_until_it_is_killed",
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(FOLDER, folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits until that many writes have been acknowledged.
    pub fn wait_for(&mut self, count: u64) {
        while self.next().expect("the writer goes on") < count {}
    }

    /// Ends it at once, and returns the last write that it had acknowledged.
    pub fn kill(mut self) -> u64 {
        self.child.kill().unwrap();
        let mut last = 0;
        while let Some(n) = self.next() {
            last = n;
        }
        self.child.wait().unwrap();
        last
    }

    fn next(&mut self) -> Option<u64> {
        loop {
            let line = self.lines.next()?.ok()?;
            // The test runner talks on the same line as the first.
            if let Some((_, n)) = line.split_once("acknowledged ") {
                return Some(n.parse().unwrap());
            }
        }
    }
}

/// Every key must have the newest acknowledged value, or a later one.
pub fn lost(folder: &Path, acknowledged: u64) -> Vec<String> {
    let database = Database::open(folder, OPTIONS).unwrap();
    let mut lost = Vec::new();
    for key in 0..KEYS {
        let newest = (1..=acknowledged).rev().take(usize::try_from(KEYS).unwrap()).find(|n| n % KEYS == key);
        let Some(newest) = newest else { continue };
        let found = database.get(&key.to_be_bytes()).unwrap();
        let found = found.map_or(0, |value| u64::from_be_bytes(*value.first_chunk().unwrap()));
        if found < newest {
            lost.push(format!("key {key}: {found} instead of {newest}"));
        }
    }
    lost
}
