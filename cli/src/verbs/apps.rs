//! `holdfast apps` and `holdfast ps`.

use proto::v1::app_service_client::AppServiceClient;
use proto::v1::{AppDetail, Instance, ListAppsRequest, ListAppsResponse, ListInstancesRequest, Rollout};
use tonic::transport::Channel;

use super::status::named;
use crate::args::Form;
use crate::failure::Failure;
use crate::local::{CALL_TIMEOUT, within};
use crate::output::table::{Table, Tone, plain};
use crate::output::{self, or_dash, paint, short};

pub async fn show(channel: Channel, form: Form) -> Result<(), Failure> {
    let answer = list(channel).await?;
    if form.json {
        return output::json(&answer);
    }
    if answer.apps.is_empty() {
        eprintln!("no apps yet: `holdfast deploy DIR` brings one");
    }
    output::text(&table(&answer.apps).render(paint::stdout()))
}

pub async fn list(channel: Channel) -> Result<ListAppsResponse, Failure> {
    AppServiceClient::new(channel)
        .list_apps(within(CALL_TIMEOUT, ListAppsRequest {}))
        .await
        .map(tonic::Response::into_inner)
        .map_err(|status| Failure::from_status("list the apps", &status))
}

pub async fn instances(channel: Channel, app: Option<String>, form: Form) -> Result<(), Failure> {
    let request = ListInstancesRequest { app: app.unwrap_or_default() };
    let answer = AppServiceClient::new(channel)
        .list_instances(within(CALL_TIMEOUT, request))
        .await
        .map_err(|status| Failure::from_status("list the instances", &status))?
        .into_inner();
    if form.json {
        return output::json(&answer);
    }
    if answer.instances.is_empty() {
        eprintln!("no instances");
    }
    output::text(&instance_table(&answer.instances).render(paint::stdout()))
}

fn table(apps: &[AppDetail]) -> Table {
    let mut table = Table::new(&["APP", "READY", "STABLE", "TARGET", "ROLLOUT", "ROUTE"]);
    for app in apps {
        let tone = if app.ready >= app.wanted { Tone::Good } else { Tone::Doubtful };
        let hosts = if app.hosts.is_empty() { "*".to_owned() } else { app.hosts.join(",") };
        table.row(vec![
            plain(&app.name),
            (format!("{}/{}", app.ready, app.wanted), tone),
            plain(named(&app.stable_version, &app.stable)),
            plain(named(&app.target_version, &app.target)),
            rollout_cell(app.rollout.as_ref()),
            plain(format!("{hosts}{}", app.path)),
        ]);
    }
    table
}

fn instance_table(instances: &[Instance]) -> Table {
    let heading = ["APP", "NODE", "INSTANCE", "RELEASE", "STATE", "PID", "PORT", "UP", "RESTARTS", "NOTE"];
    let mut table = Table::new(&heading);
    for instance in instances {
        let tone = match instance.state.as_str() {
            "ready" => Tone::Good,
            "failed" => Tone::Bad,
            _ => Tone::Doubtful,
        };
        table.row(vec![
            plain(&instance.app),
            plain(&instance.node),
            plain(&instance.id),
            plain(named(&instance.version, &instance.release)),
            (instance.state.clone(), tone),
            plain(instance.pid.to_string()),
            plain(instance.port.to_string()),
            plain(output::duration(instance.uptime_seconds)),
            plain(instance.restarts.to_string()),
            plain(or_dash(&instance.message)),
        ]);
    }
    table
}

/// A rollout in a cell: its stage, how far it is, and why it stands.
pub fn rollout_cell(rollout: Option<&Rollout>) -> (String, Tone) {
    let Some(rollout) = rollout else { return plain("-") };
    let total = rollout.updated.len() + rollout.pending.len();
    let mut text = format!("{} {} of {total} nodes", rollout.stage, rollout.updated.len());
    if !rollout.version.is_empty() {
        text.push_str(&format!(" to {} ({})", rollout.version, short(&rollout.release)));
    }
    if !rollout.reason.is_empty() {
        text.push_str(": ");
        text.push_str(&rollout.reason);
    }
    let tone = match rollout.stage.as_str() {
        "done" => Tone::Good,
        "failed" | "rolled_back" => Tone::Bad,
        _ => Tone::Doubtful,
    };
    (text, tone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_says_how_far_it_is_and_why_it_stands() {
        let rollout = Rollout {
            stage: "rolling".into(),
            version: "2".into(),
            release: "ab".repeat(32),
            updated: vec!["node-1".into()],
            pending: vec!["node-2".into(), "node-3".into()],
            reason: "waits for node-2".into(),
        };
        let (text, tone) = rollout_cell(Some(&rollout));
        assert_eq!(text, "rolling 1 of 3 nodes to 2 (abababababab): waits for node-2");
        assert_eq!(tone, Tone::Doubtful);
        assert_eq!(rollout_cell(None).0, "-");
    }
}
