use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(path.parent().unwrap_or(path))
}
pub fn read_bounded(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > max {
        return Err(io::Error::other("too large"));
    }
    fs::read(path)
}
pub fn create_dir_durably(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    sync_dir(path.parent().unwrap_or(path))
}
pub fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}
