//! Releases: rolled out, rolled back, refused, caught up with.

use crate::farm::{Farm, has, holdfast, wait_until, write_app};

async fn page(farm: &Farm, node: usize) -> String {
    reqwest::get(farm.url(node, "/")).await.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_rolled_out_and_back_and_a_server_that_was_away_catches_up() {
    if !has("python3", "python3") {
        return;
    }
    let mut farm = Farm::start(&["--no-app"]);
    let app = farm.dir.path().join("site");
    let dir = app.to_str().unwrap().to_owned();
    let deploy = |farm: &Farm, text: &str, version: &str| {
        write_app(&app, "site", text);
        farm.at(0, &["deploy", &dir, "--version", version])
    };
    deploy(&farm, "first", "1").ok();
    for node in 0..3 {
        assert_eq!(page(&farm, node).await, "first");
    }
    deploy(&farm, "second", "2").ok();
    for node in 0..3 {
        assert_eq!(page(&farm, node).await, "second");
    }
    farm.at(1, &["rollback", "site"]).ok();
    for node in 0..3 {
        assert_eq!(page(&farm, node).await, "first");
    }
    // A release that is deployed while a server is away.
    farm.kill(2);
    farm.wait_status(0, "it is down", |status| status["members"][2]["state"] == "down");
    let said = deploy(&farm, "third", "3").ok();
    assert!(
        said.stderr.contains("node-3") || said.stdout.contains("node-3"),
        "it names who is behind: {said:?}"
    );
    farm.restart(2);
    let url = farm.url(2, "/");
    // The very first answer that it gives is of the new release.
    wait_until("node-3 answers", || {
        let client = std::process::Command::new("python3")
            .args([
                "-c",
                "import sys,urllib.request as u\nprint(u.urlopen(sys.argv[1],timeout=5).read().decode())",
                &url,
            ])
            .output()
            .unwrap();
        if !client.status.success() {
            return false;
        }
        assert_eq!(String::from_utf8_lossy(&client.stdout).trim(), "third");
        true
    });
    farm.wait_whole(0);
    let status = farm.status(0);
    let release = status["apps"][0]["stable"].clone();
    for member in status["members"].as_array().unwrap() {
        assert_eq!(member["apps"]["site"]["release"], release, "{member}");
    }
    repairs_a_corrupted_release(&mut farm).await;
    refuses_what_can_not_run(&farm).await;
}

/// A file of the release is damaged on one node's disk while its agent is away.
async fn repairs_a_corrupted_release(farm: &mut Farm) {
    farm.kill(1);
    let mut damaged = 0;
    let mut folders = vec![farm.nodes[1].data_dir.join("apps")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if std::fs::read(&path).is_ok_and(|bytes| bytes == b"third") {
                // In place, so that every name of the file has it.
                use std::io::Write as _;
                let mut permissions = std::fs::metadata(&path).unwrap().permissions();
                std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
                std::fs::set_permissions(&path, permissions).unwrap();
                std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(b"bad!!").unwrap();
                damaged += 1;
            }
        }
    }
    assert!(damaged > 0, "the release is on its disk");
    farm.restart(1);
    farm.wait_whole(1);
    for _ in 0..9 {
        assert_eq!(page(farm, 1).await, "third");
    }
}

async fn refuses_what_can_not_run(farm: &Farm) {
    let dir = farm.dir.path().join("bad");
    let path = dir.to_str().unwrap();
    write_app(&dir, "site", "fourth");
    let manifest = std::fs::read_to_string(dir.join("holdfast.toml")).unwrap();
    std::fs::write(dir.join("holdfast.toml"), manifest.replace("command", "comand")).unwrap();
    let said = farm.at(0, &["deploy", path, "--version", "4"]);
    assert_ne!(said.code, 0);
    assert!(said.stderr.contains("comand") && said.stderr.contains("command"), "{said:?}");
    // One that never becomes ready: everybody stays on the release before.
    let never = manifest
        .replace("path = \"/\"", "path = \"/never\"")
        .replace("[health]\n", "[health]\nstartup = { path = \"/never\", timeout = \"3s\" }\n");
    std::fs::write(dir.join("holdfast.toml"), never).unwrap();
    let said = farm.at(0, &["deploy", path, "--version", "5"]);
    assert_eq!(said.code, 3, "{said:?}\n{}", farm.logs());
    for node in 0..3 {
        assert_eq!(page(farm, node).await, "third");
    }
    // Two apps can not take the same requests.
    let other = farm.dir.path().join("other");
    write_app(&other, "other", "other");
    let said = farm.at(0, &["deploy", other.to_str().unwrap(), "--version", "1"]);
    assert_eq!(said.code, 6, "{said:?}");
    assert!(said.stderr.contains("route") || said.stderr.contains("same requests"), "{said:?}");
    let said = farm.at(0, &["rollback", "nothing"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("no such app"), "{said:?}");
}

#[test]
fn a_folder_without_a_manifest_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let said = holdfast(&[
        "demo",
        "--app",
        dir.path().to_str().unwrap(),
        "--dir",
        dir.path().join("farm").to_str().unwrap(),
    ]);
    assert_ne!(said.code, 0);
    assert!(said.stderr.contains("holdfast.toml"), "{said:?}");
}
