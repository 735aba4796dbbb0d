//! The names of things: newtypes, so that a node can not be passed where an epoch is meant.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id! {
    /// A node for as long as its disk lives: the index of the control log's entry that admitted
    /// it (1 for the node that was initialised). Never reused; a new disk is a new id.
    NodeId(u64)
}
number_id! {
    /// One life of a node's agent, larger at every start: `max(persisted + 1, wall-clock ms)`.
    Generation(u64)
}
number_id! {
    /// A controller's reign: the index of its `ControllerStarted` entry. 0 is before the first.
    Epoch(u64)
}
number_id! {
    /// A raft group. 0 is the control log; the rest hold sessions.
    GroupId(u16)
}

impl GroupId {
    /// The control log.
    pub const CONTROL: Self = Self(0);
}

/// What was wrong with an id's text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not {expected}: {text:?}")]
pub struct ParseIdError {
    expected: &'static str,
    text: String,
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident($len:literal), $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The id in a message's field, refused unless it has exactly the right length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(Self(bytes.try_into().ok()?))
            }

            /// The first twelve hex digits: enough for a person.
            pub fn short(&self) -> String {
                HEXLOWER.encode(&self.0[..6])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let error = || ParseIdError { expected: $expected, text: text.chars().take(80).collect() };
                if text.len() != $len * 2 {
                    return Err(error());
                }
                let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| error())?;
                Self::from_slice(&bytes).ok_or_else(error)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

bytes_id! {
    /// One cluster, drawn at `holdfast init`.
    ClusterId(16), "a cluster id (32 hex digits)"
}
bytes_id! {
    /// A release: blake3 of its manifest.
    ReleaseId(32), "a release id (64 hex digits)"
}
bytes_id! {
    /// A file's content: its blake3.
    BlobHash(32), "a blake3 hash (64 hex digits)"
}

impl From<ReleaseId> for BlobHash {
    /// A manifest is a blob like any other, named by the same hash.
    fn from(release: ReleaseId) -> Self {
        Self(release.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text() {
        let id = ReleaseId([7; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(serde_roundtrip(&id), id);
    }

    #[test]
    fn a_text_of_the_wrong_length_or_case_is_refused() {
        assert!("00".parse::<ReleaseId>().is_err());
        assert!("AB".repeat(32).parse::<ReleaseId>().is_err());
    }

    fn serde_roundtrip(id: &ReleaseId) -> ReleaseId {
        let text = id.to_string();
        let de = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(&text);
        ReleaseId::deserialize(de).unwrap()
    }
}
