//! The steps from nothing to a farm that serves, each by the call that an operator would make.
//!
//! ```text
//!   init node 1 ─▶ its agent ─▶ controller ─▶ token ─▶ join the others ─▶ their agents
//!                                                                            │
//!   farm.json ◀─ every site answers ◀─ three voters, all replicated ◀─ deploy ◀─ all ready
//! ```
//! A folder that holds a farm already goes straight to the agents.

use std::path::Path;
use std::time::Duration;

use proto::v1::{AppDetail, StatusResponse};
use tonic::transport::Channel;

use super::farm::{Farm, FarmNode};
use super::launch::Agents;
use super::wait::{Wait, until};
use super::{http, sample};
use crate::args::Demo;
use crate::failure::Failure;
use crate::local;
use crate::output::short;
use crate::progress::Progress;
use crate::verbs::agent::load;
use crate::verbs::join::{init, join};
use crate::verbs::{apps, deploy, status, token, upload};

/// One agent that starts on a busy machine: databases, keys, first election.
const CONTROLLER: Wait = Wait { what: "a controller", limit: Duration::from_secs(60) };
/// The others: control log, sessions, the app's files when they have been away.
const READY: Wait = Wait { what: "every agent to be ready", limit: Duration::from_secs(120) };
const REPLICATED: Wait = Wait { what: "the voters and replicated sessions", limit: Duration::from_secs(120) };
const SERVES: Wait = Wait { what: "every site to answer", limit: Duration::from_secs(60) };

/// The token lives as long as the joins may take.
const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// Brings the farm up; `farm` gets its cluster and pids.
pub async fn start(
    dir: &Path,
    farm: &mut Farm,
    options: &Demo,
    agents: &mut Agents,
    progress: &mut Progress,
) -> Result<(), Failure> {
    assert!(!farm.nodes.is_empty(), "the options ask for one node at least");
    start_agents(farm, agents, progress).await?;
    progress.doing("waiting for every agent to be ready");
    let status = until(READY, farm, agents, || ready(farm)).await?;
    farm.cluster_id = status.cluster_id;
    farm.save(dir)?;
    progress.done(&format!("{} agents are ready, cluster {}", farm.nodes.len(), short(&farm.cluster_id)));
    if !options.no_app {
        bring_app(dir, farm, options, agents, progress).await?;
    }
    progress.doing("waiting for the voters and for replicated sessions");
    let voters = until(REPLICATED, farm, agents, || replicated(farm)).await?;
    progress.done(&format!("{voters} of {} nodes vote, every session group is replicated", farm.nodes.len()));
    farm.save(dir)
}

/// Members start; the first server of a new farm is made one, and the others join it.
async fn start_agents(farm: &mut Farm, agents: &mut Agents, progress: &mut Progress) -> Result<(), Failure> {
    if !is_member(&farm.nodes[0]) {
        progress.doing("making node-1 the first of a cluster");
        init(&load(Some(&farm.nodes[0].config), &[], std::iter::empty())?)?;
    }
    for node in farm.nodes.iter_mut().filter(|node| is_member(node)) {
        node.pid = agents.launch(node)?;
    }
    progress.doing("waiting for a controller");
    let controller = until(CONTROLLER, farm, agents, || controller(farm)).await?;
    progress.done(&format!("{controller} is the controller"));
    let strangers: Vec<usize> =
        (0..farm.nodes.len()).filter(|index| !is_member(&farm.nodes[*index])).collect();
    if strangers.is_empty() {
        return Ok(());
    }
    let uses = u32::try_from(strangers.len()).unwrap_or(0);
    let token = token::create(channel(farm).await?, "server".to_owned(), TOKEN_TTL, uses).await?;
    let target = format!("{}@{}", token.token, farm.nodes[0].peer);
    for index in strangers {
        let node = &mut farm.nodes[index];
        progress.doing(format!("{} joins with a token", node.name));
        join(&load(Some(&node.config), &[], std::iter::empty())?, &target).await?;
        node.pid = agents.launch(node)?;
        progress.done(&format!("{} has joined", node.name));
    }
    Ok(())
}

/// Deploys what was asked for, unless the farm has it from before, and waits until it is seen.
async fn bring_app(
    dir: &Path,
    farm: &Farm,
    options: &Demo,
    agents: &mut Agents,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let channel = channel(farm).await?;
    let known = apps::list(channel.clone()).await?.apps;
    let app = match (&options.app, known.iter().find(|app| app.name == sample::NAME)) {
        (None, Some(app)) if !app.stable.is_empty() => {
            progress.done(&format!("{} {} is there from before", app.name, app.stable_version));
            app.name.clone()
        }
        (None, _) => deploy_folder(&channel, &sample::write(dir)?, Some("1".to_owned()), progress).await?,
        (Some(folder), _) => deploy_folder(&channel, folder, None, progress).await?,
    };
    let apps = apps::list(channel).await?.apps;
    let detail = apps.into_iter().find(|detail| detail.name == app).unwrap_or_default();
    progress.doing("waiting for every site to answer");
    until(SERVES, farm, agents, || serves(farm, &detail)).await?;
    progress.done(&format!("{app} answers on every node"));
    Ok(())
}

async fn deploy_folder(
    channel: &Channel,
    folder: &Path,
    version: Option<String>,
    progress: &mut Progress,
) -> Result<String, Failure> {
    let uploaded = upload::upload(channel.clone(), folder, version, progress).await?;
    progress.done(&format!("{} {} is release {}", uploaded.app, uploaded.version, short(&uploaded.release)));
    if let Some(outcome) = deploy::roll_out(channel.clone(), &uploaded, false, progress).await? {
        deploy::judge(&uploaded.app, &outcome)?;
    }
    progress.done(&format!("{} {} runs on every node", uploaded.app, uploaded.version));
    Ok(uploaded.app)
}

/// What `init` and `join` leave behind, and nothing else does.
fn is_member(node: &FarmNode) -> bool {
    node.data_dir.join("identity").exists()
}

async fn channel(farm: &Farm) -> Result<Channel, Failure> {
    local::connect(&farm.nodes[0].socket).await
}

async fn seen_by(node: &FarmNode) -> Result<StatusResponse, String> {
    let channel = local::connect(&node.socket).await.map_err(|failure| failure.to_string())?;
    status::fetch(channel).await.map_err(|failure| failure.to_string())
}

async fn controller(farm: &Farm) -> Result<String, String> {
    let status = seen_by(&farm.nodes[0]).await?;
    let name = status.controller.map(|controller| controller.node).unwrap_or_default();
    if name.is_empty() || !status.quorum { Err("none is elected yet".to_owned()) } else { Ok(name) }
}

async fn ready(farm: &Farm) -> Result<StatusResponse, String> {
    let status = seen_by(&farm.nodes[0]).await?;
    let is_ready = |node: &&FarmNode| {
        status
            .members
            .iter()
            .any(|member| member.name == node.name && member.state == "alive" && member.ready)
    };
    match farm.nodes.iter().find(|node| !is_ready(node)) {
        Some(node) => Err(format!("{} is not ready", node.name)),
        None => Ok(status),
    }
}

async fn replicated(farm: &Farm) -> Result<usize, String> {
    settled(&seen_by(&farm.nodes[0]).await?, farm.nodes.len())
}

/// How many vote, once the farm has all the safety that it can have with so many nodes.
fn settled(status: &StatusResponse, nodes: usize) -> Result<usize, String> {
    // Two voters are less safe than one, so a farm of two keeps one.
    let wanted = if nodes >= 3 { 3 } else { 1 };
    if !status.quorum || status.voters.len() < wanted {
        return Err(format!("{} of {wanted} voters", status.voters.len()));
    }
    let sessions = status.sessions.clone().unwrap_or_default();
    if sessions.groups == 0 || sessions.under_replicated > 0 || sessions.unavailable > 0 {
        return Err(format!(
            "of {} session groups {} are under-replicated and {} unavailable",
            sessions.groups, sessions.under_replicated, sessions.unavailable
        ));
    }
    Ok(status.voters.len())
}

async fn serves(farm: &Farm, app: &AppDetail) -> Result<(), String> {
    for node in &farm.nodes {
        let host = app.hosts.first().cloned().unwrap_or_else(|| node.http.to_string());
        let path = if app.path.is_empty() { "/" } else { &app.path };
        let code = http::status(node.http, &host, path).await?;
        // An app may well have nothing at its root; the balancer's own errors are of the 500s.
        if code >= 500 {
            return Err(format!("{} answers {code}", node.http));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proto::v1::SessionsSummary;

    use super::*;

    fn status(voters: usize, under_replicated: u32) -> StatusResponse {
        StatusResponse {
            quorum: true,
            voters: (0..voters).map(|index| format!("node-{index}")).collect(),
            sessions: Some(SessionsSummary { groups: 16, under_replicated, ..SessionsSummary::default() }),
            ..StatusResponse::default()
        }
    }

    #[test]
    fn a_farm_has_settled_with_three_voters_and_all_groups_replicated() {
        assert!(settled(&status(3, 0), 3).is_ok());
        assert!(settled(&status(1, 0), 3).is_err());
        assert!(settled(&status(3, 1), 3).is_err());
        assert!(settled(&status(1, 0), 2).is_ok());
        assert!(settled(&StatusResponse::default(), 1).is_err());
    }
}
