//! The folder of the sample app: a holdfast.toml and this very program, which is the app as well.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::launch::program;
use crate::failure::Failure;

/// The app's name in its holdfast.toml.
pub const NAME: &str = "shop";

const SETTINGS: &str = include_str!("sample/holdfast.toml");

/// The program's name in the folder, as the settings start it.
const PROGRAM: &str = "holdfast-shop";

/// Writes the folder. A `holdfast.toml` that somebody has changed there is kept.
pub fn write(dir: &Path) -> Result<PathBuf, Failure> {
    let folder = dir.join(NAME);
    let program = program()?;
    fill(&folder, &program).map_err(|error| {
        Failure::failed(
            format!("can not write the sample app to {}: {error}", folder.display()),
            "make room, or use another --dir",
        )
    })?;
    Ok(folder)
}

fn fill(folder: &Path, program: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let settings = folder.join("holdfast.toml");
    if !settings.exists() {
        fs::write(settings, SETTINGS)?;
    }
    // A copy and not a link: a build may write into the file that it has made before. It replaces
    // the old one by renaming, since that one may be running.
    let fresh = folder.join(".holdfast-shop.new");
    fs::copy(program, &fresh)?;
    fs::rename(fresh, folder.join(PROGRAM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_holds_the_program_that_its_settings_start() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(NAME);
        fill(&folder, Path::new("/bin/true")).unwrap();
        let settings = fs::read_to_string(folder.join("holdfast.toml")).unwrap();
        let spec = node_apps::AppSpec::parse(&settings).unwrap();
        assert_eq!(spec.app, NAME);
        assert_eq!(spec.run.command[0], format!("./{PROGRAM}"));
        assert!(folder.join(PROGRAM).exists());
    }

    #[test]
    fn settings_that_somebody_changed_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("holdfast.toml"), "mine").unwrap();
        fill(dir.path(), Path::new("/bin/true")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("holdfast.toml")).unwrap(), "mine");
    }
}
