//! How many descriptors there are, and who may have how many.
//!
//! Every open connection takes one, and the databases need some of the same: an agent whose sockets
//! took them all could no longer write its log. So the doors together get less than there are. Shells
//! and systemd give a soft limit of 1,024, for programs that use select(2), and a far higher hard one;
//! the agent takes the latter. Instances get their own, from their manifest.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than this is not needed by what the doors are capped at anyway.
const USEFUL: u64 = 1 << 17;
/// Databases, logs of instances, files of releases that come and go, connections to peers.
const KEPT_BACK: usize = 512;
/// With less, most of the descriptors are the doors' all the same: a farm at rest needs about 200.
const KEPT_BACK_SHARE: usize = 2;

/// What each door may hold open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// Clients of the balancer, each of which may need a second for its backend.
    pub public: usize,
    pub redis: usize,
    pub peer: usize,
}

impl Descriptors {
    /// Takes as many as the system lets this process have.
    pub(super) fn take() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let wanted = limit.maximum.map_or(USEFUL, |hard| hard.min(USEFUL));
        let mut current = limit.current.unwrap_or(USEFUL);
        if current < wanted {
            match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }) {
                Ok(()) => current = wanted,
                Err(error) => tracing::warn!(%error, current, "can not have more open files"),
            }
        }
        let shares = Self::of(usize::try_from(current).unwrap_or(usize::MAX));
        tracing::debug!(current, ?shares, "open files");
        shares
    }

    fn of(all: usize) -> Self {
        let doors = all - KEPT_BACK.min(all / KEPT_BACK_SHARE);
        let eighth = doors / 8;
        Self { public: eighth * 5 / 2, redis: (eighth * 2).min(10_000), peer: eighth.min(8_192) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_doors_leave_enough_for_the_databases() {
        for all in [256, 1_024, 4_096, 20_000, 1 << 17] {
            let Descriptors { public, redis, peer } = Descriptors::of(all);
            let kept_back = all - (2 * public + redis + peer);
            assert!(kept_back >= 500 || kept_back >= all / 2, "{kept_back} of {all}");
            assert!(public >= 40 && redis >= 32 && peer >= 16, "{all} serve nobody");
        }
    }
}
