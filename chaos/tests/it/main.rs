//! The built program against histories that were made by hand: what is sound passes, and each broken
//! promise is found by its own checker.

#![allow(clippy::unwrap_used, reason = "a test that can not go on should say where")]

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn history(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories").join(format!("{name}.jsonl"))
}

/// The program. Its labs are where these tests look for what it has left.
fn chaos() -> Command {
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_holdfast-chaos"));
    chaos.env_remove("HOLDFAST_CHAOS_LAB");
    chaos
}

fn check(path: &Path, more: &[&str]) -> Output {
    chaos().arg("check").arg(path).args(more).output().unwrap()
}

/// Says why a test is not run, past the test program, which would keep it to itself.
fn not_run(why: &str) {
    let line = format!("not run: {why}\n  sudo -E cargo test -p chaos --test it, where that is there\n");
    std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_sound_history_passes_every_checker() {
    // In the other one a client was kept waiting while all was put right, and was answered later.
    for name in ["good", "kept-waiting"] {
        let said = check(&history(name), &["--json"]);
        assert_eq!(said.status.code(), Some(0), "{name}: {}", text(&said));
        let report: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        for finding in report["findings"].as_array().unwrap() {
            assert_eq!(finding["verdict"], "kept", "{name}: {finding}");
        }
    }
}

#[test]
fn each_broken_promise_is_found_by_its_own_checker() {
    for (name, checker) in [
        ("lost-write", "ledger"),
        ("stale-read", "registers"),
        ("double-count", "counters"),
        ("deposed-controller", "epochs"),
        ("old-price", "invalidation"),
        ("mixed-releases", "deploys"),
        ("double-order", "requests"),
        ("failed-request", "requests"),
        ("leak", "leaks"),
        ("never-whole", "steady state"),
        ("ended-agent", "agents"),
        ("panicked-agent", "agents"),
        ("stuck-agent", "agents"),
        ("dead-site", "steady state"),
        ("never-answered", "steady state"),
        ("hung-server", "steady state"),
        ("bare-node", "deploys"),
        ("lost-release", "deploys"),
        ("two-releases-on-a-node", "deploys"),
        ("starved-double-order", "requests"),
    ] {
        let said = check(&history(name), &["--json"]);
        assert_eq!(said.status.code(), Some(1), "{name}: {}", text(&said));
        let report: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        let broken: Vec<&str> = findings
            .iter()
            .filter(|finding| finding["verdict"] == "violated")
            .map(|finding| finding["check"].as_str().unwrap())
            .collect();
        assert_eq!(broken, [checker], "{name}");
        let words = text(&check(&history(name), &[]));
        assert!(words.contains("VIOLATED"), "{words}");
    }
}

#[test]
fn a_history_that_tests_nothing_proves_nothing() {
    let said = check(&history("nothing"), &[]);
    assert_eq!(said.status.code(), Some(4), "{}", text(&said));
    assert!(text(&said).contains("not tested"), "{}", text(&said));
}

#[test]
fn what_could_not_be_judged_is_not_called_kept() {
    for (name, words) in [
        ("unfinished", "before all was put right"),
        ("idle", "not tested"),
        ("unread-entry", "after the last read was called"),
        ("unseen-order", "nobody has written down who executed them"),
        ("no-clients", "it was to be tested"),
        ("hit-nobody", "has hit nobody"),
        ("nobody-knows", "not tested"),
    ] {
        let said = check(&history(name), &[]);
        assert_eq!(said.status.code(), Some(4), "{name}: {}", text(&said));
        assert!(text(&said).contains(words), "{name}: {}", text(&said));
    }
}

#[test]
fn on_a_starved_host_nothing_passes() {
    let said = check(&history("starved"), &[]);
    assert_eq!(said.status.code(), Some(4), "{}", text(&said));
    assert!(text(&said).contains("starved"), "{}", text(&said));
}

#[test]
fn what_is_no_history_is_told_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    let good = std::fs::read_to_string(history("good")).unwrap();
    let mut lines: Vec<&str> = good.lines().collect();
    lines.insert(3, "nonsense");
    std::fs::write(&path, lines.join("\n")).unwrap();
    let said = check(&path, &[]);
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said).contains("line 4 is not understood"), "{}", text(&said));
    let said = check(&dir.path().join("absent"), &[]);
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said).contains("can not judge"), "{}", text(&said));
    // Half a line at the end is a writer that was killed.
    std::fs::write(&path, &good[..good.len() - 9]).unwrap();
    let said = check(&path, &[]);
    assert_eq!(said.status.code(), Some(0), "{}", text(&said));
    assert!(text(&said).contains("was cut"), "{}", text(&said));
}

/// What is there of the tool's own, of whatever run.
fn left() -> Vec<String> {
    let mut left = left_behind();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let commands =
        processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    // Agents, their instances, and what meddles with them are called with files of their lab.
    left.extend(commands.filter(|command| command.contains("/run/holdfast-chaos/")));
    left
}

/// Of it, what outlives every process.
fn left_behind() -> Vec<String> {
    let mut left = Vec::new();
    let groups = ["", "freezer", "cpu", "memory", "unified"].map(|kind| format!("/sys/fs/cgroup/{kind}"));
    for folder in groups.into_iter().chain(["/run/netns".to_owned()]) {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        left.extend(names.filter(|name| name.starts_with("hfc")));
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    left.extend(mounts.lines().filter(|line| line.contains("holdfast-chaos/")).map(str::to_owned));
    left
}

/// Tests that make something on this machine take turns, so that what is left is their own.
static MACHINE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// The program to be tested, as built by `cargo test --workspace`, where a farm can be made at all.
fn farm_is_possible() -> bool {
    let holdfast = Path::new(env!("CARGO_BIN_EXE_holdfast-chaos")).with_file_name("holdfast");
    let is_root =
        std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let has_ip = Command::new("ip").arg("-V").output().is_ok();
    let possible = holdfast.exists() && is_root && has_ip;
    if !possible {
        not_run(&format!("a farm needs root, iproute2 and {} (cargo build)", holdfast.display()));
    }
    possible
}

/// Of an experiment on a host that is too busy for it.
const TRIES: usize = 3;

fn experiment(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments").join(name)
}

#[test]
fn a_farm_keeps_its_promises_while_a_node_is_killed() {
    let _turn = MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !farm_is_possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    // With every kind of client.
    let everything = dir.path().join("everything.toml");
    let kinds =
        "workloads = [\"ledger\", \"counters\", \"registers\", \"requests\", \"prices\", \"deploys\"]\n";
    let usual = std::fs::read_to_string(experiment("kill-a-node.toml")).unwrap();
    std::fs::write(&everything, usual.replacen("nodes = ", &format!("{kinds}nodes = "), 1)).unwrap();
    let run = || {
        let mut run = chaos();
        run.args(["run", "--seed", "7", "--out"]).args([&out, &everything]).output().unwrap()
    };
    let mut said = run();
    for _ in 1..TRIES {
        // Others had the processors: it proves nothing, and has to be tried again.
        if said.status.code() == Some(4) {
            std::fs::remove_dir_all(&out).unwrap();
            said = run();
        }
    }
    assert_eq!(left(), Vec::<String>::new());
    if said.status.code() == Some(4) {
        return not_run(&format!("this host had no time for it, {TRIES} times"));
    }
    assert_eq!(said.status.code(), Some(0), "{}", text(&said));
    // The fault has bitten: another process runs under the same name, and somebody was refused.
    let history = std::fs::read_to_string(out.join("history.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        history.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let plan: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("plan.json")).unwrap()).unwrap();
    let killed = &plan["chosen"][0]["nodes"][0];
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).cloned().collect::<Vec<_>>();
    let pids: Vec<u64> = of("sample")
        .iter()
        .filter(|sample| sample["node"] == *killed)
        .map(|sample| sample["pid"].as_u64().unwrap())
        .collect();
    assert!(pids.len() == 2 && pids[0] != pids[1], "{pids:?}");
    assert!(of("return").iter().any(|told| told["outcome"] != "ok"));
    assert_every_client_worked(&out, &lines);
    // The same history with one acknowledged write gone is judged otherwise.
    let lost = dir.path().join("lost.jsonl");
    std::fs::write(&lost, history.replace("\"entries\":[\"0-0\",", "\"entries\":[")).unwrap();
    let said = check(&lost, &[]);
    assert_eq!(said.status.code(), Some(1), "{}", text(&said));
}

/// Of each operation there are some that succeeded, and no promise was kept for want of a test.
fn assert_every_client_worked(out: &Path, lines: &[serde_json::Value]) {
    let of = |event: &'static str| lines.iter().filter(move |line| line["event"] == event);
    let succeeded: std::collections::BTreeSet<u64> = of("return")
        .filter(|told| told["outcome"] == "ok")
        .map(|told| told["id"].as_u64().unwrap())
        .collect();
    for op in [
        "ledger_add",
        "ledger_read",
        "counter_add",
        "register_read",
        "register_write",
        "request",
        "price_set",
        "price_read",
        "deploy",
    ] {
        let called = of("call").filter(|call| call["op"] == op);
        let count = called.filter(|call| succeeded.contains(&call["id"].as_u64().unwrap())).count();
        assert!(count > 0, "no {op} has succeeded");
    }
    for event in ["served", "acted", "runs"] {
        assert!(of(event).count() > 0, "no {event}");
    }
    let is = |wanted: &'static str| of("return").any(move |told| told["value"]["is"] == wanted);
    assert!(is("mismatch"), "every write on condition has found its version");
    assert!(of("return").any(|told| told["value"]["cached"] == true), "no price came from a cache");
    // An order is obeyed while things happen, and written down then.
    let begun = of("phase").find(|phase| phase["phase"] == "method").unwrap()["t_us"].as_i64().unwrap();
    assert!(of("acted").any(|act| act["t_us"].as_i64().unwrap() < begun));
    let verdict = std::fs::read_to_string(out.join("verdict.json")).unwrap();
    let verdict: serde_json::Value = serde_json::from_str(&verdict).unwrap();
    for finding in verdict["findings"].as_array().unwrap() {
        assert_eq!(finding["verdict"], "kept", "{finding}");
        assert!(finding["looked_at"].as_u64().unwrap() > 0, "{finding}");
    }
}

/// Anybody can: it takes neither root nor namespaces. The version that half of the farm is of meanwhile is the
/// same program under another name, which is seen in what runs.
#[test]
fn a_farm_on_loopback_keeps_its_promises_while_agents_are_killed_and_are_of_two_versions() {
    let _turn = MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let holdfast = Path::new(env!("CARGO_BIN_EXE_holdfast-chaos")).with_file_name("holdfast");
    if !holdfast.exists() {
        return not_run(&format!("it needs {} (cargo build)", holdfast.display()));
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let other = dir.path().join("holdfast-of-another-version");
    // Another program by its digest: what follows its end is not looked at by the kernel.
    std::fs::write(&other, [std::fs::read(&holdfast).unwrap(), b"another".to_vec()].concat()).unwrap();
    std::fs::set_permissions(&other, std::fs::metadata(&holdfast).unwrap().permissions()).unwrap();
    let run = |experiment: &Path, words: &[&str]| {
        let mut run = chaos();
        run.args(["run", "--loopback", "--seed", "7", "--out"]).args([&out, experiment]).args(words);
        run.output().unwrap()
    };
    let skew = experiment("version-skew.toml");
    let said = run(&skew, &[]);
    assert_eq!(said.status.code(), Some(2), "{}", text(&said));
    assert!(text(&said).contains("--other"), "{}", text(&said));
    let said = run(&skew, &["--other", &holdfast.to_string_lossy()]);
    assert_eq!(said.status.code(), Some(2), "{}", text(&said));
    assert!(text(&said).contains("the same program"), "{}", text(&said));
    assert!(!out.exists(), "nothing was made");
    let said = run(&experiment("lossy-network.toml"), &[]);
    assert_eq!(said.status.code(), Some(2), "{}", text(&said));
    assert!(text(&said).contains("no link") && text(&said).contains("root"), "{}", text(&said));
    assert!(!text(&said).contains("keeps what there is"), "{}", text(&said));
    let said = run(&skew, &["--other", &other.to_string_lossy()]);
    // A host that is too busy is told, and proves nothing.
    let code = said.status.code();
    assert!(code == Some(0) || code == Some(4), "{}", text(&said));
    let log = std::fs::read_to_string(out.join("node-1.log")).unwrap();
    assert!(log.matches("holdfast agent").count() >= 2 || log.lines().count() > 10, "{log}");
    let history = std::fs::read_to_string(out.join("history.jsonl")).unwrap();
    let begun = history.lines().filter(|line| line.contains("\"fault\":\"version\"")).count();
    assert_eq!(begun, 4, "two faults begin and end");
}

fn wait_until_nothing_is_left() {
    let began = std::time::Instant::now();
    while !left().is_empty() {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "{:?}", left());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// An experiment with disks, a switch, and a fault that lasts a minute.
fn lasting(folder: &Path, fault: &str) -> PathBuf {
    let path = folder.join("lasting.toml");
    let text = format!(
        "name = \"lasting\"\nsteady_state = \"it is stopped\"\nnodes = 3\nworkloads = [\"ledger\"]\n\
         steady_seconds = 1\nrecovery_seconds_max = 90\n\
         meanwhile = [{{ fault = \"link\", target = \"all\", delay_ms = 2 }}]\n\
         [[method]]\nfaults = [{{ {fault}, target = \"any\" }}]\nseconds = 60\nthen_seconds = 1\n\
         [[method]]\nfaults = [{{ fault = \"disk_full\", target = \"any\" }}]\nseconds = 1\nthen_seconds = 1\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_run_that_is_stopped_or_killed_leaves_nothing() {
    let _turn = MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !farm_is_possible() {
        return;
    }
    let takes = ["strace", "mkfs.ext4", "/dev/loop-control", "/dev/net/tun", "cgroups"];
    let missing = takes.iter().find(|means| !is_here(means));
    if let Some(missing) = missing {
        not_run(&format!("in a freeze and under a tracer it needs {missing}"));
    }
    let (freeze, slow) = ("fault = \"freeze\"", "fault = \"fsync_slow\", delay_ms = 50");
    for (signal, code, fault, begins) in [
        ("-INT", Some(3), None, "steady for"),
        ("-KILL", None, None, "steady for"),
        ("-INT", Some(3), Some(freeze), "freeze at"),
        ("-KILL", None, Some(freeze), "freeze at"),
        ("-KILL", None, Some(slow), "fsync_slow at"),
    ] {
        if fault.is_some() && missing.is_some() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let said = dir.path().join("said");
        let mut run = chaos()
            .args(["run", "--seed", "7", "--out"])
            .arg(dir.path().join("run"))
            .arg(fault.map_or_else(|| experiment("kill-a-node.toml"), |fault| lasting(dir.path(), fault)))
            .stdout(std::process::Stdio::null())
            .stderr(std::fs::File::create(&said).unwrap())
            .spawn()
            .unwrap();
        let words = || std::fs::read_to_string(&said).unwrap();
        let began = std::time::Instant::now();
        while !words().contains(begins) {
            let ended = run.try_wait().unwrap();
            assert!(ended.is_none() && began.elapsed() < std::time::Duration::from_secs(240), "{}", words());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // What begins is told before it has.
        std::thread::sleep(std::time::Duration::from_secs(1));
        let sent = Command::new("kill").args([signal, &run.id().to_string()]).status().unwrap();
        assert!(sent.success());
        assert_eq!(run.wait().unwrap().code(), code, "{}", words());
        // A killed one leaves it to its guard.
        if code.is_none() {
            wait_until_nothing_is_left();
        }
        assert_eq!(left(), Vec::<String>::new(), "{signal} {fault:?}");
    }
}

/// An experiment that takes moments, on loopback, with one kind of client.
fn brief(folder: &Path) -> PathBuf {
    let path = folder.join("brief.toml");
    let usual = std::fs::read_to_string(experiment("kill-a-node.toml")).unwrap();
    let brief = usual.replacen("nodes = ", "workloads = [\"ledger\"]\nnodes = ", 1);
    std::fs::write(&path, brief).unwrap();
    path
}

/// A terminal's Ctrl-C reaches every process of the foreground group: the tool's own, and none of an agent.
#[test]
fn an_interrupt_from_the_terminal_late_in_a_run_stops_it_and_breaks_nothing() {
    let _turn = MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let holdfast = Path::new(env!("CARGO_BIN_EXE_holdfast-chaos")).with_file_name("holdfast");
    if !holdfast.exists() {
        return not_run(&format!("it needs {} (cargo build)", holdfast.display()));
    }
    let dir = tempfile::tempdir().unwrap();
    let (out, said) = (dir.path().join("run"), dir.path().join("said"));
    let mut run = chaos();
    run.args(["run", "--loopback", "--seed", "7", "--out"]).args([&out, &brief(dir.path())]);
    let said_to = std::fs::File::create(&said).unwrap();
    run.stdout(std::process::Stdio::null()).stderr(said_to).process_group(0);
    let mut run = run.spawn().unwrap();
    let words = || std::fs::read_to_string(&said).unwrap();
    let began = std::time::Instant::now();
    while !words().contains("steady again for") {
        let ended = run.try_wait().unwrap();
        assert!(ended.is_none() && began.elapsed() < std::time::Duration::from_secs(240), "{}", words());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let group = format!("-{}", run.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    let began = std::time::Instant::now();
    assert_eq!(run.wait().unwrap().code(), Some(3), "{}", words());
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(words().contains("a signal"), "{}", words());
    assert!(!std::fs::read_to_string(out.join("history.jsonl")).unwrap().contains("\"event\":\"ended\""));
}

#[test]
fn a_start_that_fails_says_why_and_keeps_what_was_said() {
    let _turn = MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let holdfast = Path::new(env!("CARGO_BIN_EXE_holdfast-chaos")).with_file_name("holdfast");
    if !holdfast.exists() {
        return not_run(&format!("it needs {} (cargo build)", holdfast.display()));
    }
    let dir = tempfile::tempdir().unwrap();
    let (out, broken) = (dir.path().join("run"), dir.path().join("broken"));
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exec echo holdfast 9\n\
         [ \"$1\" = agent ] && echo not today >&2 && exit 7\nexec {} \"$@\"\n",
        holdfast.display()
    );
    std::fs::write(&broken, script).unwrap();
    std::fs::set_permissions(&broken, std::fs::metadata(&holdfast).unwrap().permissions()).unwrap();
    let run = || {
        let mut run = chaos();
        run.args(["run", "--loopback", "--seed", "7", "--out"]).args([&out, &brief(dir.path())]);
        run.arg("--holdfast").arg(&broken).output().unwrap()
    };
    let said = run();
    // On a starved host nothing is held against anybody, and all is told as well.
    assert!(matches!(said.status.code(), Some(2 | 4)), "{}", text(&said));
    assert!(text(&said).contains("the agent of node-1 has ended: not today"), "{}", text(&said));
    assert_eq!(std::fs::read_to_string(out.join("node-1.log")).unwrap(), "not today\n");
    let plan = std::fs::read_to_string(out.join("plan.json")).unwrap();
    assert!(plan.contains("\"version\": \"9\"") && plan.contains("\"digest\""), "{plan}");
    let said = run();
    assert_eq!(said.status.code(), Some(2), "{}", text(&said));
    assert!(text(&said).contains("there already") && !text(&said).contains("keeps"), "{}", text(&said));
}

/// A group that gets a quarter of a core, in which a whole farm and its clients have to live.
#[test]
fn a_run_on_a_starved_host_has_no_verdict() {
    let _turn = MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !farm_is_possible() {
        return;
    }
    let group = Path::new("/sys/fs/cgroup/cpu").join(format!("hfc-starved-{}", std::process::id()));
    if std::fs::create_dir(&group).is_err() {
        return not_run("it needs the cpu control group of the first version");
    }
    std::fs::write(group.join("cpu.cfs_quota_us"), "25000").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\""]).arg(&group);
    shell.arg(env!("CARGO_BIN_EXE_holdfast-chaos")).args(["run", "--seed", "7", "--out"]);
    let said = shell.args([&dir.path().join("run"), &experiment("kill-a-node.toml")]).output().unwrap();
    // Its guard is still in the group for a moment.
    let began = std::time::Instant::now();
    while std::fs::remove_dir(&group).is_err() {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "{group:?} is in use");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(said.status.code(), Some(4), "{}", text(&said));
    assert!(text(&said).contains("starved"), "{}", text(&said));
    assert_eq!(left(), Vec::<String>::new());
}

#[test]
fn what_is_no_experiment_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    std::fs::write(&path, "name = 1\n").unwrap();
    let said = chaos().arg("run").arg(&path).output().unwrap();
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said).contains("can not run"), "{}", text(&said));
}

/// What each fault takes: root, programs, files.
const MEANS: [(&str, &str); 21] = [
    ("kill and pause", ""),
    ("freeze", "root cgroups"),
    ("hosts", "root ip"),
    ("partition", "root ip nft"),
    ("packet loss", "root ip nft"),
    ("flapping link", "root ip nft"),
    ("delay and jitter", "root ip /dev/net/tun"),
    ("link loss and rate", "root ip /dev/net/tun"),
    ("duplication", "root ip /dev/net/tun"),
    ("reordering", "root ip /dev/net/tun"),
    ("corruption", "root ip /dev/net/tun"),
    ("power cut", "root mkfs.ext4 python3 /dev/loop-control"),
    ("disk full", "root mkfs.ext4 /dev/loop-control"),
    ("failing fsync", "root strace python3"),
    ("slow fsync", "root strace python3"),
    ("damaged files", ""),
    ("old copy, empty disk", ""),
    ("clock jump", "libfaketime python3"),
    ("CPU starvation", "root cgroups"),
    ("memory pressure", "root cgroups python3"),
    ("no descriptors", "python3"),
];

fn is_here(means: &str) -> bool {
    let exists = |path: &str| Path::new(path).exists();
    match means {
        "root" => {
            std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
        }
        "cgroups" => exists("/sys/fs/cgroup/freezer") || exists("/sys/fs/cgroup/cgroup.controllers"),
        "libfaketime" => std::fs::read_dir("/usr/lib")
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.path().join("faketime/libfaketime.so.1").exists()),
        path if path.starts_with('/') => exists(path),
        program => std::env::var("PATH").unwrap().split(':').any(|dir| Path::new(dir).join(program).exists()),
    }
}

#[test]
fn the_doctor_tells_of_every_fault_and_leaves_nothing_even_when_it_is_killed() {
    let _turn = MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let doctor = || {
        let said = chaos().args(["doctor", "--json"]).output().unwrap();
        assert_eq!(said.status.code(), Some(0), "{}", text(&said));
        let report: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        report["faults"].as_array().unwrap().clone()
    };
    let faults = doctor();
    let names: Vec<&str> = faults.iter().map(|fault| fault["fault"].as_str().unwrap()).collect();
    assert_eq!(names, MEANS.map(|(name, _)| name));
    let mut again = Vec::new();
    for (place, (name, means)) in MEANS.into_iter().enumerate() {
        let (fault, works) = (&faults[place], faults[place]["works"] == true);
        let missing: Vec<&str> = means.split_whitespace().filter(|means| !is_here(means)).collect();
        assert!(works || (fault["reason"].is_string() && fault["instead"].is_string()), "{fault}");
        if !works && !missing.is_empty() {
            not_run(&format!("{name} needs {}", missing.join(", ")));
        } else if !works {
            again.push(place);
        }
    }
    // With everything that it takes it has to bite; some take chance and time, of which there may be too little.
    if !again.is_empty() {
        let second = doctor();
        let absent: Vec<_> = again.into_iter().filter(|place| second[*place]["works"] != true).collect();
        assert!(absent.is_empty(), "{absent:?} of {second:?}");
    }
    assert_eq!(left(), Vec::<String>::new());
    for pause_ms in [60, 150, 300, 600, 1_000] {
        let mut doctor = chaos().arg("doctor").stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(pause_ms));
        doctor.kill().unwrap();
        doctor.wait().unwrap();
        // Or its guard was faster.
        let said = chaos().arg("clean").output().unwrap();
        assert_eq!(said.status.code(), Some(0), "{}", text(&said));
        assert_eq!(left_behind(), Vec::<String>::new(), "killed after {pause_ms} ms");
        // A program that was making a disk ends a moment later.
        wait_until_nothing_is_left();
    }
}

/// The writing end of a pipe that nobody reads any more.
fn nobody() -> std::io::PipeWriter {
    let (_gone, writer) = std::io::pipe().unwrap();
    writer
}

#[test]
fn a_verdict_stands_though_nobody_reads_it() {
    for (name, code) in [("good", 0), ("lost-write", 1), ("nothing", 4)] {
        let mut check = chaos();
        check.arg("check").arg(history(name)).stdout(nobody()).stderr(nobody());
        assert_eq!(check.status().unwrap().code(), Some(code), "{name}");
    }
}

#[test]
fn a_simulation_ends_when_nobody_reads_on() {
    // More of them than anybody would wait for.
    let mut sim = chaos();
    let ended = sim.args(["sim", "--nodes", "2", "--seeds", "1000000000"]).stdout(nobody()).output().unwrap();
    assert_eq!(ended.status.code(), Some(3), "{}", text(&ended));
    assert_eq!(text(&ended), "");
}

#[test]
fn what_can_not_be_written_is_said_to_be_so() {
    let full = std::fs::File::create("/dev/full").unwrap();
    let mut check = chaos();
    let ended = check.arg("check").arg(history("good")).arg("--json").stdout(full).output().unwrap();
    assert_eq!(ended.status.code(), Some(2), "{}", text(&ended));
    assert!(text(&ended).contains("can not write to stdout: No space left on device"), "{}", text(&ended));
}
