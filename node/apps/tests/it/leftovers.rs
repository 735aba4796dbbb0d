//! What an agent that was killed has left. The agent before is played by hand: its processes are
//! started and recorded here, as a killed one would leave them.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};

use crate::farm::{Farm, is_alive, records, start_time};

/// A shell that leads a group and has started somebody in it. Both are gone when a test is, however it
/// ends.
struct Leftover {
    child: Child,
    pid: i32,
    grandchild: i32,
}

impl Leftover {
    fn new(mark: &str, then: &str) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", &format!("sleep 1000 >&2 & echo $!; exec >&-; {then}")])
            .env("HOLDFAST_INSTANCE", mark)
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        Self { child, pid, grandchild: line.trim().parse().unwrap() }
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        if is_alive(self.grandchild) {
            kill_process(Pid::from_raw(self.grandchild).unwrap(), Signal::KILL).unwrap();
        }
    }
}

fn record(folder: &Path, pid: i32, start_time: u64, mark: &str) {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let record = serde_json::json!({
        "pid": pid, "start_time": start_time, "boot_id": boot_id.trim(), "mark": mark,
    });
    std::fs::create_dir_all(records(folder)).unwrap();
    std::fs::write(records(folder).join(format!("shop-{pid}.json")), record.to_string()).unwrap();
}

async fn start_agent(folder: &Arc<tempfile::TempDir>) {
    let _farm = Farm::in_folder(Arc::clone(folder)).await;
    assert_eq!(std::fs::read_dir(records(folder.path())).unwrap().count(), 0, "records are used up");
}

#[tokio::test]
async fn a_leftover_is_ended_with_its_group_before_anything_starts() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let left = Leftover::new("m1", "wait");
    record(folder.path(), left.pid, start_time(left.pid), "m1");
    start_agent(&folder).await;
    assert!(!is_alive(left.pid) && !is_alive(left.grandchild));
}

#[tokio::test]
async fn what_an_instance_has_started_is_ended_though_the_instance_itself_is_gone() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let mut left = Leftover::new("m2", "wait");
    record(folder.path(), left.pid, start_time(left.pid), "m2");
    left.child.kill().unwrap();
    left.child.wait().unwrap();
    assert!(is_alive(left.grandchild));
    start_agent(&folder).await;
    assert!(!is_alive(left.grandchild));
}

#[tokio::test]
async fn a_process_that_got_the_number_later_is_left_alone() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let left = Leftover::new("m3", "wait");
    record(folder.path(), left.pid, start_time(left.pid) - 1, "m3");
    start_agent(&folder).await;
    assert!(is_alive(left.pid) && is_alive(left.grandchild));
}

#[tokio::test]
async fn a_group_that_got_the_number_later_is_left_alone_though_its_leader_is_gone_too() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let mut left = Leftover::new("of somebody else", "wait");
    record(folder.path(), left.pid, start_time(left.pid), "m4");
    left.child.kill().unwrap();
    left.child.wait().unwrap();
    start_agent(&folder).await;
    assert!(is_alive(left.grandchild));
}
