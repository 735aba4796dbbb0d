use super::*;

fn load(text: &str, sets: &[&str], environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Config::load(
        Some(&path),
        &sets,
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

const BASE: &str = "[node]\nname = \"one\"\n[network]\nbind = \"127.0.0.1\"\n";

#[test]
fn an_empty_section_gets_the_documented_defaults() {
    let config = load(BASE, &[], &[]).unwrap();
    assert_eq!(config.gossip_advertise().to_string(), "127.0.0.1:7401");
    assert_eq!(config.peer_bind().to_string(), "127.0.0.1:7402");
    assert_eq!(config.api.admin.to_string(), "127.0.0.1:7403");
    assert_eq!(config.resp.bind.to_string(), "127.0.0.1:7379");
    assert_eq!(config.api.socket, Path::new("/run/holdfast/agent.sock"));
    assert_eq!(config.apps.ports, 20_000..=29_999);
}

#[test]
fn flags_beat_the_environment_which_beats_files() {
    let config = load(
        &format!("{BASE}gossip_port = 1\npeer_port = 1\n"),
        &["network.peer_port=3"],
        &[("HOLDFAST_NETWORK_GOSSIP_PORT", "2"), ("HOLDFAST_NETWORK_PEER_PORT", "2")],
    )
    .unwrap();
    assert_eq!((config.network.gossip_port, config.network.peer_port), (2, 3));
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_one() {
    let error = load("[node]\nnmae = \"one\"\n", &[], &[]).unwrap_err().to_string();
    assert!(error.contains("node.nmae") && error.contains("did you mean node.name?"), "{error}");
    let error = load("[nod]\nname = \"one\"\n", &[], &[]).unwrap_err().to_string();
    assert!(error.contains("did you mean node?"), "{error}");
    let error = load(BASE, &["resp.bnid=\"127.0.0.1:1\""], &[]).unwrap_err().to_string();
    assert!(error.contains("did you mean resp.bind?"), "{error}");
}

#[test]
fn ports_without_authentication_stay_on_loopback() {
    for set in ["api.admin=0.0.0.0:7403", "resp.bind=192.0.2.7:6379"] {
        let error = load(BASE, &[set], &[]).unwrap_err().to_string();
        assert!(error.contains("not a loopback address"), "{error}");
    }
}

#[test]
fn what_this_version_does_not_do_is_refused_in_words() {
    for set in ["balancer.https=[\"0.0.0.0:443\"]", "sessions.durability=memory"] {
        let error = load(BASE, &[set], &[]).unwrap_err().to_string();
        assert!(error.contains("not supported by this version"), "{error}");
    }
}

#[test]
fn sizes_and_port_ranges_are_read_or_refused() {
    let config = load(BASE, &["sessions.memory_max=512M", "apps.ports=30000-30010"], &[]).unwrap();
    assert_eq!(config.sessions.memory_max, 512 << 20);
    assert_eq!(config.apps.ports, 30_000..=30_010);
    assert!(load(BASE, &["apps.ports=9-8"], &[]).is_err());
    assert!(load(BASE, &["sessions.memory_max=99999999999999999999G"], &[]).is_err());
}
