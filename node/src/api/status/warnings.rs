//! The sentences an operator should read, worst first.

use proto::v1::{Member, SessionsSummary};

use super::Moment;

pub(super) fn of(
    moment: &Moment,
    members: &[Member],
    sessions: &SessionsSummary,
    quorum: bool,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if !quorum {
        let voters = moment.group.voters.len();
        let living = moment.group.voters.iter().filter(|voter| moment.lives(**voter)).count();
        warnings.push(if living * 2 > voters {
            "no controller yet: the voters are electing one; what runs goes on serving".to_owned()
        } else {
            format!(
                "no quorum: {living} of {voters} voters are alive; deploys and other changes are refused until a \
                 majority is back; what runs goes on serving"
            )
        });
    }
    if sessions.unavailable > 0 {
        warnings.push(format!(
            "{} of {} session groups have no live majority: their keys can not be read or written",
            sessions.unavailable, sessions.groups
        ));
    }
    if sessions.under_replicated > 0 {
        warnings.push(format!(
            "{} of {} session groups have fewer live replicas than {}",
            sessions.under_replicated, sessions.groups, sessions.replicas
        ));
    }
    for member in members {
        match member.state.as_str() {
            "down" => warnings.push(format!("{} is down", member.name)),
            "suspect" => {
                warnings.push(format!("{} is suspected of being down; no new requests go there", member.name))
            }
            _ => {}
        }
    }
    if members.len() < 3 {
        warnings.push(small_farm(members.len()));
    }
    warnings
}

fn small_farm(servers: usize) -> String {
    if servers == 1 {
        "one server: nothing is replicated; add two more to survive the loss of any one".to_owned()
    } else {
        "two servers: sessions need both, and only the loss of the one that does not vote is survived; add a third"
            .to_owned()
    }
}
