//! Which keys there are, so that a mistyped one is told, with its nearest neighbour.

use toml::Table;

use super::ConfigError;

const SECTIONS: &[(&str, &[&str])] = &[
    ("node", &["name", "zone", "region", "data_dir", "labels", "capacity", "roles"]),
    ("network", &["bind", "advertise", "gossip_port", "peer_port", "join"]),
    ("api", &["socket", "apps_socket", "admin"]),
    ("resp", &["bind", "password_file"]),
    ("balancer", &["http", "https", "trusted_proxies", "workers"]),
    ("sessions", &["durability", "memory_max"]),
    ("apps", &["ports"]),
];

/// The section and key that a `HOLDFAST_SECTION_KEY` variable means, if it means one.
pub(super) fn from_variable(name: &str) -> Option<(&'static str, &'static str)> {
    let rest = name.strip_prefix("HOLDFAST_")?.to_ascii_lowercase();
    SECTIONS.iter().find_map(|(section, keys)| {
        let key = rest.strip_prefix(section)?.strip_prefix('_')?;
        keys.iter().find(|known| **known == key).map(|known| (*section, *known))
    })
}

/// Refuses what is not a known section or key. `origin` says where it stands.
pub(super) fn check(table: &Table, origin: &str) -> Result<(), ConfigError> {
    for (section, value) in table {
        let Some((_, keys)) = SECTIONS.iter().find(|(known, _)| known == section) else {
            return Err(unknown(origin, section, SECTIONS.iter().map(|(known, _)| *known)));
        };
        let Some(inner) = value.as_table() else {
            return Err(ConfigError::invalid(section, "is a section, not a value"));
        };
        for key in inner.keys() {
            if !keys.contains(&key.as_str()) {
                let qualified = format!("{section}.{key}");
                return Err(unknown(origin, &qualified, keys.iter().copied()).within(section));
            }
        }
    }
    Ok(())
}

fn unknown<'a>(origin: &str, key: &str, known: impl Iterator<Item = &'a str>) -> ConfigError {
    let last = key.rsplit('.').next().unwrap_or(key);
    let nearest = known.min_by_key(|candidate| strsim::damerau_levenshtein(candidate, last));
    ConfigError::UnknownKey {
        origin: origin.to_owned(),
        key: key.to_owned(),
        nearest: nearest.unwrap_or_default().to_owned(),
    }
}
