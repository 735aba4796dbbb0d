//! One entry changes the state, or is refused and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use proto::ids::{ClusterId, Epoch, GroupId, NodeId, ReleaseId};
use proto::limits::{MEMBERS_MAX, NAME_BYTES_MAX};

use super::command::{Command, NewNode, Order};
use super::outcome::{Outcome, Refusal};
use super::record::{AppRecord, Fingerprint, NodeRecord, ReleaseRecord, Role, TokenRecord};
use super::{ControlState, RELEASES_WAITING_MAX, TOKENS_MAX};

type Verdict = Result<Outcome, Refusal>;

impl ControlState {
    /// Applies the entry at `index`, which the group's leader stamped with `now_ms`.
    pub fn apply(&mut self, index: u64, now_ms: u64, command: &Command) -> Outcome {
        self.try_apply(index, now_ms, command).unwrap_or_else(Outcome::Refused)
    }

    fn try_apply(&mut self, index: u64, now_ms: u64, command: &Command) -> Verdict {
        if let Command::Genesis { cluster, groups, first, token } = command {
            return self.genesis(*cluster, *groups, first, token.as_ref());
        }
        if self.cluster.is_none() {
            return Err(Refusal::NotInitialised);
        }
        match command {
            Command::Genesis { .. } => Err(Refusal::AlreadyInitialised),
            Command::ControllerStarted { node } => self.controller_started(index, *node),
            Command::AdmitNode { token_hash, node, replaces } => {
                self.admit(index, now_ms, token_hash, node, *replaces)
            }
            Command::UpdateNode { node, peer_addr, gossip_addr, roles } => {
                self.update_node(*node, *peer_addr, *gossip_addr, roles)
            }
            Command::CreateToken { id, token } => self.create_token(now_ms, id, token),
            Command::RevokeToken { id } => {
                self.tokens.remove(id).map(|_| Outcome::Done).ok_or(Refusal::UnknownToken)
            }
            Command::RegisterRelease { release, record } => self.register(index, now_ms, *release, record),
            Command::SetTarget { app, release, secret } => {
                self.set_target(index, now_ms, app, *release, secret)
            }
            Command::Rollback { app, to } => self.roll_back_to(index, now_ms, app, *to),
            Command::Order { epoch, order } => self.obey(index, now_ms, *epoch, order),
        }
    }

    fn genesis(
        &mut self,
        cluster: ClusterId,
        groups: u16,
        first: &NewNode,
        token: Option<&(String, TokenRecord)>,
    ) -> Verdict {
        if self.cluster.is_some() {
            return Err(Refusal::AlreadyInitialised);
        }
        check_name(&first.name)?;
        self.cluster = Some(cluster);
        self.groups = groups;
        self.last_name = 1;
        let id = NodeId(1);
        self.nodes.insert(id, record_of(first, Role::Server, Fingerprint::default(), id.0));
        self.tokens.extend(token.cloned());
        Ok(Outcome::Done)
    }

    fn controller_started(&mut self, index: u64, node: NodeId) -> Verdict {
        // Its token counts, not the roles that its configuration names now: a leader that is no longer to
        // vote must still be able to hand its vote on.
        if self.member(node).ok_or(Refusal::UnknownNode { node })?.role != Role::Server {
            return Err(Refusal::NotAVoter { node });
        }
        let epoch = Epoch(self.take_name(index)?);
        self.epoch = epoch;
        self.controller = Some(node);
        Ok(Outcome::Started { epoch })
    }

    /// The number that this entry can give to something, unless a command before it in the same entry
    /// has taken it.
    fn free_name(&self, index: u64) -> Result<u64, Refusal> {
        if index > self.last_name { Ok(index) } else { Err(Refusal::Crowded) }
    }

    pub(super) fn take_name(&mut self, index: u64) -> Result<u64, Refusal> {
        self.last_name = self.free_name(index)?;
        Ok(index)
    }

    fn obey(&mut self, index: u64, now_ms: u64, epoch: Epoch, order: &Order) -> Verdict {
        #[cfg(holdfast_mutants)]
        let epoch = if mutation::is("epoch-ignored") { self.epoch } else { epoch };
        if epoch != self.epoch {
            return Err(Refusal::StaleEpoch { given: epoch, current: self.epoch });
        }
        match order {
            Order::StartRolling { app, attempt } => self.start_rolling(app, *attempt),
            Order::Assign { app, attempt, node } => self.assign(index, app, *attempt, *node),
            Order::Evict { app, attempt, node } => self.evict(index, app, *attempt, *node),
            Order::TurnBack { app, attempt, reason } => self.turn_back(index, app, *attempt, reason),
            Order::Finish { app, attempt, behind } => self.finish(now_ms, app, *attempt, behind),
            Order::Place { groups } => self.place_groups(groups),
        }
    }

    fn admit(
        &mut self,
        index: u64,
        now_ms: u64,
        token_hash: &Fingerprint,
        node: &NewNode,
        replaces: Option<NodeId>,
    ) -> Verdict {
        // The answer to the first request may have been lost: the same key under the same token is
        // the same node. The token must match, because the answer carries the gossip key.
        let known = self
            .nodes
            .iter()
            .find(|(_, record)| record.csr_hash == node.csr_hash && record.token_hash.matches(token_hash));
        if let Some((id, record)) = known {
            if record.removed {
                return Err(Refusal::Superseded { node: *id });
            }
            return Ok(Outcome::Admitted { node: *id, role: record.role });
        }
        check_name(&node.name)?;
        let holder = self.member_named(&node.name).map(|(id, _)| id);
        if let Some(holder) = holder.filter(|holder| replaces != Some(*holder)) {
            return Err(Refusal::NameTaken { name: node.name.clone(), holder });
        }
        if self.members().count() >= MEMBERS_MAX && holder.is_none() {
            return Err(Refusal::TooManyNodes { limit: MEMBERS_MAX });
        }
        let name = self.free_name(index)?;
        let role = self.use_token(now_ms, token_hash)?;
        self.last_name = name;
        if let Some(old) = holder.and_then(|holder| self.nodes.get_mut(&holder)) {
            old.removed = true;
        }
        let id = NodeId(name);
        let before = self.nodes.insert(id, record_of(node, role, *token_hash, index));
        assert!(before.is_none(), "a name is taken once");
        Ok(Outcome::Admitted { node: id, role })
    }

    /// Takes one use of a token. Every token is compared, each in constant time.
    fn use_token(&mut self, now_ms: u64, hash: &Fingerprint) -> Result<Role, Refusal> {
        let token = self.tokens.values_mut().filter(|token| token.hash.matches(hash)).last();
        let token = token.ok_or(Refusal::UnknownToken)?;
        if now_ms >= token.expires_ms {
            return Err(Refusal::TokenExpired);
        }
        if let Some(left) = &mut token.uses_left {
            *left = left.checked_sub(1).ok_or(Refusal::TokenUsedUp)?;
        }
        Ok(token.role)
    }

    fn update_node(
        &mut self,
        node: NodeId,
        peer_addr: SocketAddr,
        gossip_addr: SocketAddr,
        roles: &BTreeSet<String>,
    ) -> Verdict {
        let record = self.nodes.get_mut(&node).filter(|record| !record.removed);
        let record = record.ok_or(Refusal::UnknownNode { node })?;
        record.peer_addr = peer_addr;
        record.gossip_addr = gossip_addr;
        record.roles.clone_from(roles);
        Ok(Outcome::Done)
    }

    fn create_token(&mut self, now_ms: u64, id: &str, token: &TokenRecord) -> Verdict {
        if let Some(known) = self.tokens.get(id) {
            // Asked again, because the first answer was lost.
            return if known == token {
                Ok(Outcome::Done)
            } else {
                Err(Refusal::TokenExists { id: id.to_owned() })
            };
        }
        self.tokens.retain(|_, old| old.expires_ms > now_ms);
        if self.tokens.len() >= TOKENS_MAX {
            return Err(Refusal::TooManyTokens { limit: TOKENS_MAX });
        }
        self.tokens.insert(id.to_owned(), token.clone());
        Ok(Outcome::Done)
    }

    fn register(&mut self, index: u64, now_ms: u64, release: ReleaseId, record: &ReleaseRecord) -> Verdict {
        check_name(&record.app)?;
        // The id is the hash of the manifest, so the same id is the same release.
        if self.releases.contains_key(&release) {
            return Ok(Outcome::Done);
        }
        let record = ReleaseRecord { created_ms: now_ms, registered_index: index, ..record.clone() };
        let app = record.app.clone();
        self.releases.insert(release, record);
        self.forget_waiting(&app);
        Ok(Outcome::Done)
    }

    /// Keeps the number of an app's releases bounded that nobody rolled out.
    fn forget_waiting(&mut self, app: &str) {
        let in_use = self.apps.get(app).map(releases_in_use).unwrap_or_default();
        let mut waiting: Vec<(u64, ReleaseId)> = self
            .releases
            .iter()
            .filter(|(id, record)| record.app == app && !in_use.contains(*id))
            .map(|(id, record)| (record.registered_index, *id))
            .collect();
        waiting.sort_unstable();
        let surplus = waiting.len().saturating_sub(RELEASES_WAITING_MAX);
        for (_, id) in waiting.drain(..surplus) {
            self.releases.remove(&id);
        }
    }

    fn place_groups(&mut self, groups: &BTreeMap<GroupId, Vec<NodeId>>) -> Verdict {
        for (group, nodes) in groups {
            let distinct: BTreeSet<&NodeId> = nodes.iter().collect();
            let fits = (1..=self.groups).contains(&group.0)
                && !nodes.is_empty()
                && distinct.len() == nodes.len()
                && nodes.iter().all(|node| self.member(*node).is_some_and(NodeRecord::holds_sessions));
            if !fits {
                return Err(Refusal::BadPlacement { group: group.0, nodes: nodes.clone() });
            }
        }
        self.placement.extend(groups.iter().map(|(group, nodes)| (*group, nodes.clone())));
        Ok(Outcome::Done)
    }
}

/// The releases that an app can not do without.
pub(super) fn releases_in_use(app: &AppRecord) -> BTreeSet<ReleaseId> {
    app.history.iter().copied().chain(app.stable).chain(app.target()).collect()
}

fn record_of(node: &NewNode, role: Role, token_hash: Fingerprint, admitted_index: u64) -> NodeRecord {
    NodeRecord {
        name: node.name.clone(),
        zone: node.zone.clone(),
        region: node.region.clone(),
        peer_addr: node.peer_addr,
        gossip_addr: node.gossip_addr,
        role,
        roles: node.roles.clone(),
        csr_hash: node.csr_hash,
        token_hash,
        admitted_index,
        removed: false,
    }
}

/// Names become parts of host names, paths and user names, so they fit a DNS label.
fn check_name(name: &str) -> Result<(), Refusal> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if fits { Ok(()) } else { Err(Refusal::BadName { name: name.chars().take(NAME_BYTES_MAX).collect() }) }
}
