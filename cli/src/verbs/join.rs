//! `holdfast init` and `holdfast join`: how this server becomes a member, before its agent runs.

use std::fs;
use std::io::Read;
use std::path::Path;

use node::bootstrap::{self, BootstrapError, InitOutcome, JoinOutcome};
use node::config::Config;

use super::agent::{load, variables};
use crate::args::{Form, Join};
use crate::failure::{Exit, Failure};
use crate::output;

/// Where `join` finds what it was not told.
const JOIN_VARIABLE: &str = "HOLDFAST_JOIN";

/// A token with an address is some 150 bytes; a file that is larger is another file.
const TARGET_BYTES_MAX: u64 = 4_096;

/// `holdfast init`: the join line alone goes to stdout, so that a script can pass it on.
pub fn run_init(config: Option<&Path>, form: Form) -> Result<(), Failure> {
    let outcome = init(&load(config, &[], variables())?)?;
    if form.json {
        let InitOutcome { cluster, node, join, .. } = outcome;
        return output::json(
            &serde_json::json!({ "cluster_id": cluster.to_string(), "node": node.0, "join": join }),
        );
    }
    eprintln!("node {} is the first of cluster {}", outcome.node, outcome.cluster);
    eprintln!("start it with `{}`; then, on each other server:", start_command(config));
    output::text(&format!("{}\n", outcome.join))
}

/// `holdfast join`.
pub fn run_join(line: &Join) -> Result<(), Failure> {
    let target = target(line)?;
    let settings = load(line.config.as_deref(), &[], variables())?;
    let outcome = super::runtime()?.block_on(join(&settings, &target))?;
    if line.form.json {
        let JoinOutcome { cluster, node } = outcome;
        return output::json(&serde_json::json!({ "cluster_id": cluster.to_string(), "node": node.0 }));
    }
    eprintln!("this server is node {} of cluster {}", outcome.node, outcome.cluster);
    eprintln!("start it with `{}`", start_command(line.config.as_deref()));
    Ok(())
}

/// Makes the server of these settings the first of a cluster.
pub fn init(config: &Config) -> Result<InitOutcome, Failure> {
    bootstrap::init(config).map_err(|error| bootstrap_failure("init", &error))
}

/// Makes the server of these settings a member.
pub async fn join(config: &Config, target: &str) -> Result<JoinOutcome, Failure> {
    bootstrap::join(config, target).await.map_err(|error| bootstrap_failure("join", &error))
}

fn bootstrap_failure(verb: &str, error: &BootstrapError) -> Failure {
    let (exit, advice) = match error {
        BootstrapError::Identity(_) => {
            (Exit::Refused, "start its agent; to make it another server, give it another data folder")
        }
        BootstrapError::Target { .. } => {
            (Exit::Usage, "copy the whole line that `holdfast token create` prints on a member")
        }
        BootstrapError::Resolve { .. } | BootstrapError::Connect { .. } => {
            (Exit::Failed, "is the agent there running, and its peer port open to this server?")
        }
        BootstrapError::WrongCluster { .. } => {
            (Exit::Refused, "the token is another cluster's: make one on a member")
        }
        BootstrapError::Refused(_) => {
            (Exit::Refused, "make a new token on a member: `holdfast token create`")
        }
        BootstrapError::NoController(_) => {
            (Exit::NoQuorum, "a majority of the voters must be up; then try again")
        }
        BootstrapError::TimedOut { .. } => (Exit::Unfinished, "try again: joining twice does no harm"),
        BootstrapError::BadAnswer { .. } => {
            (Exit::Failed, "is the agent there of the same version as this program?")
        }
        BootstrapError::Leftovers { .. } => {
            (Exit::Refused, "nothing was changed; what the cluster keeps comes back from its other members")
        }
        BootstrapError::DataDir { .. } | BootstrapError::Security(_) => {
            (Exit::Failed, "look at the data folder's owner and at the disk; its agent must not run")
        }
    };
    Failure::new(exit, format!("can not {verb}: {error}"), advice)
}

/// What to join, from the first place that names it.
fn target(join: &Join) -> Result<String, Failure> {
    let advice = "`holdfast token create` on a member prints the whole line";
    let read = |from: &str, reader: &mut dyn Read| {
        let mut text = String::new();
        let read = reader.take(TARGET_BYTES_MAX).read_to_string(&mut text);
        read.map(|_| text)
            .map_err(|error| Failure::usage(format!("can not read the token from {from}: {error}"), advice))
    };
    let text = match (&join.target, &join.token_file) {
        (Some(dash), _) if dash == "-" => read("stdin", &mut std::io::stdin().lock())?,
        (Some(target), _) => target.clone(),
        (None, Some(path)) => {
            let from = path.display().to_string();
            let file = fs::File::open(path);
            let mut file =
                file.map_err(|error| Failure::usage(format!("can not open {from}: {error}"), advice))?;
            read(&from, &mut file)?
        }
        (None, None) => std::env::var(JOIN_VARIABLE).map_err(|_| {
            Failure::usage(
                format!("nothing to join: no TOKEN@HOST:PORT, no --token-file, no {JOIN_VARIABLE}"),
                advice,
            )
        })?,
    };
    Ok(text.trim().to_owned())
}

fn start_command(config: Option<&Path>) -> String {
    config.map_or_else(
        || "holdfast agent".to_owned(),
        |config| format!("holdfast agent --config {}", config.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join_line(target: Option<&str>, token_file: Option<std::path::PathBuf>) -> Join {
        Join { target: target.map(str::to_owned), token_file, config: None, form: Form { json: false } }
    }

    #[test]
    fn a_token_is_read_from_the_line_or_from_a_file() {
        assert_eq!(target(&join_line(Some("T@h:1"), None)).unwrap(), "T@h:1");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "T@h:1\n").unwrap();
        assert_eq!(target(&join_line(None, Some(path))).unwrap(), "T@h:1");
        let failure = target(&join_line(None, Some(dir.path().join("none")))).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
    }

    #[test]
    fn a_missing_controller_and_a_refused_token_have_their_own_codes() {
        let exit = |error: BootstrapError| bootstrap_failure("join", &error).exit();
        assert_eq!(exit(BootstrapError::NoController("electing".into())), Exit::NoQuorum);
        assert_eq!(exit(BootstrapError::Refused("expired".into())), Exit::Refused);
    }
}
