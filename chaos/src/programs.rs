//! The programs that are tested, as they were found: what is done again has to be done with the same.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::args;
use crate::command::{self, CommandError};

/// What every version of it is called by its own `--version`.
const NAME: &str = "holdfast";
/// Of a digest, as many as tell two programs apart for a person.
const DIGITS: usize = 12;

/// A program, and what it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub path: PathBuf,
    /// By its own word.
    pub version: String,
    /// BLAKE3, in hexadecimal digits.
    pub digest: String,
}

/// What a run is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programs {
    pub holdfast: Program,
    /// Another version of it, for experiments in which two work together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<Program>,
}

/// Why there is nothing to be tested.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("there is no program {}", path.display())]
    Absent { path: PathBuf },
    #[error("can not read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} does not say its version: {source}", path.display())]
    Silent { path: PathBuf, source: CommandError },
    #[error("{} is no holdfast: it calls itself {says:?}", path.display())]
    Stranger { path: PathBuf, says: String },
    #[error("{} and {} are the same program, byte for byte, of which two are no two versions", holdfast.display(), other.display())]
    Same { holdfast: PathBuf, other: PathBuf },
}

impl Program {
    /// Looks at a program, by a path or a name that is looked for as a shell does.
    fn find(named: &Path) -> Result<Self, ProgramError> {
        let found = if named.components().count() > 1 { Some(named.to_owned()) } else { on_the_path(named) };
        let absent = || ProgramError::Absent { path: named.to_owned() };
        let path = found.filter(|path| path.is_file()).ok_or_else(absent)?;
        let read = |source| ProgramError::Read { path: path.clone(), source };
        // It is run where its agents are, too.
        let path = path.canonicalize().map_err(read)?;
        let read = |source| ProgramError::Read { path: path.clone(), source };
        let digest = File::open(&path).and_then(digest).map_err(read)?;
        let says = command::run(&path.to_string_lossy(), &["--version"])
            .map_err(|source| ProgramError::Silent { path: path.clone(), source })?;
        let says = says.lines().next().unwrap_or_default().trim().to_owned();
        match says.split_once(' ') {
            Some((NAME, version)) => Ok(Self { path, version: version.to_owned(), digest }),
            Some(_) | None => Err(ProgramError::Stranger { path, says }),
        }
    }
}

fn digest(file: File) -> io::Result<String> {
    Ok(blake3::Hasher::new().update_reader(file)?.finalize().to_hex().to_string())
}

fn on_the_path(name: &Path) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

impl Programs {
    /// Those that are named; else those of `before`, a run that is done again; else the one beside this program,
    /// or on the PATH.
    ///
    /// # Errors
    /// When one of them is none, or both are one.
    pub fn find(named: &args::Programs, before: Option<&Self>) -> Result<Self, ProgramError> {
        let beside = || Some(std::env::current_exe().ok()?.with_file_name(NAME)).filter(|path| path.exists());
        let earlier = before.map(|before| before.holdfast.path.clone());
        let holdfast = named.holdfast.clone().or(earlier).or_else(beside);
        let holdfast = Program::find(&holdfast.unwrap_or_else(|| PathBuf::from(NAME)))?;
        let earlier = before.and_then(|before| before.other.as_ref()).map(|other| other.path.clone());
        let other = named.other.clone().or(earlier).map(|path| Program::find(&path)).transpose()?;
        match other {
            Some(other) if other.digest == holdfast.digest => {
                Err(ProgramError::Same { holdfast: holdfast.path, other: other.path })
            }
            other => Ok(Self { holdfast, other }),
        }
    }

    /// What is not as it was in an earlier run.
    pub fn changed(&self, before: &Self) -> Vec<String> {
        let pairs =
            [(Some(&self.holdfast), Some(&before.holdfast)), (self.other.as_ref(), before.other.as_ref())];
        let about = |one: &Program| {
            let digest: String = one.digest.chars().take(DIGITS).collect();
            format!("{} ({}, {digest}...)", one.path.display(), one.version)
        };
        let changed = |now: &Program, before: &Program| {
            format!("{} is not the program that was run before, {}", about(now), about(before))
        };
        let pairs = pairs.into_iter().filter_map(|(now, before)| now.zip(before));
        pairs
            .filter(|(now, before)| now.digest != before.digest)
            .map(|(now, before)| changed(now, before))
            .collect()
    }

    /// The options that name them.
    pub fn options(&self) -> String {
        let option = |name: &str, program: &Program| format!(" --{name} {}", quoted(&program.path));
        option("holdfast", &self.holdfast)
            + &self.other.as_ref().map_or(String::new(), |other| option("other", other))
    }
}

/// For a shell.
pub fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+".contains(letter);
    if path.chars().all(is_plain) { path.into_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A program that says this of itself.
    fn program(folder: &Path, name: &str, says: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n# {name}\necho '{says}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn named(holdfast: &Path, other: Option<&Path>) -> args::Programs {
        args::Programs { holdfast: Some(holdfast.to_owned()), other: other.map(Path::to_owned) }
    }

    #[test]
    fn what_is_no_other_version_is_told_before_anything_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) =
            (program(dir.path(), "old", "holdfast 1.0"), program(dir.path(), "new", "holdfast 1.1"));
        let found = Programs::find(&named(&old, Some(&new)), None).unwrap();
        assert_eq!(found.other.as_ref().unwrap().version, "1.1");
        assert!(found.options().contains("--holdfast /") && found.options().contains("--other /"));
        let told = |other: &Path| Programs::find(&named(&old, Some(other)), None).unwrap_err().to_string();
        assert!(told(&dir.path().join("nwe")).contains("there is no program"));
        assert!(told(&old).contains("the same program"));
        let stranger = program(dir.path(), "stranger", "holdfast-chaos 1.0");
        assert!(told(&stranger).contains("is no holdfast"));
        let text = dir.path().join("text");
        fs::write(&text, "x").unwrap();
        assert!(told(&text).contains("does not say its version"), "{}", told(&text));
    }

    #[test]
    fn what_is_done_again_is_done_with_the_same_programs_and_a_change_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) =
            (program(dir.path(), "old", "holdfast 1.0"), program(dir.path(), "new", "holdfast 1.1"));
        let before = Programs::find(&named(&old, Some(&new)), None).unwrap();
        let unnamed = args::Programs { holdfast: None, other: None };
        let again = Programs::find(&unnamed, Some(&before)).unwrap();
        assert_eq!((&again, again.changed(&before)), (&before, Vec::new()));
        program(dir.path(), "new", "holdfast 1.2");
        let changed = Programs::find(&unnamed, Some(&before)).unwrap().changed(&before);
        assert!(changed.len() == 1 && changed[0].contains("1.2"), "{changed:?}");
    }

    #[test]
    fn a_path_is_told_so_that_a_shell_takes_it_for_one() {
        assert_eq!(quoted(Path::new("/a/b-1.0")), "/a/b-1.0");
        assert_eq!(quoted(Path::new("/it's a")), r"'/it'\''s a'");
    }
}
