//! How the session groups are, from what their leaders say of them.

use proto::ids::{GroupId, NodeId};

use super::Moment;

/// One group's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Whole,
    /// It takes writes, with fewer live replicas than it should have.
    UnderReplicated,
    /// Nobody leads it, or its leader has no live majority.
    Unavailable,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) under_replicated: u32,
    pub(super) unavailable: u32,
}

impl Tally {
    pub(super) fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Whole => {}
            Verdict::UnderReplicated => self.under_replicated += 1,
            Verdict::Unavailable => self.unavailable += 1,
        }
    }
}

/// The newest term's leader counts: a deposed one may not have noticed yet.
pub(super) fn judge(moment: &Moment, group: GroupId, replicas: usize) -> Verdict {
    let leaders =
        moment.view.members.iter().filter(|(node, _)| moment.lives(**node)).filter_map(|(_, member)| {
            member.state.as_ref()?.groups.iter().find(|state| state.group == u32::from(group.0))
        });
    let Some(newest) = leaders.max_by_key(|state| state.term) else {
        return Verdict::Unavailable;
    };
    let living = newest.voters.iter().filter(|voter| moment.lives(NodeId(**voter))).count();
    if living * 2 <= newest.voters.len() {
        Verdict::Unavailable
    } else if living < replicas {
        Verdict::UnderReplicated
    } else {
        Verdict::Whole
    }
}
