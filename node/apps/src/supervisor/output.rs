//! What instances print: one bounded file each.
//!
//! An instance writes straight into its file, in append mode, so that it never waits for the agent.
//! A file that has grown too large is copied aside and emptied in place: the instance holds it open
//! and goes on at its new end. What is printed between the copy and the emptying is lost; the price
//! for no process between an app and its log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Of the file that is written and of the copy beside it, each.
pub(super) const FILE_BYTES_MAX: u64 = 8 << 20;

/// Files of instances that are gone, per app: enough to see how a crash loop went.
const FILES_KEPT: usize = 10;

/// What a message can hold of a log.
const TAIL_BYTES: u64 = 400;
const TAIL_LINES: usize = 6;

const EXTENSION: &str = "log";
const COPY_EXTENSION: &str = "log.1";

/// The log files of all instances.
#[derive(Debug, Clone)]
pub(super) struct Logs {
    root: PathBuf,
}

impl Logs {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Opens the log of a new instance and removes the oldest of those that went before.
    pub(super) fn open(&self, app: &str, instance: &str) -> io::Result<(File, PathBuf)> {
        let folder = self.root.join(app);
        fs::create_dir_all(&folder)?;
        prune(&folder)?;
        let path = folder.join(format!("{instance}.{EXTENSION}"));
        if path.exists() {
            // Of an earlier life of the agent.
            fs::rename(&path, path.with_extension(COPY_EXTENSION))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok((file, path))
    }

    /// Bounds every file. Called again and again.
    pub(super) fn bound(&self) -> io::Result<()> {
        for app in read_dir(&self.root)? {
            for path in read_dir(&app)? {
                if is_log(&path) && fs::metadata(&path).is_ok_and(|metadata| metadata.len() > FILE_BYTES_MAX)
                {
                    empty(&path)?;
                }
            }
        }
        Ok(())
    }
}

/// Copies the newest part aside and empties the file.
fn empty(path: &Path) -> io::Result<()> {
    let mut from = OpenOptions::new().read(true).write(true).open(path)?;
    let length = from.metadata()?.len();
    from.seek(SeekFrom::Start(length.saturating_sub(FILE_BYTES_MAX)))?;
    let mut to = File::create(path.with_extension(COPY_EXTENSION))?;
    io::copy(&mut from.by_ref().take(FILE_BYTES_MAX), &mut to)?;
    from.set_len(0)
}

fn prune(folder: &Path) -> io::Result<()> {
    let mut logs: Vec<(SystemTime, PathBuf)> = Vec::new();
    for path in read_dir(folder)?.into_iter().filter(|path| is_log(path)) {
        logs.push((fs::metadata(&path)?.modified()?, path));
    }
    logs.sort();
    let surplus = logs.len().saturating_sub(FILES_KEPT);
    for (_, path) in logs.into_iter().take(surplus) {
        fs::remove_file(&path)?;
        match fs::remove_file(path.with_extension(COPY_EXTENSION)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == EXTENSION)
}

fn read_dir(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(items) => items.map(|item| item.map(|item| item.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The last lines of a log, on one line; empty when there are none.
pub(super) fn tail(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut end = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut end)?;
        Ok(end)
    };
    // A log that can not be read has nothing to add to the message it is for.
    let end = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&end);
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let lines: Vec<String> =
        text.lines().map(|line| line.chars().map(printable).collect::<String>().trim().to_owned()).collect();
    let lines: Vec<String> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_log_that_grew_too_large_is_emptied_under_its_writer_and_the_newest_part_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::new(folder.path().to_owned());
        let (mut file, path) = logs.open("shop", "shop-1").unwrap();
        let block = vec![b'x'; 1 << 20];
        for _ in 0..9 {
            file.write_all(&block).unwrap();
        }
        file.write_all(b"\nnewest\n").unwrap();
        logs.bound().unwrap();
        file.write_all(b"after\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after\n");
        let copy = fs::read(path.with_extension(COPY_EXTENSION)).unwrap();
        assert_eq!(copy.len() as u64, FILE_BYTES_MAX);
        assert!(copy.ends_with(b"\nnewest\n"));
    }

    #[test]
    fn logs_of_instances_that_are_gone_are_kept_up_to_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::new(folder.path().to_owned());
        for n in 0..30 {
            logs.open("shop", &format!("shop-{n}")).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path().join("shop")).unwrap().count(), FILES_KEPT + 1);
    }

    #[test]
    fn the_tail_is_the_last_lines_whatever_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        assert_eq!(tail(&path), "");
        fs::write(&path, "a\n".repeat(1_000) + "\x1b[31mlast words\n\n").unwrap();
        assert_eq!(tail(&path), "a | a | a | a | a | [31mlast words");
        let mut bytes = vec![b'x'; 10_000];
        bytes.extend_from_slice(b"\n\xff\xfe end");
        fs::write(&path, bytes).unwrap();
        assert!(tail(&path).ends_with("\u{fffd}\u{fffd} end"));
    }
}
