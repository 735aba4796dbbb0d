//! Packets that do not arrive, by nftables in each host's own namespace.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Direction, FaultError, Others};
use crate::network::Host;

/// A table each, so that faults that overlap do not undo each other.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What each host lets through.
pub struct Walls {
    table: String,
    rules: Vec<Rule>,
}

struct Rule {
    host: Host,
    hook: &'static str,
    says: String,
}

impl Walls {
    /// What has to be dropped where.
    pub fn plan(targets: &[usize], direction: Direction, from: Others, hosts: &[Host]) -> Self {
        let mut rules = Vec::new();
        for (target, other) in pairs(targets, from, hosts.len()) {
            let host = &hosts[target];
            let address: Ipv4Addr = hosts[other].address;
            if direction != Direction::Out {
                let says = format!("ip saddr {address} drop");
                rules.push(Rule { host: host.clone(), hook: "input", says });
            }
            if direction != Direction::In {
                let says = format!("ip daddr {address} drop");
                rules.push(Rule { host: host.clone(), hook: "output", says });
            }
        }
        Self::new(rules)
    }

    /// Hosts that lose so many of a hundred packets that come to them.
    pub fn sieves(targets: &[usize], percent: u8, hosts: &[Host]) -> Self {
        let rules = targets.iter().map(|target| Rule {
            host: hosts[*target].clone(),
            hook: "input",
            says: format!("iifname != lo numgen random mod 100 < {percent} drop"),
        });
        Self::new(rules.collect())
    }

    fn new(rules: Vec<Rule>) -> Self {
        Self { table: format!("chaos{}", NEXT.fetch_add(1, Ordering::Relaxed)), rules }
    }

    fn hosts(&self) -> Vec<&Host> {
        let mut hosts: Vec<&Host> = self.rules.iter().map(|rule| &rule.host).collect();
        hosts.dedup_by_key(|host| &host.name);
        hosts
    }

    /// Puts them up, each host's in one transaction.
    ///
    /// # Errors
    /// When nobody is cut off by them, or the firewall does not do as it is told.
    pub fn raise(&self) -> Result<(), FaultError> {
        if self.rules.is_empty() {
            return Err(FaultError::Absent("there is nobody to cut off".to_owned()));
        }
        for host in self.hosts() {
            let table = &self.table;
            let mut script = format!(
                "add table inet {table}; \
                 add chain inet {table} input {{ type filter hook input priority 0 ; }}; \
                 add chain inet {table} output {{ type filter hook output priority 0 ; }}; "
            );
            for rule in self.rules.iter().filter(|rule| rule.host.name == host.name) {
                script += &format!("add rule inet {table} {} {}; ", rule.hook, rule.says);
            }
            nft(host, &script)?;
        }
        Ok(())
    }

    /// Takes them down.
    pub fn raze(&self) -> Result<(), FaultError> {
        for host in self.hosts() {
            nft(host, &format!("delete table inet {}", self.table))?;
        }
        Ok(())
    }
}

fn nft(host: &Host, script: &str) -> Result<(), FaultError> {
    host.run("nft", &[script])?;
    Ok(())
}

/// Who may not see whom.
pub(super) fn pairs(targets: &[usize], from: Others, count: usize) -> Vec<(usize, usize)> {
    match from {
        Others::All => {
            let others = |target: usize| (0..count).map(move |other| (target, other));
            let pairs = targets.iter().flat_map(|target| others(*target));
            pairs.filter(|(_, other)| !targets.contains(other)).collect()
        }
        Others::One => targets.iter().map(|target| (*target, (target + 1) % count)).collect(),
        Others::Bridge => halves(targets, count),
    }
}

/// Who may not see whom when the farm falls in two halves about a bridge.
fn halves(targets: &[usize], count: usize) -> Vec<(usize, usize)> {
    let Some(bridge) = targets.first() else { return Vec::new() };
    let others: Vec<usize> = (1..count).map(|step| (bridge + step) % count).collect();
    let (left, right) = others.split_at(others.len() / 2);
    left.iter().flat_map(|one| right.iter().map(|other| (*one, *other))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_are_cut_from_each_other_and_the_bridge_from_nobody() {
        assert_eq!(halves(&[1], 3), [(2, 0)]);
        let five = halves(&[0], 5);
        assert_eq!(five, [(1, 3), (1, 4), (2, 3), (2, 4)]);
        assert_eq!(halves(&[], 5), []);
    }
}
