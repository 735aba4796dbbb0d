//! Why a try has no answer, and what that allows.

use std::io;

use crate::http::Headers;
use crate::http::Meaning;
use crate::http::rewrite::Mark;

/// Why there is no answer.
#[derive(Debug)]
pub enum Failed {
    /// Nobody could be asked.
    NoInstance,
    /// Nothing was sent.
    Connect(io::Error),
    /// The owner's agent, which may be this one, executed nothing.
    Refused,
    /// It was sent, and the connection ended without an answer.
    Lost(io::Error),
    /// It was sent, and the answer is not HTTP.
    Malformed,
    /// The instance did not answer within the route's limit.
    Timeout,
    /// The instance answers nobody at all; somebody else may.
    Stalled,
    /// The node that had it is gone.
    NodeLost,
    /// The owner's agent had no answer from its instance.
    Behind(Behind),
    /// The client did not send its request to the end.
    Client(ClientFault),
}

/// What an owner's agent says of its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    Lost,
    Malformed,
    Timeout,
}

/// What is wrong with the client's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientFault {
    Gone,
    /// The chunks of its body make no sense.
    Malformed,
    TooSlow,
}

impl From<io::Error> for ClientFault {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::TimedOut { Self::TooSlow } else { Self::Gone }
    }
}

impl Failed {
    /// Whether it is certain that nothing was executed.
    pub fn is_unexecuted(&self) -> bool {
        match self {
            Self::NoInstance | Self::Connect(_) | Self::Refused => true,
            Self::Lost(_)
            | Self::Malformed
            | Self::Timeout
            | Self::Stalled
            | Self::NodeLost
            | Self::Behind(_)
            | Self::Client(_) => false,
        }
    }

    /// Whether it speaks against the backend.
    pub fn is_backends_fault(&self) -> bool {
        match self {
            // It is leaving in order, or somebody else is at fault.
            Self::NoInstance | Self::Refused | Self::Client(_) => false,
            Self::Connect(error) => !is_own_shortage(error),
            Self::Lost(_)
            | Self::Malformed
            | Self::Timeout
            | Self::Stalled
            | Self::NodeLost
            | Self::Behind(_) => true,
        }
    }

    pub fn reason(&self) -> String {
        match self {
            Self::NoInstance => "no instance of the app is ready".to_owned(),
            Self::Connect(error) => format!("the instance takes no connection ({error})"),
            Self::Refused => "the instance takes no requests any more".to_owned(),
            Self::Lost(error) => format!("the connection to the instance was lost ({error})"),
            Self::Malformed | Self::Behind(Behind::Malformed) => {
                "the instance's answer is not HTTP".to_owned()
            }
            Self::Timeout | Self::Stalled | Self::Behind(Behind::Timeout) => {
                "the instance did not answer in time".to_owned()
            }
            Self::NodeLost => "the server that had the request is gone".to_owned(),
            Self::Behind(Behind::Lost) => "the server lost the connection to its instance".to_owned(),
            Self::Client(ClientFault::Gone) => "the client is gone".to_owned(),
            Self::Client(ClientFault::Malformed) => "the chunks of the body make no sense".to_owned(),
            Self::Client(ClientFault::TooSlow) => "the request's body took too long".to_owned(),
        }
    }

    /// What the client is told; `None` for one that is gone.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::NoInstance | Self::Connect(_) | Self::Refused => Some(503),
            Self::Timeout | Self::Stalled | Self::Behind(Behind::Timeout) => Some(504),
            Self::Lost(_)
            | Self::Malformed
            | Self::NodeLost
            | Self::Behind(Behind::Lost | Behind::Malformed) => Some(502),
            Self::Client(ClientFault::Malformed) => Some(400),
            Self::Client(ClientFault::TooSlow) => Some(408),
            Self::Client(ClientFault::Gone) => None,
        }
    }

    /// What another agent is told, so that it can decide whether to ask elsewhere.
    pub fn mark(&self) -> Option<Mark> {
        match self {
            Self::NoInstance | Self::Connect(_) | Self::Refused => Some(Mark::Refused),
            Self::Lost(_) | Self::NodeLost | Self::Behind(Behind::Lost) => Some(Mark::Failed("lost")),
            Self::Malformed | Self::Behind(Behind::Malformed) => Some(Mark::Failed("malformed")),
            Self::Timeout | Self::Stalled | Self::Behind(Behind::Timeout) => Some(Mark::Failed("timeout")),
            Self::Client(_) => None,
        }
    }

    /// Reads the mark of another agent's answer.
    pub fn from_owner(headers: &Headers) -> Option<Self> {
        if headers.value(Meaning::Refused).is_some() {
            return Some(Self::Refused);
        }
        let behind = match headers.value(Meaning::Failed)? {
            b"malformed" => Behind::Malformed,
            b"timeout" => Behind::Timeout,
            // A word of a later version says at least that there is no answer.
            _ => Behind::Lost,
        };
        Some(Self::Behind(behind))
    }
}

/// Whether this process has no descriptor, port or memory left, which is no fault of whom it calls.
fn is_own_shortage(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOBUFS: i32 = 105;
    const EADDRNOTAVAIL: i32 = 99;
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | EADDRNOTAVAIL))
}
