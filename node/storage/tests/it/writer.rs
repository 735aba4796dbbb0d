//! A child process that writes and says what was acknowledged, until something ends it.
//!
//! It is this test binary again, told by its environment what to be.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;

use node_consensus::{Batch, Engine as _};
use node_storage::{Database, Options};

pub const FOLDER: &str = "STORAGE_WRITER_FOLDER";
/// The last number that an earlier writer has written.
const AFTER: &str = "STORAGE_WRITER_AFTER";
/// Keys are written over and over, so that an old value in place of a newer one is seen as well.
pub const KEYS: u64 = 50;
pub const OPTIONS: Options = Options { cache_bytes: 1 << 20 };
const CHILD: &str = "writer::child_that_writes_until_it_is_killed";

/// Not a test by itself: the child's life.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = Path::new(&folder);
    let database = Database::open(folder, OPTIONS).unwrap();
    // Shows whether a model of a disk stands below this process.
    std::fs::File::create(folder.join("probe")).unwrap().sync_data().unwrap();
    for n in numbers() {
        let mut batch = Batch::default();
        batch.put((n % KEYS).to_be_bytes().to_vec(), [&n.to_be_bytes()[..], &[7; 500]].concat());
        let (tell, told) = mpsc::channel();
        database.commit(batch, Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap().unwrap();
        acknowledge(n);
    }
}

/// What a child has to write.
pub fn numbers() -> impl Iterator<Item = u64> {
    let after: u64 = std::env::var(AFTER).map_or(0, |after| after.parse().unwrap());
    after + 1..
}

/// Tells the parent.
pub fn acknowledge(n: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "acknowledged {n}").unwrap();
    out.flush().unwrap();
}

/// A running writer and what it says.
pub struct Writer {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    last: u64,
}

impl Writer {
    /// Goes on after the last number of an earlier writer.
    pub fn start(folder: &Path, after: u64) -> Self {
        Self::start_as(CHILD, folder, after)
    }

    /// The child is another test of this binary.
    pub fn start_as(child: &str, folder: &Path, after: u64) -> Self {
        Self::spawn(folder, after, &mut command(child))
    }

    /// With a model of a disk (a shared library) below it. Returns once it has begun to write.
    pub fn start_on_a_model(folder: &Path, after: u64, model: &Path) -> Self {
        let mut command = command(CHILD);
        command.env("LD_PRELOAD", model).env("DISK_MODEL", folder);
        let mut writer = Self::spawn(folder, after, &mut command);
        writer.wait_for(after + 1);
        writer
    }

    fn spawn(folder: &Path, after: u64, command: &mut Command) -> Self {
        let mut child =
            command.env(FOLDER, folder).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, last: after }
    }

    /// Waits until this write has been acknowledged.
    pub fn wait_for(&mut self, count: u64) {
        while self.last < count {
            assert!(self.hear(), "the writer goes on");
        }
    }

    /// Ends it at once, and returns the last write that it had acknowledged.
    pub fn kill(mut self) -> u64 {
        self.child.kill().unwrap();
        while self.hear() {}
        self.child.wait().unwrap();
        self.last
    }

    /// Whether it has said one more.
    fn hear(&mut self) -> bool {
        while let Some(Ok(line)) = self.lines.next() {
            // The test runner talks on the same line as the first.
            if let Some((_, n)) = line.split_once("acknowledged ") {
                self.last = n.parse().unwrap();
                return true;
            }
        }
        false
    }
}

fn command(child: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([child, "--exact", "--nocapture", "--test-threads=1"]);
    command
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
