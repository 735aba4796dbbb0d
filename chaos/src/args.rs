//! What may be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Of `run`.
const RUNNING: &str = "\
Agents and clients run in network namespaces of their own, which needs root; without it they
share this machine's loopback, on which fewer faults can be made. The same seed draws the same
nodes; the controller and the leader are whoever has that role by then. The farm's files are
below /run, or the user's own runtime folder, or the place that HOLDFAST_CHAOS_LAB=DIR names.

Examples:
  sudo holdfast-chaos run chaos/experiments/kill-a-node.toml --seed 7
  holdfast-chaos run chaos/experiments/kill-a-node.toml --loopback";

#[derive(Debug, Parser)]
#[command(
    name = "holdfast-chaos",
    version,
    about = "Judges whether a farm kept its promises while it was being broken",
    after_help = "Exit codes: 0 every promise was kept, 1 one was broken, 2 the tool itself failed or the\n\
                  history can not be judged, 3 it was stopped or gave up, 4 there is no verdict."
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
    /// Break a farm of real agents on this machine, and judge what survived
    #[command(
        after_help = format!("{RUNNING}\n\n`--help` tells what an experiment may say."),
        after_long_help = format!("{RUNNING}\n\n{}", crate::experiment::FORMAT)
    )]
    Run(Run),
    /// Simulate farms in virtual time, under faults that the seed decides
    #[command(
        after_help = "The product's own gossip, node states and invalidations, on simulated servers: crashes,\n\
                      wiped disks, pauses, cuts, loss, jumping clocks. First nothing may be broken, then\n\
                      everything has to come to rest. The same seed gives the same trace, byte for byte.\n\n\
                      Examples:\n  holdfast-chaos sim --seeds 300\n  \
                      holdfast-chaos sim --seed 17 --trace trace.txt\n  \
                      holdfast-chaos sim --groups --seeds 300\n  \
                      holdfast-chaos sim --control --seeds 300"
    )]
    Sim(Sim),
    /// Be the app that is deployed to be broken
    #[command(hide = true)]
    App {
        #[arg(long)]
        served: Option<PathBuf>,
        #[arg(long, default_value = "here")]
        text: String,
    },
    /// Wait for the end of a run, and remove what it has left
    #[command(hide = true)]
    Guard {
        #[arg(long)]
        pid: u32,
        #[arg(long)]
        start: u64,
    },
    /// Break the product's promises on purpose, one at a time, and see that each is noticed
    #[command(
        after_help = "In the project's folder: it builds the program anew, with its mutants, in target/mutants.\n\
                      Exit codes: 0 each was caught, 1 one was missed, 2 they could not be tried.\n\n\
                      Example:\n  sudo holdfast-chaos mutants sync-removed stale-read"
    )]
    Mutants {
        /// Which ones [default: all]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Tell which there are, and who must catch them
        #[arg(long)]
        list: bool,
        /// Of the experiments
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Remove what runs that were killed have left
    #[command(after_help = "Namespaces, mounts, control groups and processes of runs that are no more.\n\n\
                            Example:\n  sudo holdfast-chaos clean")]
    Clean,
    /// Make one page of a run: what was done, what users saw of it, and the verdict
    #[command(after_help = "The page needs nothing but itself. `run` makes it too.\n\n\
                      Example:\n  holdfast-chaos report chaos-7")]
    Report {
        /// The folder of a run
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Where the page goes [default: DIR/report.html]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Do again what a run has done: the same experiment, with the same seed and the same programs
    #[command(
        after_help = "What the seed draws is drawn again: any node, a minority, a zone. The controller and the leader\n\
                      are whoever has that role by then.\n\n\
                      Example:\n  sudo holdfast-chaos replay chaos-7 --out chaos-7-again"
    )]
    Replay {
        /// The folder of a run
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Where this one is kept [default: DIR-again]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        #[command(flatten)]
        programs: Programs,
    },
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

#[derive(Debug, Args)]
pub struct Run {
    /// What is to be broken
    #[arg(value_name = "EXPERIMENT.toml")]
    pub experiment: PathBuf,
    /// What chance is made of [default: drawn, and told]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where the history, the plan and the logs are kept [default: ./chaos-SEED]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub programs: Programs,
    /// On this machine's loopback, without namespaces: fewer faults [default: so where this is not root]
    #[arg(long)]
    pub loopback: bool,
}

/// What is tested.
#[derive(Debug, Args)]
pub struct Programs {
    /// The program to be tested [default: that of the run that is done again, or else holdfast beside this
    /// one, or on the PATH]
    #[arg(long, value_name = "PATH")]
    pub holdfast: Option<PathBuf>,
    /// Another version of it, for experiments in which two work together
    #[arg(long, value_name = "PATH")]
    pub other: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Sim {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How many, one after the other
    #[arg(long, default_value_t = 1)]
    pub seeds: u64,
    /// Simulate the raft groups of a farm instead: elections, logs, snapshots, changes of voters. Only
    /// in a build of its own: RUSTFLAGS="--cfg tokio_unstable"
    #[arg(long)]
    pub groups: bool,
    /// Simulate the control log and its controller instead: rollouts, placement, voters, epochs. Only in
    /// that build, too
    #[arg(long, conflicts_with = "groups")]
    pub control: bool,
    /// Servers of each farm, 2 to 1000 [default: 2 to 12, or 3 to 7 with --groups or --control, by the seed]
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..=1_000))]
    pub nodes: Option<u16>,
    /// Write down everything that happens; of one seed
    #[arg(long, value_name = "FILE", conflicts_with = "seeds")]
    pub trace: Option<PathBuf>,
    /// Print one JSON document a line, one line a seed
    #[arg(long)]
    pub json: bool,
}
