//! Behaviour of the control state, one command at a time. What the planner makes of it over time is in
//! `model`.

mod model;

use super::*;

pub(super) fn release(n: u8) -> ReleaseId {
    ReleaseId([n; 32])
}

pub(super) fn newcomer(name: &str, key: u8) -> NewNode {
    NewNode {
        name: name.to_owned(),
        zone: "a".to_owned(),
        region: "r".to_owned(),
        peer_addr: ([127, 0, 0, 1], 7402).into(),
        gossip_addr: ([127, 0, 0, 1], 7401).into(),
        roles: ["apps", "sessions", "voter"].map(str::to_owned).into(),
        csr_hash: Fingerprint([key; 32]),
    }
}

const TOKEN: Fingerprint = Fingerprint([200; 32]);
const LIFE_MS: u64 = 1_000_000;

/// A log of which every entry is applied as it is written.
pub(super) struct Log {
    pub state: ControlState,
    pub index: u64,
    pub now_ms: u64,
}

impl Log {
    pub fn started() -> Self {
        let mut log = Self { state: ControlState::default(), index: 1, now_ms: 1_000 };
        let token = TokenRecord { hash: TOKEN, role: Role::Server, expires_ms: LIFE_MS, uses_left: None };
        let genesis = Command::Genesis {
            cluster: ClusterId([9; 16]),
            groups: 16,
            first: newcomer("node-1", 1),
            token: Some(("first".to_owned(), token)),
        };
        assert_eq!(log.write(&genesis), Outcome::Done);
        log
    }

    pub fn write(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        // Through the bytes, so that every command of every test is also one that the log can hold.
        let command = Command::decode(&command.encode()).unwrap();
        let outcome = self.state.apply(self.index, self.now_ms, &command);
        let applied = Applied { index: self.index, outcome };
        assert_eq!(Applied::decode(&applied.encode()).unwrap(), applied);
        applied.outcome
    }

    pub fn admit(&mut self, name: &str, key: u8) -> Outcome {
        self.write(&Command::AdmitNode { token_hash: TOKEN, node: newcomer(name, key), replaces: None })
    }

    pub fn start_controller(&mut self, node: NodeId) -> Epoch {
        let outcome = self.write(&Command::ControllerStarted { node });
        assert_eq!(outcome, Outcome::Started { epoch: Epoch(self.index) });
        self.state.epoch
    }

    pub fn order(&mut self, order: Order) -> Outcome {
        let epoch = self.state.epoch;
        self.write(&Command::Order { epoch, order })
    }

    pub fn register(&mut self, app: &str, n: u8, route: Route) -> ReleaseId {
        let record = ReleaseRecord {
            app: app.to_owned(),
            version: format!("v{n}"),
            size_bytes: 10,
            files: 1,
            route: Some(route),
            rollout_ms: 600_000,
            created_ms: 0,
            registered_index: 0,
        };
        assert_eq!(self.write(&Command::RegisterRelease { release: release(n), record }), Outcome::Done);
        release(n)
    }

    pub fn target(&mut self, app: &str, release: ReleaseId) -> Outcome {
        let secret = Secret::new(format!("secret at {}", self.index));
        self.write(&Command::SetTarget { app: app.to_owned(), release, secret })
    }

    /// Registers a release and begins to roll it out; the rollout's number.
    pub fn begin(&mut self, app: &str, n: u8) -> u64 {
        let release = self.register(app, n, Route::default());
        let outcome = self.target(app, release);
        let Outcome::Targeted { attempt, stable: false, .. } = outcome else {
            panic!("not begun: {outcome:?}")
        };
        attempt
    }

    /// Rolls a release out on one node, successfully.
    pub fn deploy(&mut self, app: &str, n: u8) {
        let attempt = self.begin(app, n);
        let app = || app.to_owned();
        assert_eq!(self.order(Order::StartRolling { app: app(), attempt }), Outcome::Done);
        assert_eq!(self.order(Order::Assign { app: app(), attempt, node: NodeId(1) }), Outcome::Done);
        assert_eq!(self.order(Order::Finish { app: app(), attempt, behind: BTreeMap::new() }), Outcome::Done);
    }
}

fn admitted(outcome: Outcome) -> NodeId {
    let Outcome::Admitted { node, .. } = outcome else { panic!("not admitted: {outcome:?}") };
    node
}

#[test]
fn nothing_but_genesis_begins_a_cluster_and_only_once() {
    let mut log = Log { state: ControlState::default(), index: 0, now_ms: 0 };
    assert_eq!(log.admit("node-2", 2), Outcome::Refused(Refusal::NotInitialised));
    let mut log = Log::started();
    let again =
        Command::Genesis { cluster: ClusterId([8; 16]), groups: 1, first: newcomer("other", 7), token: None };
    assert_eq!(log.write(&again), Outcome::Refused(Refusal::AlreadyInitialised));
    assert_eq!(log.state.cluster, Some(ClusterId([9; 16])));
}

#[test]
fn a_node_gets_the_index_of_its_entry_as_its_id_and_keeps_it_when_it_asks_again() {
    let mut log = Log::started();
    log.start_controller(NodeId(1));
    let token = TokenRecord {
        hash: Fingerprint([5; 32]),
        role: Role::Worker,
        expires_ms: LIFE_MS,
        uses_left: Some(1),
    };
    log.write(&Command::CreateToken { id: "one".to_owned(), token });
    let ask =
        Command::AdmitNode { token_hash: Fingerprint([5; 32]), node: newcomer("node-2", 2), replaces: None };
    let first = log.write(&ask);
    assert_eq!(first, Outcome::Admitted { node: NodeId(log.index), role: Role::Worker });
    assert_eq!(log.write(&ask), first, "the answer was lost, the use is not taken twice");
    let other =
        Command::AdmitNode { token_hash: Fingerprint([5; 32]), node: newcomer("node-3", 3), replaces: None };
    assert_eq!(log.write(&other), Outcome::Refused(Refusal::TokenUsedUp));
    assert!(!log.state.member(admitted(first)).unwrap().may_vote(), "a worker may not");
}

#[test]
fn the_same_request_under_another_token_is_not_answered() {
    let mut log = Log::started();
    log.admit("node-2", 2);
    let stranger =
        Command::AdmitNode { token_hash: Fingerprint([6; 32]), node: newcomer("node-2", 2), replaces: None };
    assert!(matches!(log.write(&stranger), Outcome::Refused(_)));
}

#[test]
fn a_token_that_is_unknown_expired_or_revoked_admits_nobody() {
    let mut log = Log::started();
    let wrong =
        Command::AdmitNode { token_hash: Fingerprint([1; 32]), node: newcomer("node-2", 2), replaces: None };
    assert_eq!(log.write(&wrong), Outcome::Refused(Refusal::UnknownToken));
    log.now_ms = LIFE_MS;
    assert_eq!(log.admit("node-2", 2), Outcome::Refused(Refusal::TokenExpired));
    log.now_ms = 0;
    assert_eq!(log.write(&Command::RevokeToken { id: "first".to_owned() }), Outcome::Done);
    assert_eq!(log.admit("node-2", 2), Outcome::Refused(Refusal::UnknownToken));
    assert_eq!(log.state.nodes.len(), 1);
}

#[test]
fn a_live_nodes_name_is_its_own_and_a_dead_ones_goes_to_a_new_id() {
    let mut log = Log::started();
    let old = admitted(log.admit("node-2", 2));
    let name_taken = Refusal::NameTaken { name: "node-2".to_owned(), holder: old };
    assert_eq!(log.admit("node-2", 3), Outcome::Refused(name_taken));
    let again = Command::AdmitNode { token_hash: TOKEN, node: newcomer("node-2", 3), replaces: Some(old) };
    let new = admitted(log.write(&again));
    assert_ne!(new, old);
    assert!(log.state.member(old).is_none() && log.state.nodes.contains_key(&old), "never used again");
    assert_eq!(log.state.member_named("node-2").unwrap().0, new);
    assert_eq!(log.admit("node-2", 2), Outcome::Refused(Refusal::Superseded { node: old }));
    let third = Command::AdmitNode { token_hash: TOKEN, node: newcomer("node-2", 4), replaces: Some(old) };
    assert!(matches!(log.write(&third), Outcome::Refused(Refusal::NameTaken { .. })), "the holder changed");
}

#[test]
fn two_commands_in_one_entry_never_share_its_number() {
    let mut log = Log::started();
    log.admit("node-2", 2);
    let before = log.state.clone();
    log.index -= 1;
    assert_eq!(log.admit("node-3", 3), Outcome::Refused(Refusal::Crowded));
    assert_eq!(log.state, before);
    log.index -= 1;
    let started = Command::ControllerStarted { node: NodeId(1) };
    assert_eq!(log.write(&started), Outcome::Refused(Refusal::Crowded));
    log.register("shop", 1, Route::default());
    log.index = log.state.last_name - 1;
    assert_eq!(log.target("shop", release(1)), Outcome::Refused(Refusal::Crowded));
    assert!(matches!(log.target("shop", release(1)), Outcome::Targeted { .. }), "in the next entry");
}

#[test]
fn orders_of_another_epoch_change_nothing() {
    let mut log = Log::started();
    let first = log.start_controller(NodeId(1));
    let attempt = log.begin("shop", 1);
    let second = log.start_controller(NodeId(1));
    assert!(second > first);
    let before = log.state.clone();
    let order = Order::StartRolling { app: "shop".to_owned(), attempt };
    for epoch in [first, Epoch(0), Epoch(second.0 + 1)] {
        let outcome = log.write(&Command::Order { epoch, order: order.clone() });
        assert_eq!(outcome, Outcome::Refused(Refusal::StaleEpoch { given: epoch, current: second }));
    }
    assert_eq!(log.state, before);
    assert_eq!(log.order(order), Outcome::Done);
}

#[test]
fn only_a_member_that_may_vote_can_be_the_controller() {
    let mut log = Log::started();
    let token =
        TokenRecord { hash: Fingerprint([5; 32]), role: Role::Worker, expires_ms: LIFE_MS, uses_left: None };
    log.write(&Command::CreateToken { id: "workers".to_owned(), token });
    let worker =
        Command::AdmitNode { token_hash: Fingerprint([5; 32]), node: newcomer("w", 2), replaces: None };
    let worker = admitted(log.write(&worker));
    let started = |node| Command::ControllerStarted { node };
    assert_eq!(log.write(&started(worker)), Outcome::Refused(Refusal::NotAVoter { node: worker }));
    let nobody = NodeId(77);
    assert_eq!(log.write(&started(nobody)), Outcome::Refused(Refusal::UnknownNode { node: nobody }));
}

#[test]
fn two_apps_that_take_the_same_requests_are_refused_with_words() {
    let mut log = Log::started();
    log.start_controller(NodeId(1));
    log.deploy("shop", 1);
    let blog = log.register("blog", 2, Route::default());
    let Outcome::Refused(refusal) = log.target("blog", blog) else { panic!("accepted") };
    let words = refusal.to_string();
    assert!(words.contains("blog") && words.contains("shop") && words.contains("every host"), "{words}");
    let hosts = |host: &str| Route { hosts: [host.to_owned()].into(), ..Route::default() };
    let blog = log.register("blog", 3, hosts("blog.example"));
    assert!(matches!(log.target("blog", blog), Outcome::Targeted { .. }), "a named host is narrower");
    let wiki = log.register("wiki", 4, hosts("blog.example"));
    assert!(matches!(log.target("wiki", wiki), Outcome::Refused(Refusal::RouteConflict { .. })));
}

#[test]
fn another_release_waits_for_the_rollouts_end_and_the_same_one_joins_it() {
    let mut log = Log::started();
    log.start_controller(NodeId(1));
    let attempt = log.begin("shop", 1);
    let other = log.register("shop", 2, Route::default());
    let Outcome::Refused(refusal) = log.target("shop", other) else { panic!("accepted") };
    assert!(refusal.to_string().contains("v1") && refusal.to_string().contains("distribute"), "{refusal}");
    let same = Outcome::Targeted { release: release(1), attempt, stable: false };
    assert_eq!(log.target("shop", release(1)), same);
}

#[test]
fn a_rollout_that_was_turned_back_never_makes_its_release_stable() {
    let mut log = Log::started();
    log.start_controller(NodeId(1));
    log.deploy("shop", 1);
    let attempt = log.begin("shop", 2);
    let app = || "shop".to_owned();
    log.order(Order::StartRolling { app: app(), attempt });
    log.order(Order::Assign { app: app(), attempt, node: NodeId(1) });
    assert_eq!(desired(&log.state, NodeId(1))["shop"], release(2));
    log.order(Order::TurnBack { app: app(), attempt, reason: "it fell over".to_owned() });
    assert_eq!(desired(&log.state, NodeId(1))["shop"], release(1));
    log.order(Order::Finish { app: app(), attempt, behind: BTreeMap::new() });
    let record = &log.state.apps["shop"];
    assert_eq!(record.stable, Some(release(1)));
    let outcome = record.last_outcome.as_ref().unwrap();
    assert_eq!((outcome.result, outcome.reason.as_str()), (RolloutResult::RolledBack, "it fell over"));
    assert!(!log.state.releases.contains_key(&release(2)), "what can not be gone back to is forgotten");
}

#[test]
fn a_first_release_that_fails_leaves_nothing_to_run_and_says_so() {
    let mut log = Log::started();
    log.start_controller(NodeId(1));
    let attempt = log.begin("shop", 1);
    let app = || "shop".to_owned();
    log.order(Order::StartRolling { app: app(), attempt });
    log.order(Order::Assign { app: app(), attempt, node: NodeId(1) });
    log.order(Order::TurnBack { app: app(), attempt, reason: String::new() });
    let stop = demand(&log.state, "shop", NodeId(1)).unwrap();
    assert_eq!(stop.release, None);
    assert!(stop.attempt > attempt, "so that the node does not take it for old");
    log.order(Order::Finish { app: app(), attempt, behind: BTreeMap::new() });
    let record = &log.state.apps["shop"];
    assert_eq!((record.stable, record.target()), (None, None));
    assert_eq!(record.last_outcome.as_ref().unwrap().result, RolloutResult::Failed);
    assert!(demand(&log.state, "shop", NodeId(1)).unwrap().attempt > attempt);
}

#[test]
fn nothing_is_stable_that_no_node_was_told_to_run() {
    let mut log = Log::started();
    log.start_controller(NodeId(1));
    let attempt = log.begin("shop", 1);
    let app = || "shop".to_owned();
    let finish = Order::Finish { app: app(), attempt, behind: BTreeMap::new() };
    assert!(matches!(log.order(finish.clone()), Outcome::Refused(Refusal::NoSuchRollout { .. })));
    log.order(Order::StartRolling { app: app(), attempt });
    assert!(matches!(log.order(finish), Outcome::Refused(Refusal::NoSuchRollout { .. })));
    assert_eq!(log.state.apps["shop"].stable, None);
}

#[test]
fn a_rollback_goes_to_a_kept_release_and_without_a_name_to_the_one_before() {
    let mut log = Log::started();
    log.start_controller(NodeId(1));
    let back = |to| Command::Rollback { app: "shop".to_owned(), to };
    assert!(matches!(log.write(&back(None)), Outcome::Refused(Refusal::UnknownApp { .. })));
    log.deploy("shop", 1);
    assert!(matches!(log.write(&back(None)), Outcome::Refused(Refusal::NothingEarlier { .. })));
    for n in 2..=4 {
        log.deploy("shop", n);
    }
    assert_eq!(log.state.apps["shop"].history, [release(4), release(3), release(2)]);
    assert!(!log.state.releases.contains_key(&release(1)));
    assert!(matches!(log.write(&back(Some(release(1)))), Outcome::Refused(Refusal::UnknownRelease { .. })));
    let Outcome::Targeted { release: to, attempt, .. } = log.write(&back(None)) else { panic!("refused") };
    assert_eq!(to, release(3));
    let app = || "shop".to_owned();
    log.order(Order::StartRolling { app: app(), attempt });
    log.order(Order::Assign { app: app(), attempt, node: NodeId(1) });
    log.order(Order::Finish { app: app(), attempt, behind: BTreeMap::new() });
    assert_eq!(log.state.apps["shop"].history, [release(3), release(4), release(2)]);
}

#[test]
fn a_node_that_was_taken_out_and_missed_the_end_is_told_to_run_the_release_under_a_number_that_it_takes() {
    let mut log = Log::started();
    let admit = Command::AdmitNode { token_hash: TOKEN, node: newcomer("node-2", 2), replaces: None };
    let Outcome::Admitted { node: late, .. } = log.write(&admit) else { panic!("refused") };
    log.start_controller(NodeId(1));
    log.deploy("shop", 1);
    for way_back in [true, false] {
        let attempt = log.begin("shop", 2);
        let app = || "shop".to_owned();
        log.order(Order::StartRolling { app: app(), attempt });
        log.order(Order::Assign { app: app(), attempt, node: NodeId(1) });
        log.order(Order::Evict { app: app(), attempt, node: late });
        let taken_out = demand(&log.state, "shop", late).unwrap();
        assert_eq!(taken_out.release, None);
        // The same order once more names nothing anew.
        log.order(Order::Evict { app: app(), attempt, node: late });
        assert_eq!(demand(&log.state, "shop", late), Some(taken_out));
        if way_back {
            log.order(Order::TurnBack { app: app(), attempt, reason: String::new() });
        }
        log.order(Order::Finish { app: app(), attempt, behind: BTreeMap::new() });
        let then = demand(&log.state, "shop", late).unwrap();
        assert_eq!(then.release, Some(release(if way_back { 1 } else { 2 })));
        let mut goals = Goals::default();
        goals.told("shop", Goal { release: None, attempt: taken_out.attempt });
        assert!(goals.told("shop", Goal { release: then.release, attempt: then.attempt }), "{then:?}");
    }
}

#[test]
fn a_release_that_came_during_a_rollout_is_still_there_after_it() {
    let mut log = Log::started();
    log.start_controller(NodeId(1));
    let attempt = log.begin("shop", 1);
    let next = log.register("shop", 2, Route::default());
    let app = || "shop".to_owned();
    log.order(Order::TurnBack { app: app(), attempt, reason: String::new() });
    log.order(Order::Finish { app: app(), attempt, behind: BTreeMap::new() });
    assert!(matches!(log.target("shop", next), Outcome::Targeted { .. }));
}

#[test]
fn an_app_keeps_the_secret_that_it_was_first_given_and_does_not_print_it() {
    let mut log = Log::started();
    log.start_controller(NodeId(1));
    log.deploy("shop", 1);
    let secret = log.state.apps["shop"].secret.clone();
    log.deploy("shop", 2);
    assert_eq!(log.state.apps["shop"].secret, secret);
    assert!(!format!("{:?}", log.state).contains(secret.expose()));
}

#[test]
fn a_placement_names_members_that_hold_sessions_each_once() {
    let mut log = Log::started();
    log.start_controller(NodeId(1));
    let place = |group, nodes: &[u64]| {
        let nodes = nodes.iter().copied().map(NodeId).collect();
        Order::Place { groups: [(GroupId(group), nodes)].into() }
    };
    for bad in [place(0, &[1]), place(17, &[1]), place(1, &[]), place(1, &[1, 1]), place(1, &[1, 9])] {
        assert!(matches!(log.order(bad), Outcome::Refused(Refusal::BadPlacement { .. })));
    }
    assert_eq!(log.order(place(16, &[1])), Outcome::Done);
    assert_eq!(log.state.placement[&GroupId(16)], [NodeId(1)]);
}

#[test]
fn a_state_written_by_an_older_version_is_read_with_defaults() {
    let mut log = Log::started();
    log.start_controller(NodeId(1));
    log.deploy("shop", 1);
    let text = serde_json::to_string(&log.state).unwrap();
    assert_eq!(serde_json::from_str::<ControlState>(&text).unwrap(), log.state);
    let old: ControlState = serde_json::from_str(r#"{"groups": 16, "apps": {"shop": {}}}"#).unwrap();
    assert_eq!((old.groups, old.apps["shop"].stable), (16, None));
}

mod bytes {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn garbage_is_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Command::decode(&bytes).is_err());
            prop_assert!(Applied::decode(&bytes).is_err());
        }
    }
}
