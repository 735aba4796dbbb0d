//! What outlives the lab.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::command;

/// The nodes' folders, as they are.
pub(super) fn data(homes: &Path, folder: &Path) -> io::Result<()> {
    for (name, from) in nodes(homes)? {
        let kept = folder.join("data").join(name);
        let words = ["-a", "--", &from.to_string_lossy(), &kept.to_string_lossy()];
        fs::create_dir_all(folder.join("data"))?;
        // Sockets can not be copied, and are of no use.
        if let Err(error) = command::run("cp", &words) {
            crate::output::note!("warning: {error}");
        }
    }
    Ok(())
}

/// What the agents said outlives the lab, also where no farm came about: it is all that tells why.
pub(super) fn logs(homes: &Path, folder: &Path) -> io::Result<()> {
    for (name, home) in nodes(homes)? {
        for (file, kept) in [("agent.log", "log"), ("agent.toml", "toml")] {
            let from = home.join(file);
            if from.exists() {
                fs::copy(from, folder.join(format!("{name}.{kept}")))?;
            }
        }
    }
    Ok(())
}

/// By name, the folders of a lab that are nodes' own. An image has all that the disk has.
fn nodes(homes: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = fs::read_dir(homes)?.flatten();
    let named = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    Ok(named.filter(|(name, _)| name.starts_with("node-") && !name.ends_with(".image")).collect())
}
