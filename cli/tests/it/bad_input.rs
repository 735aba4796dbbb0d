//! Strangers, and what they send.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::Value;

use crate::farm::{Farm, holdfast};

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_a_clear_answer_or_silence_and_nothing_breaks() {
    let farm = Farm::start(&[]);
    farm.wait_whole(0);
    farm.at(0, &["session", "set", "kept", "value"]).ok();
    let before = memory_kib(farm.nodes[0].pid);
    gossip_is_silent(&farm);
    garbage_on_every_port(&farm);
    a_wrong_token_admits_nobody(&farm);
    a_member_can_not_join_twice(&farm);
    the_admin_port_answers_to_localhost_only(&farm).await;
    for node in 0..3 {
        assert_eq!(farm.at(node, &["session", "get", "kept"]).ok().stdout.trim_end(), "value");
        assert_eq!(reqwest::get(farm.url(node, "/")).await.unwrap().status(), 200);
    }
    let status = farm.wait_whole(0);
    assert_eq!(status["members"].as_array().unwrap().len(), 3);
    let after = memory_kib(farm.nodes[0].pid);
    assert!(after < before + 100_000, "{before} KiB before, {after} KiB after");
}

fn gossip_is_silent(farm: &Farm) {
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    for length in [0usize, 1, 57, 58, 59, 500, 1_360, 1_361, 9_000] {
        let datagram: Vec<u8> = (0..length).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect();
        for _ in 0..50 {
            stranger.send_to(&datagram, &farm.nodes[0].gossip).unwrap();
        }
    }
    let answer = stranger.recv_from(&mut [0; 2_000]);
    assert!(answer.is_err(), "{answer:?}");
}

fn garbage_on_every_port(farm: &Farm) {
    let node = &farm.nodes[0];
    let large = vec![b'A'; 1 << 20];
    let hostile: [&[u8]; 8] = [
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03garbage",
        b"GET / HTTP/1.1\r\n\r\n",
        b"*1000000000\r\n$5\r\nhello\r\n",
        b"*1\r\n$999999999999\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        &large,
    ];
    for address in [&node.peer, &node.resp, &node.admin, &node.http] {
        for bytes in hostile {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            // It may hang up on us in the middle: that is an answer.
            let _hung_up = stream.write_all(bytes);
            let mut answer = [0; 512];
            let _silence = stream.read(&mut answer);
        }
    }
    let mut stream = TcpStream::connect(&node.resp).unwrap();
    stream.write_all(b"*1000000000\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("-ERR Protocol error"), "{answer}");
    let mut stream = TcpStream::connect(&node.http).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

/// Writes a configuration for a server that is not a member, and returns its path.
fn stranger(farm: &Farm, name: &str, port: u16) -> String {
    let dir = farm.dir.path().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let config = dir.join("agent.toml");
    let text = format!(
        "[node]\nname = \"{name}\"\ndata_dir = \"{0}/data\"\n[network]\nbind = \"127.0.0.1\"\ngossip_port = {port}\n\
         peer_port = {1}\n[api]\nsocket = \"{0}/agent.sock\"\nadmin = \"127.0.0.1:{2}\"\n[resp]\nbind = \"127.0.0.1:{3}\"\n\
         [balancer]\nhttp = []\n",
        dir.display(),
        port + 1,
        port + 2,
        port + 3,
    );
    std::fs::write(&config, text).unwrap();
    config.to_str().unwrap().to_owned()
}

fn a_wrong_token_admits_nobody(farm: &Farm) {
    let config = stranger(farm, "stranger", 20_950);
    let token = farm.at(0, &["token", "create", "--uses", "1", "--json"]).json();
    let join = token["join"].as_str().unwrap().split(' ').nth(2).unwrap().to_owned();
    let (token, address) = join.rsplit_once('@').unwrap();
    // Another secret of the same cluster.
    let last = token.chars().last().unwrap();
    let wrong = format!("{}{}@{address}", &token[..token.len() - 1], if last == 'a' { 'q' } else { 'a' });
    let said = holdfast(&["join", &wrong, "--config", &config]);
    assert!([1, 6].contains(&said.code), "{said:?}");
    assert!(said.stderr.contains("token"), "{said:?}");
    assert!(!said.stderr.contains(&token[20..]), "a secret is not shown: {said:?}");
    // Another cluster's token: its CA is not the one that answers, and nothing is sent to it.
    let other = stranger(farm, "elsewhere", 20_960);
    let init = holdfast(&["init", "--config", &other, "--json"]).json();
    let foreign = init["join"].as_str().unwrap().strip_prefix("holdfast join ").unwrap();
    let (foreign, _) = foreign.rsplit_once('@').unwrap();
    let said = holdfast(&["join", &format!("{foreign}@{address}"), "--config", &config]);
    assert!([1, 6].contains(&said.code), "{said:?}");
    assert!(said.stderr.contains("cluster"), "{said:?}");
    let said = holdfast(&["join", "nonsense", "--config", &config]);
    assert!([1, 2].contains(&said.code), "{said:?}");
    let said = holdfast(&["agent", "--config", &config]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("not a member"), "{said:?}");
}

fn a_member_can_not_join_twice(farm: &Farm) {
    let config = farm.nodes[0].config.to_str().unwrap();
    let said = holdfast(&["init", "--config", config]);
    assert_ne!(said.code, 0);
    assert!(said.stderr.contains("another agent uses") || said.stderr.contains("already"), "{said:?}");
    let said = holdfast(&["agent", "--config", config]);
    assert_eq!(said.code, 1, "{said:?}");
    let said = holdfast(&["agent", "--config", config, "--set", "node.nmae=x"]);
    assert!(said.code != 0 && said.stderr.contains("node.name"), "{said:?}");
}

async fn the_admin_port_answers_to_localhost_only(farm: &Farm) {
    let client = reqwest::Client::new();
    let url = format!("http://{}/v1/status", farm.nodes[0].admin);
    let answer = client.get(&url).header("Host", "evil.example").send().await.unwrap();
    assert_eq!(answer.status(), 403);
    let answer: Value =
        serde_json::from_str(&client.get(&url).send().await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(answer["node"], "node-1");
}

fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Clients that take every descriptor must not take the databases' as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_at_the_doors_does_not_end_the_agent() {
    let mut farm = Farm::start(&["--nodes", "1"]);
    farm.kill(0);
    farm.restart_with_files(0, 400);
    farm.wait_whole(0);
    let node = farm.nodes[0].clone();
    // Who finds the kernel's backlog full is turned away, and the next ones with it.
    let enter =
        |door: &str| TcpStream::connect_timeout(&door.parse().unwrap(), Duration::from_millis(200)).ok();
    let doors = [&node.http, &node.resp, &node.admin, &node.peer];
    let crowd: Vec<TcpStream> = doors.iter().flat_map(|door| (0..200).map_while(|_| enter(door))).collect();
    assert!(crowd.len() > 400, "no crowd: {}", crowd.len());
    for number in 0..50 {
        farm.at(0, &["session", "set", "crowded", &number.to_string()]).ok();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(farm.at(0, &["session", "get", "crowded"]).ok().stdout.trim_end(), "49");
    drop(crowd);
    for _ in 0..100 {
        if reqwest::get(farm.url(0, "/")).await.is_ok_and(|answer| answer.status() == 200) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the doors do not open again:\n{}", farm.logs());
}
