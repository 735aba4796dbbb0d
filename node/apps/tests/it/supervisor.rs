use std::time::Duration;

use node_apps::{AppState, InstanceState};
use tokio_util::sync::CancellationToken;

use crate::farm::{Farm, gone, is_alive};

/// Short times, so that a failure is seen soon.
const HASTY: &str = "[restart]\nbackoff = \"100ms..200ms\"\n[stop]\ndrain = \"1s\"\ngrace = \"30s\"\n";

/// Until asked to stop, and waits for nobody.
const SLEEP: &str = "exec sleep 1000";

#[tokio::test]
async fn a_program_that_nobody_here_wrote_is_started_probed_and_stopped() {
    let mut farm = Farm::new().await;
    std::fs::write(farm.root().join("index.html"), "hello").unwrap();
    farm.run_server(1, 7, "[health]\nready = {path = \"/index.html\", rise = 2, interval = \"100ms\"}\n");
    let app = farm.ready(1).await;
    assert_eq!((app.attempt, app.instances.len()), (7, 1));
    let instance = &app.instances[0];
    assert!((20_000..30_000).contains(&instance.port) && instance.restarts == 0, "{instance:?}");
    let pid = i32::try_from(instance.pid).unwrap();
    assert!(is_alive(pid));
    farm.supervisor.stop("shop", 8);
    let app = farm.until("stopped", |app| app.state == AppState::Stopped).await;
    assert_eq!((app.attempt, app.release, app.instances.len()), (8, None, 0));
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn an_instance_finds_its_environment_and_a_file_limit_and_nothing_of_the_agent() {
    let mut farm = Farm::new().await;
    let command = "env > env.new; ulimit -n >> env.new; echo >> env.new; mv env.new env; echo $PORT > arg; \
                   exec python3 -m http.server --bind 127.0.0.1 $PORT";
    farm.run(1, 1, command, "[env]\nLOG = \"info\"\n[limits]\nnofile = 99\n");
    let app = farm.ready(1).await;
    let environment = farm.file("env").await;
    let has = |line: &str| environment.lines().any(|found| found == line);
    assert!(has("LOG=info") && has("HOLDFAST_APP=shop") && has("HOLDFAST_VERSION=v1"), "{environment}");
    assert!(has(&format!("PORT={}", app.instances[0].port)) && has("99"), "{environment}");
    assert!(has(&format!("HOLDFAST_RELEASE={}", "01".repeat(32))), "{environment}");
    assert!(has("REDIS_URL=redis://shop:secret@127.0.0.1:1/0"), "{environment}");
    assert!(environment.contains("PATH="), "{environment}");
    assert!(!environment.contains("CARGO"), "{environment}");
    assert_eq!(farm.file("arg").await, app.instances[0].port.to_string());
}

#[tokio::test]
async fn an_app_that_never_gets_ready_fails_with_the_reason() {
    let mut farm = Farm::new().await;
    farm.run_server(1, 1, "[health]\nstartup = {timeout = \"2s\"}\nready = {path = \"/absent\"}\n");
    let app = farm.until("failed", |app| app.state == AppState::Failed).await;
    assert!(app.message.contains("not ready in 2s: GET /absent: status 404"), "{}", app.message);
}

#[tokio::test]
async fn a_program_that_is_not_there_fails_with_its_name() {
    let mut farm = Farm::new().await;
    farm.run(1, 1, "exec ./no-such-program", HASTY);
    let app = farm.until("failed", |app| app.state == AppState::Failed).await;
    assert!(app.message.contains("no-such-program"), "{}", app.message);
}

#[tokio::test]
async fn a_crash_loop_fails_with_the_last_words_and_a_new_attempt_clears_it() {
    let mut farm = Farm::new().await;
    farm.run(1, 1, "echo started; echo out of kelp >&2; exit 3", HASTY);
    let app = farm.until("failed", |app| app.state == AppState::Failed).await;
    assert!(app.message.contains("ends again and again: ended with status 3"), "{}", app.message);
    assert!(app.message.contains("out of kelp"), "{}", app.message);
    assert_eq!(app.instances[0].restarts, 4);
    std::fs::write(farm.root().join("index.html"), "hello").unwrap();
    farm.run_server(1, 2, HASTY);
    let app = farm.ready(1).await;
    assert_eq!(app.attempt, 2);
}

#[tokio::test]
async fn an_instance_that_is_killed_is_started_again_as_another_one() {
    let mut farm = Farm::new().await;
    farm.run_server(1, 1, HASTY);
    let before = farm.ready(1).await.instances[0].clone();
    let pid = rustix::process::Pid::from_raw(i32::try_from(before.pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let app = farm.until("unready", |app| app.state == AppState::Unready).await;
    assert!(app.message.is_empty() || app.message.contains("signal 9"), "{}", app.message);
    let app = farm.until("ready again", |app| app.state == AppState::Ready).await;
    let after = &app.instances[0];
    assert_ne!((&after.id, after.pid, after.port), (&before.id, before.pid, before.port));
    assert_eq!(after.restarts, 1);
}

#[tokio::test]
async fn the_new_release_is_ready_before_the_old_one_is_asked_to_go() {
    let mut farm = Farm::new().await;
    farm.run_server(1, 1, HASTY);
    let old = farm.ready(1).await.instances[0].id.clone();
    let hold = CancellationToken::new();
    *farm.drains.hold.lock().unwrap() = Some(hold.clone());
    farm.run_server(2, 2, HASTY);
    let app = farm
        .until("replaced", |app| {
            app.instances.iter().any(|instance| instance.state == InstanceState::Stopping)
        })
        .await;
    let state = |id: &str| app.instances.iter().find(|instance| instance.id == id).unwrap().state;
    assert_eq!(state(&old), InstanceState::Stopping);
    let new = app.instances.iter().find(|instance| instance.id != old).unwrap();
    assert_eq!(new.state, InstanceState::Ready);
    hold.cancel();
    let app = farm.until("alone", |app| app.instances.len() == 1).await;
    assert_eq!(app.state, AppState::Ready);
    assert_eq!(*farm.drains.asked.lock().unwrap(), [old]);
}

#[tokio::test]
async fn a_release_that_fails_leaves_the_old_one_serving_and_going_back_keeps_that_process() {
    let mut farm = Farm::new().await;
    farm.run_server(1, 1, HASTY);
    let old = farm.ready(1).await.instances[0].clone();
    farm.run(2, 2, "exit 1", HASTY);
    let app = farm.until("failed", |app| app.state == AppState::Failed).await;
    let serving = app.instances.iter().find(|instance| instance.id == old.id).unwrap();
    assert_eq!(serving.state, InstanceState::Ready);
    farm.run_server(1, 3, HASTY);
    let app = farm.ready(1).await;
    assert_eq!(app.attempt, 3);
    let app = farm.until("alone", |app| app.instances.len() == 1).await;
    assert_eq!((&app.instances[0].id, app.instances[0].pid), (&old.id, old.pid));
}

#[tokio::test]
async fn an_instance_gets_its_signal_and_time_to_finish() {
    let mut farm = Farm::new().await;
    let command = "trap 'echo told > told; exit 0' USR1; \
                   python3 -m http.server --bind 127.0.0.1 $PORT & echo $! > child; wait";
    farm.run(1, 1, command, "[stop]\nsignal = \"USR1\"\ndrain = \"1s\"\ngrace = \"60s\"\n");
    farm.ready(1).await;
    farm.supervisor.stop("shop", 2);
    farm.until("stopped", |app| app.state == AppState::Stopped).await;
    assert_eq!(farm.file("told").await, "told");
}

#[tokio::test]
async fn what_ignores_the_signal_is_killed_with_all_that_it_has_started() {
    let mut farm = Farm::new().await;
    let command = "trap '' TERM; (trap '' TERM; sleep 1000) & echo $! > grandchild; \
                   python3 -m http.server --bind 127.0.0.1 $PORT; sleep 1000";
    farm.run(1, 1, command, "[stop]\ndrain = \"0s\"\ngrace = \"1s\"\n");
    let app = farm.ready(1).await;
    let grandchild: i32 = farm.file("grandchild").await.parse().unwrap();
    assert!(is_alive(grandchild));
    farm.supervisor.stop_all().await;
    gone(grandchild).await;
    gone(i32::try_from(app.instances[0].pid).unwrap()).await;
    farm.run_server(2, 9, "");
    assert_eq!(farm.until("stopped", |_| true).await.state, AppState::Stopped, "too late to start");
    assert_eq!(std::fs::read_dir(crate::farm::records(farm.folder.path())).unwrap().count(), 0);
}

#[tokio::test]
async fn requests_that_do_not_end_delay_the_signal_no_longer_than_the_drain() {
    let mut farm = Farm::new().await;
    farm.run_server(1, 1, HASTY);
    farm.ready(1).await;
    *farm.drains.hold.lock().unwrap() = Some(CancellationToken::new());
    farm.supervisor.stop("shop", 2);
    farm.until("stopped", |app| app.state == AppState::Stopped).await;
    assert_eq!(farm.drains.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn instances_die_with_the_agent_even_when_it_stops_nothing() {
    let farm = Farm::new().await;
    farm.run(1, 1, &format!("echo $$ > pid; {SLEEP}"), "");
    let pid: i32 = farm.file("pid").await.parse().unwrap();
    assert!(is_alive(pid));
    // The runtime that the tasks run in goes on, as in an agent that hangs; what ends is the thread.
    farm.stop.cancel();
    farm.tracker.close();
    farm.tracker.wait().await;
    drop(farm);
    gone(pid).await;
}

#[tokio::test]
async fn several_instances_have_ports_of_their_own() {
    let mut farm = Farm::new().await;
    farm.run_server(1, 1, "instances = 3\n");
    let app = farm.ready(1).await;
    let ports: std::collections::BTreeSet<u16> = app.instances.iter().map(|instance| instance.port).collect();
    assert_eq!((app.instances.len(), ports.len()), (3, 3));
    farm.run_server(2, 2, "instances = 1\n");
    farm.ready(2).await;
    farm.until("alone", |app| app.instances.len() == 1).await;
    tokio::time::timeout(Duration::from_secs(60), farm.supervisor.stop_all()).await.unwrap();
}
