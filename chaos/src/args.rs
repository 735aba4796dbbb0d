//! What may be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "holdfast-chaos",
    version,
    about = "Judges whether a farm kept its promises while it was being broken",
    after_help = "Exit codes: 0 every promise was kept, 1 one was broken, 2 the tool itself failed or the\n\
                  history can not be judged, 4 there is no verdict."
)]
pub struct Line {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Try which faults this machine lets us make
    #[command(
        after_help = "Each is tried on something of our own and has to bite; nothing else is touched.\n\n\
                            Example:\n  sudo holdfast-chaos doctor"
    )]
    Doctor {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Remove what runs that were killed have left
    #[command(after_help = "Namespaces, mounts, control groups and processes of runs that are no more.\n\n\
                            Example:\n  sudo holdfast-chaos clean")]
    Clean,
    /// Judge a history, of this farm or of any other
    #[command(after_long_help = crate::history::FORMAT)]
    Check {
        /// A file of JSON lines
        #[arg(value_name = "HISTORY")]
        history: PathBuf,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
}
