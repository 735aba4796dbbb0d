//! The end of a farm: agents are asked, then told, and what they leave is ended too.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::processes::{self, Process};
use crate::failure::Failure;

/// An agent drains its balancer (10 s) and gives its parts 30 s at most.
const STOP_MAX: Duration = Duration::from_secs(45);

/// After SIGKILL the kernel only has to get to it.
const KILL_MAX: Duration = Duration::from_secs(10);

/// Most of them are not children of this process, so that there is nothing to await.
const PAUSE: Duration = Duration::from_millis(50);

/// `holdfast demo --stop`.
pub async fn run(dir: &Path) -> Result<(), Failure> {
    let ended = end_farm(dir).await?;
    match ended {
        0 => eprintln!("no process of the farm in {} was running", dir.display()),
        1 => eprintln!("ended 1 process; the data stays in {}", dir.display()),
        _ => eprintln!("ended {ended} processes; the data stays in {}", dir.display()),
    }
    Ok(())
}

/// Refuses to start a farm that runs.
pub fn refuse_live(dir: &Path) -> Result<(), Failure> {
    let Some(agent) = configs(dir).iter().find_map(|config| processes::agents(config).into_iter().next())
    else {
        return Ok(());
    };
    Err(Failure::new(
        crate::failure::Exit::Refused,
        format!("the farm in {} is running already (an agent is process {})", dir.display(), agent.pid),
        format!("end it with `holdfast demo --dir {} --stop`, or name another --dir", dir.display()),
    ))
}

/// Ends every agent of the folder, restarted ones too, and whatever they leave. Tells how many.
pub async fn end_farm(dir: &Path) -> Result<usize, Failure> {
    let configs = configs(dir);
    let agents: Vec<Process> = configs.iter().flat_map(|config| processes::agents(config)).collect();
    for agent in &agents {
        agent.signal(Signal::TERM);
    }
    let stubborn = lasting(agents.clone(), STOP_MAX).await;
    kill(&stubborn);
    // Instances end with their agent; one that did not was not the agent's any more.
    let left: Vec<Process> =
        configs.iter().flat_map(|config| processes::instances(&apps_socket(config))).collect();
    kill(&left);
    let killed: Vec<Process> = stubborn.into_iter().chain(left.iter().copied()).collect();
    let immortal = lasting(killed, KILL_MAX).await;
    if let Some(process) = immortal.first() {
        return Err(Failure::failed(
            format!("process {} can not be ended", process.pid),
            "it hangs in the kernel: look at its state in /proc, and at the disk",
        ));
    }
    Ok(agents.len() + left.len())
}

fn kill(processes: &[Process]) {
    for process in processes {
        process.signal(Signal::KILL);
    }
}

/// Those that are still there after `limit`.
async fn lasting(mut processes: Vec<Process>, limit: Duration) -> Vec<Process> {
    let deadline = Instant::now() + limit;
    loop {
        processes.retain(Process::lives);
        if processes.is_empty() || Instant::now() >= deadline {
            return processes;
        }
        sleep(PAUSE).await;
    }
}

/// The settings of every node in the folder. farm.json is not asked: a start that was cut off has
/// left none.
fn configs(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let nodes = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("node-"));
    nodes.map(|entry| entry.path().join("agent.toml")).filter(|config| config.exists()).collect()
}

/// Where the instances of an agent find it.
fn apps_socket(config: &Path) -> PathBuf {
    config.with_file_name("apps.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_agent_is_found_by_its_settings_and_refuses_a_second_farm() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("node-1");
        fs::create_dir(&home).unwrap();
        let config = home.join("agent.toml");
        fs::write(&config, "").unwrap();
        assert!(refuse_live(dir.path()).is_ok());
        // A shell script named "agent" has an agent's argv; it waits for a line that never comes.
        fs::write(home.join("agent"), "read line\n").unwrap();
        let mut child = std::process::Command::new("sh")
            .args(["agent", "--config", "agent.toml"])
            .current_dir(&home)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let refused = refuse_live(dir.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = runtime.block_on(end_farm(dir.path())).unwrap();
        child.wait().unwrap();
        assert!(refused.unwrap_err().to_string().contains(&child.id().to_string()));
        assert_eq!(ended, 1);
    }
}
