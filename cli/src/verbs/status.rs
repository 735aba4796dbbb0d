//! `holdfast status`: who is down, whether there is a quorum, who controls, what is not replicated.
//! It is what a tired person reads at night, so trouble comes with colour and in words.

use std::fmt::Write as _;

use proto::v1::cluster_service_client::ClusterServiceClient;
use proto::v1::{AppSummary, SessionsSummary, StatusRequest, StatusResponse};
use tonic::transport::Channel;

use super::apps::rollout_cell;
use super::members;
use crate::args::Form;
use crate::failure::Failure;
use crate::local::{CALL_TIMEOUT, within};
use crate::output::paint::{self, Paint};
use crate::output::table::{Table, plain};
use crate::output::{self, or_dash, short};

pub async fn show(channel: Channel, form: Form) -> Result<(), Failure> {
    let status = fetch(channel).await?;
    if form.json { output::json(&status) } else { output::text(&render(&status, paint::stdout())) }
}

pub async fn fetch(channel: Channel) -> Result<StatusResponse, Failure> {
    ClusterServiceClient::new(channel)
        .status(within(CALL_TIMEOUT, StatusRequest {}))
        .await
        .map(tonic::Response::into_inner)
        .map_err(|status| Failure::from_status("read the status", &status))
}

fn render(status: &StatusResponse, paint: Paint) -> String {
    let mut out = String::new();
    let line = |out: &mut String, name: &str, value: String| {
        let _ = writeln!(out, "{} {value}", paint.dim(&format!("{name:<10}")));
    };
    line(&mut out, "cluster", format!("{} as {} sees it", paint.bold(&status.cluster_id), status.node));
    line(&mut out, "controller", controller(status, paint));
    line(&mut out, "quorum", quorum(status, paint));
    if let Some(sessions) = &status.sessions {
        line(&mut out, "sessions", self::sessions(sessions, paint));
    }
    out.push('\n');
    out.push_str(&members::table(&status.members, controller_name(status)).render(paint));
    if !status.apps.is_empty() {
        out.push('\n');
        out.push_str(&apps(&status.apps).render(paint));
    }
    if !status.warnings.is_empty() {
        out.push('\n');
    }
    for warning in &status.warnings {
        let _ = writeln!(out, "{} {warning}", paint.yellow("warning:"));
    }
    out
}

fn controller_name(status: &StatusResponse) -> &str {
    status.controller.as_ref().map(|controller| controller.node.as_str()).unwrap_or_default()
}

fn controller(status: &StatusResponse, paint: Paint) -> String {
    match &status.controller {
        Some(controller) if !controller.node.is_empty() => {
            format!("{} (epoch {})", paint.bold(&controller.node), controller.epoch)
        }
        Some(_) | None => format!("{} what runs goes on, nothing can be changed", paint.red("none:")),
    }
}

fn quorum(status: &StatusResponse, paint: Paint) -> String {
    let voters = status.voters.join(", ");
    if status.quorum {
        format!("{}, voters {voters}", paint.green("yes"))
    } else {
        format!("{} a majority of the voters {voters} is needed", paint.red("NO QUORUM:"))
    }
}

fn sessions(sessions: &SessionsSummary, paint: Paint) -> String {
    let SessionsSummary { groups, under_replicated, unavailable, durability, replicas } = sessions;
    let mut parts = vec![format!("{groups} groups of {replicas}, durability {}", or_dash(durability))];
    if *under_replicated > 0 {
        parts.push(paint.yellow(&format!("{under_replicated} under-replicated")));
    }
    if *unavailable > 0 {
        parts.push(paint.red(&format!("{unavailable} UNAVAILABLE")));
    }
    if *under_replicated == 0 && *unavailable == 0 {
        parts.push(paint.green("all replicated"));
    }
    parts.join(", ")
}

fn apps(apps: &[AppSummary]) -> Table {
    let mut table = Table::new(&["APP", "STABLE", "TARGET", "ROLLOUT"]);
    for app in apps {
        table.row(vec![
            plain(&app.name),
            plain(named(&app.stable_version, &app.stable)),
            plain(named(&app.target_version, &app.target)),
            rollout_cell(app.rollout.as_ref()),
        ]);
    }
    table
}

/// A release as people name it, with the beginning of the id that is beyond doubt.
pub fn named(version: &str, release: &str) -> String {
    if release.is_empty() { "-".to_owned() } else { format!("{version} ({})", short(release)) }
}

#[cfg(test)]
mod tests {
    use proto::v1::{ControllerInfo, Member};

    use super::*;

    fn member(name: &str, state: &str) -> Member {
        Member {
            name: name.into(),
            state: state.into(),
            voter: true,
            ready: state == "alive",
            ..Member::default()
        }
    }

    fn farm() -> StatusResponse {
        StatusResponse {
            cluster_id: "c1".into(),
            node: "node-1".into(),
            controller: Some(ControllerInfo { node: "node-2".into(), epoch: 17 }),
            quorum: true,
            voters: vec!["node-1".into(), "node-2".into(), "node-3".into()],
            members: vec![member("node-1", "alive"), member("node-2", "alive"), member("node-3", "down")],
            sessions: Some(SessionsSummary {
                groups: 16,
                under_replicated: 16,
                replicas: 3,
                durability: "fsync".into(),
                ..SessionsSummary::default()
            }),
            warnings: vec!["node-3 is down".into()],
            ..StatusResponse::default()
        }
    }

    #[test]
    fn a_dead_server_the_controller_and_the_lost_replicas_are_seen_at_a_glance() {
        let text = render(&farm(), Paint::plain());
        assert!(text.contains("controller node-2 (epoch 17)"), "{text}");
        assert!(text.contains("16 under-replicated"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("node-3") && line.contains("down")), "{text}");
        assert!(text.ends_with("warning: node-3 is down\n"), "{text}");
    }

    #[test]
    fn a_farm_without_a_quorum_says_so_and_names_the_voters() {
        let status = StatusResponse { quorum: false, controller: None, ..farm() };
        let text = render(&status, Paint::plain());
        assert!(text.contains("NO QUORUM"), "{text}");
        assert!(text.contains("controller none:"), "{text}");
    }

    #[test]
    fn the_document_has_the_keys_of_the_contract() {
        let document = serde_json::to_value(farm()).unwrap();
        assert_eq!(document["controller"]["node"], "node-2");
        assert_eq!(document["controller"]["epoch"], 17);
        assert_eq!(document["sessions"]["under_replicated"], 16);
        assert_eq!(document["members"][2]["state"], "down");
        let app = serde_json::to_value(AppSummary::default()).unwrap();
        assert!(app["rollout"].is_null());
    }
}
