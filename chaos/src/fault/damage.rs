//! Files that are no longer what was written.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rand::Rng as _;
use rand::rngs::StdRng;

use super::{FaultError, io};

/// How much of a file's end is lost: one part of so many.
const LOST_END: u64 = 3;

/// The files of a folder and of those below, with their sizes, in a fixed order. Empty ones are left out.
pub fn files(folder: &Path) -> Result<Vec<(PathBuf, u64)>, FaultError> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(io(format!("read {}", folder.display())))?.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if let (true, Ok(about)) = (kind.is_file(), entry.metadata())
                && about.len() > 0
            {
                files.push((entry.path(), about.len()));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn all_files(folders: &[PathBuf]) -> Result<Vec<(PathBuf, u64)>, FaultError> {
    let mut all = Vec::new();
    for folder in folders {
        all.extend(files(folder)?);
    }
    if all.is_empty() {
        return Err(FaultError::Absent("there is no file to damage".to_owned()));
    }
    Ok(all)
}

/// Turns single bits, each anywhere in the files with the same chance.
pub fn turn_bits(folders: &[PathBuf], bits: u32, random: &mut StdRng) -> Result<(), FaultError> {
    let all = all_files(folders)?;
    let bytes: u64 = all.iter().map(|(_, size)| size).sum();
    for _ in 0..bits {
        let (mut at, bit) = (random.random_range(0..bytes), random.random_range(0..8_u32));
        for (path, size) in &all {
            if at >= *size {
                at -= size;
                continue;
            }
            let failed = || io(format!("damage {}", path.display()));
            let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed())?;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).map_err(failed())?;
            file.write_all_at(&[byte[0] ^ (1 << bit)], at).map_err(failed())?;
            file.sync_all().map_err(failed())?;
            break;
        }
    }
    Ok(())
}

/// Takes its end from the largest file.
pub fn truncate(folders: &[PathBuf]) -> Result<(), FaultError> {
    let all = all_files(folders)?;
    let Some((path, size)) = all.iter().max_by_key(|(_, size)| size) else { return Ok(()) };
    let failed = || io(format!("cut {}", path.display()));
    let file = OpenOptions::new().write(true).open(path).map_err(failed())?;
    file.set_len(size - size / LOST_END).map_err(failed())?;
    file.sync_all().map_err(failed())
}

/// Nothing is left of a folder.
pub fn wipe(folder: &Path) -> Result<(), FaultError> {
    fs::remove_dir_all(folder).map_err(io(format!("remove {}", folder.display())))
}

/// A folder as it was.
pub struct Copy {
    of: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Copy {
    /// Of a folder that nobody writes to meanwhile.
    pub fn of(folder: PathBuf) -> Result<Self, FaultError> {
        let read = |(path, _): (PathBuf, u64)| {
            let bytes = fs::read(&path).map_err(io(format!("read {}", path.display())))?;
            Ok((path, bytes))
        };
        let files = files(&folder)?.into_iter().map(read).collect::<Result<_, FaultError>>()?;
        Ok(Self { of: folder, files })
    }

    /// Puts it in place of what is there now.
    pub fn restore(&self) -> Result<(), FaultError> {
        wipe(&self.of)?;
        for (path, bytes) in &self.files {
            let failed = || io(format!("write {}", path.display()));
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(failed())?;
            }
            fs::write(path, bytes).and_then(|()| File::open(path)?.sync_all()).map_err(failed())?;
        }
        Ok(())
    }
}
