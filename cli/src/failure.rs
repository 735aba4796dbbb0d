//! How a verb fails: a line of what failed and why, a line of what to do, and an exit code that
//! scripts can branch on.

use std::process::ExitCode;

use tonic::{Code, Status};

use crate::output::paint;

/// The exit codes other than 0. They are part of the contract: scripts rely on the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Failed,
    Usage,
    RolledBack,
    /// Timed out, or still going on.
    Unfinished,
    /// No controller or no quorum.
    NoQuorum,
    /// Held, no right, not enough disk.
    Refused,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::RolledBack => 3,
            Self::Unfinished => 4,
            Self::NoQuorum => 5,
            Self::Refused => 6,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// What failed and why, what to do about it, and the exit code.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    exit: Exit,
    what: String,
    advice: String,
}

impl Failure {
    pub fn new(exit: Exit, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { exit, what: what.into(), advice: advice.into() }
    }

    pub fn failed(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Exit::Failed, what, advice)
    }

    pub fn usage(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what, advice)
    }

    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The two lines for stderr, each without control characters that a peer may have put in.
    pub fn report(&self) -> String {
        let error = paint::stderr().red("error:");
        format!("{error} {}\n  {}\n", one_line(&self.what), one_line(&self.advice))
    }

    /// What an agent's refusal means. `attempt` completes the sentence "can not ...".
    pub fn from_status(attempt: &str, status: &Status) -> Self {
        let (exit, advice) = meaning(status);
        let reason = if status.message().is_empty() {
            format!("{:?}", status.code())
        } else {
            status.message().to_owned()
        };
        Self::new(exit, format!("can not {attempt}: {reason}"), advice)
    }
}

const START_AGENT: &str = "is the agent running? Start it with `holdfast agent`";
const MAJORITY: &str =
    "a majority of the voters must be up: look at `holdfast status`, start the missing agents, try again";
const STILL_GOING: &str = "it may still be going on: look at `holdfast status` and `holdfast apps`";
const READ_LOG: &str = "look at `holdfast status` and at the agent's log";

fn meaning(status: &Status) -> (Exit, &'static str) {
    match status.code() {
        Code::Unavailable if lacks_majority(status.message()) => (Exit::NoQuorum, MAJORITY),
        Code::Unavailable => (Exit::Failed, START_AGENT),
        Code::FailedPrecondition => (Exit::Refused, "remove the reason that it names, then try again"),
        Code::PermissionDenied | Code::Unauthenticated => {
            (Exit::Refused, "use an account that may open the agent's socket")
        }
        Code::ResourceExhausted => (Exit::Refused, "make room, then try again"),
        // tonic answers Cancelled where the time-out that the caller asked for has passed.
        Code::DeadlineExceeded | Code::Cancelled => (Exit::Unfinished, STILL_GOING),
        Code::InvalidArgument | Code::OutOfRange => {
            (Exit::Usage, "correct what it names; `holdfast help VERB` shows an example")
        }
        Code::NotFound => (Exit::Failed, "`holdfast apps` and `holdfast members` list what there is"),
        Code::Unimplemented => (Exit::Failed, "the agent is of another version than this program"),
        Code::Ok | Code::Unknown | Code::AlreadyExists | Code::Aborted | Code::Internal | Code::DataLoss => {
            (Exit::Failed, READ_LOG)
        }
    }
}

/// An agent that answers `Unavailable` says in words what it lacks; a broken connection does not
/// use these words.
fn lacks_majority(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["quorum", "controller", "majority", "leader"].iter().any(|word| message.contains(word))
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(status: Status) -> u8 {
        Failure::from_status("do it", &status).exit().code()
    }

    #[test]
    fn an_agent_that_is_away_is_a_failure_but_a_missing_majority_is_told_apart() {
        assert_eq!(code_of(Status::unavailable("tcp connect error")), 1);
        assert_eq!(code_of(Status::unavailable("no quorum: 1 of 3 voters")), 5);
        assert_eq!(code_of(Status::unavailable("there is no controller at the moment")), 5);
    }

    #[test]
    fn each_kind_of_refusal_has_the_code_of_the_contract() {
        assert_eq!(code_of(Status::invalid_argument("no such role")), 2);
        assert_eq!(code_of(Status::deadline_exceeded("5 s have passed")), 4);
        assert_eq!(code_of(Status::cancelled("Timeout expired")), 4);
        assert_eq!(code_of(Status::failed_precondition("held")), 6);
        assert_eq!(code_of(Status::resource_exhausted("disk")), 6);
        assert_eq!(code_of(Status::internal("bug")), 1);
        assert_eq!(Exit::RolledBack.code(), 3);
    }

    #[test]
    fn a_report_is_two_lines_whatever_the_peer_wrote() {
        let failure = Failure::from_status("deploy shop", &Status::internal("a\nb\x1b[31mc"));
        let report = failure.report();
        assert_eq!(report.lines().count(), 2);
        assert!(report.contains("can not deploy shop: a b [31mc"), "{report}");
    }

    #[test]
    fn a_status_without_words_still_says_its_code() {
        assert_eq!(Failure::from_status("x", &Status::aborted("")).to_string(), "can not x: Aborted");
    }
}
