//! Why there is no verdict, and what was left of the run.

use std::io;
use std::path::{Path, PathBuf};

use crate::farm::FarmError;
use crate::fault::FaultError;
use crate::history::HistoryError;
use crate::lab::{self, LabError};
use crate::network::NetworkError;
use crate::pressure::Seconds;

/// Why an experiment has no verdict.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{} is there already: name another folder with --out", path.display())]
    Taken { path: PathBuf },
    #[error(
        "{} has room for {has_mib} MiB, and a farm of this experiment may take {wants_mib}: name another place \
         with {}=DIR, to `clean` as well",
        path.display(),
        lab::ROOT_VARIABLE
    )]
    Room { path: PathBuf, has_mib: u64, wants_mib: u64 },
    #[error("can not use {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Farm(FarmError),
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error("the history: {0}")]
    History(#[from] HistoryError),
    #[error("{0} of the clients failed")]
    Clients(usize),
    #[error(transparent)]
    Fault(FaultError),
    #[error("this machine does not let us: {0}")]
    Absent(String),
    #[error("it was given up: {0}")]
    Aborted(String),
    #[error("the host was starved of processor in {} of {} seconds: {reason}", seconds.starved, seconds.all)]
    Starved { seconds: Seconds, reason: String },
}

impl From<FarmError> for RunError {
    /// Whoever gives up while he waits for the farm gives up the run.
    fn from(error: FarmError) -> Self {
        if let FarmError::GivenUp(reason) = error { Self::Aborted(reason) } else { Self::Farm(error) }
    }
}

impl From<FaultError> for RunError {
    fn from(error: FaultError) -> Self {
        if let FaultError::Farm(error) = error { error.into() } else { Self::Fault(error) }
    }
}

impl RunError {
    /// Whether it came before anything was made.
    pub fn has_left_nothing(&self) -> bool {
        match self {
            Self::Taken { .. } | Self::Room { .. } | Self::Absent(_) => true,
            Self::Folder { .. }
            | Self::Network(_)
            | Self::Farm(_)
            | Self::Lab(_)
            | Self::History(_)
            | Self::Clients(_)
            | Self::Fault(_)
            | Self::Aborted(_)
            | Self::Starved { .. } => false,
        }
    }
}

/// What could not be used.
pub(super) fn folder(path: &Path) -> impl FnOnce(io::Error) -> RunError + use<> {
    let path = path.to_owned();
    move |source| RunError::Folder { path, source }
}
