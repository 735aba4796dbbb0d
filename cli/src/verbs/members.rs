//! `holdfast members`: the servers by gossip, with what each says of itself.

use proto::v1::cluster_service_client::ClusterServiceClient;
use proto::v1::{Member, MembersRequest};
use tonic::transport::Channel;

use crate::args::Form;
use crate::failure::Failure;
use crate::local::{CALL_TIMEOUT, within};
use crate::output::table::{Table, Tone, plain};
use crate::output::{self, or_dash, paint, short};

pub async fn show(channel: Channel, form: Form) -> Result<(), Failure> {
    let answer = ClusterServiceClient::new(channel)
        .members(within(CALL_TIMEOUT, MembersRequest {}))
        .await
        .map_err(|status| Failure::from_status("read the members", &status))?
        .into_inner();
    if form.json {
        output::json(&answer)
    } else {
        output::text(&table(&answer.members, "").render(paint::stdout()))
    }
}

/// A row per server. `controller` is the name of the one that acts, where that is known.
pub fn table(members: &[Member], controller: &str) -> Table {
    let mut table = Table::new(&["NODE", "ZONE", "STATE", "PHASE", "ROLE", "APPS", "PEER", "AGENT"]);
    for member in members {
        table.row(vec![
            plain(&member.name),
            plain(or_dash(&member.zone)),
            state(member),
            phase(member),
            plain(role(member, controller)),
            apps(member),
            plain(or_dash(&member.peer)),
            plain(or_dash(&member.version)),
        ]);
    }
    table
}

fn state(member: &Member) -> (String, Tone) {
    let tone = match member.state.as_str() {
        "alive" => Tone::Good,
        "suspect" => Tone::Doubtful,
        "down" => Tone::Bad,
        _ => Tone::Plain,
    };
    (member.state.clone(), tone)
}

/// What a node said of itself counts for nothing once it is down.
fn phase(member: &Member) -> (String, Tone) {
    if gone(member) {
        return plain("-");
    }
    let tone = if member.ready { Tone::Good } else { Tone::Doubtful };
    (or_dash(&member.phase).to_owned(), tone)
}

fn gone(member: &Member) -> bool {
    matches!(member.state.as_str(), "down" | "left")
}

fn role(member: &Member, controller: &str) -> &'static str {
    match (member.name == controller, member.voter) {
        (true, _) => "controller",
        (false, true) => "voter",
        (false, false) => "-",
    }
}

fn apps(member: &Member) -> (String, Tone) {
    if gone(member) {
        return plain("-");
    }
    let apps: Vec<String> = member
        .apps
        .iter()
        .map(|(name, app)| match app.release.as_str() {
            "" => format!("{name} {}", app.state),
            release => format!("{name}@{} {}", short(release), app.state),
        })
        .collect();
    let trouble = member.apps.values().any(|app| app.state != "ready");
    (or_dash(&apps.join(", ")).to_owned(), if trouble { Tone::Doubtful } else { Tone::Plain })
}

#[cfg(test)]
mod tests {
    use proto::v1::MemberApp;

    use super::*;
    use crate::output::paint::Paint;

    #[test]
    fn the_controller_is_marked_among_the_voters() {
        let voter = |name: &str| Member { name: name.into(), voter: true, ..Member::default() };
        let text = table(&[voter("node-1"), voter("node-2")], "node-2").render(Paint::plain());
        assert!(text.lines().nth(1).unwrap().contains("voter"), "{text}");
        assert!(text.lines().nth(2).unwrap().contains("controller"), "{text}");
    }

    #[test]
    fn what_a_server_said_before_it_went_down_is_not_shown() {
        let apps = [("shop".to_owned(), MemberApp { release: "ab".into(), state: "ready".into() })];
        let dead = Member {
            name: "n".into(),
            state: "down".into(),
            phase: "ready".into(),
            apps: apps.into(),
            ..Member::default()
        };
        assert!(!table(&[dead], "").render(Paint::plain()).contains("ready"));
    }
}
