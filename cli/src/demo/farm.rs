//! `farm.json`: where everything of a demonstration is. Its shape is a contract with scripts.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

const FILE: &str = "farm.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Farm {
    pub cluster_id: String,
    pub nodes: Vec<FarmNode>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarmNode {
    pub name: String,
    pub zone: String,
    /// Of the agent that the demonstration started; one that was started by hand has another.
    pub pid: u32,
    pub data_dir: PathBuf,
    pub config: PathBuf,
    pub socket: PathBuf,
    pub gossip: SocketAddr,
    pub peer: SocketAddr,
    pub admin: SocketAddr,
    pub resp: SocketAddr,
    pub http: SocketAddr,
    pub https: SocketAddr,
}

impl Farm {
    /// The farm that the folder holds, if it holds one.
    pub fn load(dir: &Path) -> Result<Option<Self>, Failure> {
        let path = dir.join(FILE);
        let damaged = |error: &dyn std::fmt::Display| {
            Failure::failed(
                format!("can not read {}: {error}", path.display()),
                "remove the folder, or name another one with --dir",
            )
        };
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(&error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(damaged(&error)),
        }
    }

    /// Whoever reads it meanwhile sees the old document or the new one, never a part.
    pub fn save(&self, dir: &Path) -> Result<(), Failure> {
        let path = dir.join(FILE);
        let temporary = dir.join(".farm.json.new");
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        text.and_then(|text| fs::write(&temporary, text))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|error| {
                Failure::failed(
                    format!("can not write {}: {error}", path.display()),
                    "make room, or use another --dir",
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn farm() -> Farm {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let node = FarmNode {
            name: "node-1".into(),
            zone: "a".into(),
            pid: 1,
            data_dir: "/d/data".into(),
            config: "/d/agent.toml".into(),
            socket: "/d/agent.sock".into(),
            gossip: address(7401),
            peer: address(7402),
            admin: address(7403),
            resp: address(7404),
            http: address(7405),
            https: address(7406),
        };
        Farm { cluster_id: "00".into(), nodes: vec![node] }
    }

    #[test]
    fn the_document_has_the_shape_of_the_contract() {
        let expected = serde_json::json!({"cluster_id": "00", "nodes": [{
            "name": "node-1", "zone": "a", "pid": 1,
            "data_dir": "/d/data", "config": "/d/agent.toml", "socket": "/d/agent.sock",
            "gossip": "127.0.0.1:7401", "peer": "127.0.0.1:7402", "admin": "127.0.0.1:7403",
            "resp": "127.0.0.1:7404", "http": "127.0.0.1:7405", "https": "127.0.0.1:7406",
        }]});
        assert_eq!(serde_json::to_value(farm()).unwrap(), expected);
    }

    #[test]
    fn a_farm_survives_its_file_and_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Farm::load(dir.path()).unwrap(), None);
        farm().save(dir.path()).unwrap();
        assert_eq!(Farm::load(dir.path()).unwrap(), Some(farm()));
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Farm::load(dir.path()).is_err());
    }
}
