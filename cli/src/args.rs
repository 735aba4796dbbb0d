//! What may be typed, with an example for each verb.
//!
//! The names are a contract with scripts. A verb that this version does not have is not listed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "holdfast",
    version,
    about = "Keeps web applications up on a farm of servers",
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 rolled back, 4 timed out or still going,\n\
                  5 no controller or no quorum, 6 refused.\n\nTry it on this machine:\n  holdfast demo"
)]
pub struct Line {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Args)]
pub struct Global {
    /// The agent's unix socket [env: HOLDFAST_SOCKET] [default: /run/holdfast/agent.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Whether a verb prints for a program.
#[derive(Debug, Clone, Copy, Args)]
pub struct Form {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start a farm on this machine, with an app to try it on
    Demo(Demo),
    /// Run the agent of this server
    #[command(after_help = "Example:\n  holdfast agent --config /etc/holdfast/agent.toml --set node.zone=b")]
    Agent {
        /// Settings [default: /etc/holdfast/agent.toml]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// One setting, before all files
        #[arg(long, value_name = "SECTION.KEY=VALUE")]
        set: Vec<String>,
    },
    /// Make this server the first of a cluster; prints the line that lets others join
    #[command(after_help = "Example:\n  holdfast init --config /etc/holdfast/agent.toml")]
    Init {
        /// Settings [default: /etc/holdfast/agent.toml]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        form: Form,
    },
    /// Make this server a member of a cluster
    Join(Join),
    /// How the farm is, at a glance
    #[command(after_help = "Example:\n  holdfast status --json | jq .warnings")]
    Status(Form),
    /// The servers, and what each says of itself
    #[command(after_help = "Example:\n  holdfast members")]
    Members(Form),
    /// The node that acts as controller, and the voters that elect it
    #[command(after_help = "Example:\n  holdfast controller --json | jq -r .node")]
    Controller(Form),
    /// The apps, their releases and rollouts
    #[command(after_help = "Example:\n  holdfast apps")]
    Apps(Form),
    /// The instances of one app, or of all
    #[command(after_help = "Example:\n  holdfast ps shop")]
    Ps {
        app: Option<String>,
        #[command(flatten)]
        form: Form,
    },
    /// Make a release of a folder with a holdfast.toml, and roll it out
    #[command(after_help = "Example:\n  holdfast deploy ./shop --version 1.4.0")]
    Deploy {
        /// The folder
        dir: PathBuf,
        /// What people call the release [default: git describe, else u-SECONDS]
        #[arg(long, value_name = "V")]
        version: Option<String>,
        #[command(flatten)]
        follow: Follow,
    },
    /// Point an app back at a release that it ran before
    #[command(after_help = "Example:\n  holdfast rollback shop 1.3.2")]
    Rollback {
        app: String,
        /// A version or a release id [default: the release before the stable one]
        version: Option<String>,
        #[command(flatten)]
        follow: Follow,
    },
    /// Cached values of apps
    #[command(subcommand)]
    Cache(Cache),
    /// Look into the session store, for debugging
    #[command(subcommand)]
    Session(Session),
    /// Tokens that let servers join
    #[command(subcommand)]
    Token(Token),
    /// Become the program of an instance
    #[command(hide = true)]
    ExecInstance {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// The app that `demo` deploys
    #[command(hide = true)]
    SampleShop,
}

/// Whether to stay until a rollout has ended.
#[derive(Debug, Clone, Copy, Args)]
pub struct Follow {
    /// Return as soon as the rollout has begun
    #[arg(long)]
    pub detach: bool,
    /// Print the outcome as one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast join HFT1-...@192.0.2.7:7402\n  \
                  ssh first holdfast token create --json | jq -r .join | awk '{print $3}' | holdfast join -\n\n\
                  The token may also be in the environment: HOLDFAST_JOIN=TOKEN@HOST:PORT holdfast join")]
pub struct Join {
    /// What `init` or `token create` printed; `-` reads it from stdin [env: HOLDFAST_JOIN]
    #[arg(value_name = "TOKEN@HOST:PORT")]
    pub target: Option<String>,
    /// Read it from a file, which keeps the secret out of the process list
    #[arg(long, value_name = "F", conflicts_with = "target")]
    pub token_file: Option<PathBuf>,
    /// Settings [default: /etc/holdfast/agent.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Debug, Subcommand)]
pub enum Cache {
    /// Tell every cache of the farm that values are stale
    #[command(after_help = "Example:\n  holdfast cache invalidate price:lantern --keyspace shop --wait")]
    Invalidate {
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        /// Whose cache: an app [default: the operator's own keyspace]
        #[arg(long, value_name = "APP", default_value = "")]
        keyspace: String,
        /// Wait until every node has applied it
        #[arg(long)]
        wait: bool,
        /// How long to wait
        #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
        timeout: Duration,
        #[command(flatten)]
        form: Form,
    },
}

#[derive(Debug, Subcommand)]
pub enum Session {
    /// Print a value as it is
    #[command(after_help = "Example:\n  holdfast session get session:42 --keyspace shop")]
    Get {
        key: String,
        #[command(flatten)]
        keyspace: Keyspace,
        #[command(flatten)]
        form: Form,
    },
    /// Write a value
    #[command(after_help = "Example:\n  holdfast session set greeting hello --ttl 60s")]
    Set {
        key: String,
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// How long it lives [default: for ever]
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        ttl: Option<Duration>,
        #[command(flatten)]
        keyspace: Keyspace,
        #[command(flatten)]
        form: Form,
    },
    /// Remove a value
    #[command(after_help = "Example:\n  holdfast session del greeting")]
    Del {
        key: String,
        #[command(flatten)]
        keyspace: Keyspace,
        #[command(flatten)]
        form: Form,
    },
}

#[derive(Debug, Args)]
pub struct Keyspace {
    /// Whose keys: an app [default: the operator's own keyspace]
    #[arg(long = "keyspace", value_name = "APP", default_value = "")]
    pub name: String,
}

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make one; the secret is shown this once
    #[command(after_help = "Example:\n  holdfast token create --ttl 1h --uses 2")]
    Create {
        /// What the server may become: a worker may not vote
        #[arg(long, default_value = "server", value_parser = ["server", "worker"])]
        role: String,
        /// How long it admits
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
        ttl: Duration,
        /// How many servers it admits [default: as many as come]
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        uses: u32,
        #[command(flatten)]
        form: Form,
    },
    /// List those that still admit somebody
    #[command(after_help = "Example:\n  holdfast token ls --json")]
    Ls(Form),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast demo\n  holdfast demo --dir /tmp/farm --detach --zones 3\n  \
                        holdfast demo --dir /tmp/farm --stop")]
pub struct Demo {
    /// How many agents [default: 3, or what the folder holds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=20))]
    pub nodes: Option<u16>,
    /// Spread them over this many zones
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=20))]
    pub zones: u16,
    /// The folder for everything they keep [default: holdfast/demo in the user's cache]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Node k takes this + 10*(k-1) + 1..6 [default: 7400, or what the folder holds]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    pub base_port: Option<u16>,
    /// Return when the farm serves; it goes on without you
    #[arg(long, conflicts_with = "stop")]
    pub detach: bool,
    /// End the farm of the folder, and its apps
    #[arg(long)]
    pub stop: bool,
    /// Deploy nothing
    #[arg(long, conflicts_with = "app")]
    pub no_app: bool,
    /// Deploy this folder instead of the sample app
    #[arg(long, value_name = "DIR")]
    pub app: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_has_no_contradictions() {
        Line::command().debug_assert();
    }

    #[test]
    fn the_socket_may_stand_before_or_after_the_verb() {
        for words in [["holdfast", "--socket", "/s", "status"], ["holdfast", "status", "--socket", "/s"]] {
            let line = Line::try_parse_from(words).unwrap();
            assert_eq!(line.global.socket, Some(PathBuf::from("/s")));
        }
    }

    #[test]
    fn every_verb_that_is_shown_has_an_example() {
        let command = Line::command();
        let mut open: Vec<&clap::Command> = command.get_subcommands().collect();
        while let Some(verb) = open.pop() {
            open.extend(verb.get_subcommands());
            if verb.has_subcommands() || verb.is_hide_set() {
                continue;
            }
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("holdfast"), "{} has no example", verb.get_name());
        }
    }

    #[test]
    fn the_words_of_an_instance_are_its_own_even_where_they_look_like_ours() {
        let words = ["holdfast", "exec-instance", "64", "1", "app", "--socket", "x", "--help", "--", "-j"];
        let Verb::ExecInstance { arguments } = Line::try_parse_from(words).unwrap().verb else {
            panic!("the words are those of an instance");
        };
        assert_eq!(arguments, words[2..]);
    }

    #[test]
    fn a_verb_of_a_later_version_is_a_usage_error() {
        let error = Line::try_parse_from(["holdfast", "doctor"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
