use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use rand::SeedableRng as _;

use super::*;
use crate::experiment::Abort;
use crate::farm::Ground;
use crate::history::Run;
use crate::network::Host;

pub const ALL: &[&str] = &[
    r#"{"fault":"kill"}"#,
    r#"{"fault":"pause"}"#,
    r#"{"fault":"freeze"}"#,
    r#"{"fault":"restart"}"#,
    r#"{"fault":"version"}"#,
    r#"{"fault":"partition","direction":"in","from":"one","flap_ms":500}"#,
    r#"{"fault":"loss","percent":9}"#,
    r#"{"fault":"link","delay_ms":9}"#,
    r#"{"fault":"power_cut"}"#,
    r#"{"fault":"disk_dies"}"#,
    r#"{"fault":"disk_full"}"#,
    r#"{"fault":"fsync_fails"}"#,
    r#"{"fault":"fsync_slow","delay_ms":9}"#,
    r#"{"fault":"bit_rot","bits":9}"#,
    r#"{"fault":"truncate"}"#,
    r#"{"fault":"old_database"}"#,
    r#"{"fault":"wipe"}"#,
    r#"{"fault":"clock","seconds":-9}"#,
    r#"{"fault":"cpu","percent":9}"#,
    r#"{"fault":"memory","mib":9}"#,
    r#"{"fault":"descriptors","more":9}"#,
];

#[test]
fn every_fault_is_called_what_an_experiment_calls_it() {
    for text in ALL {
        let fault: Fault = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&fault).unwrap()["fault"], fault.name());
        assert_eq!(fault.make_sense(), Ok(()), "{text}");
    }
}

#[test]
fn figures_that_can_not_be_meant_are_refused() {
    for (text, wanted) in [
        (r#"{"fault":"loss","percent":101}"#, "percent"),
        (r#"{"fault":"cpu","percent":0}"#, "paused"),
        (r#"{"fault":"partition","flap_ms":1}"#, "flap_ms"),
        (r#"{"fault":"fsync_slow","delay_ms":600000}"#, "delay_ms"),
        (r#"{"fault":"link"}"#, "breaks nothing"),
        (r#"{"fault":"link","loss_percent":101}"#, "percent"),
        (r#"{"fault":"clock","seconds":-99999999}"#, "seconds"),
        (r#"{"fault":"bit_rot","bits":0}"#, "bits"),
        (r#"{"fault":"loss","percent":0}"#, "breaks nothing"),
        (r#"{"fault":"fsync_slow","delay_ms":0}"#, "breaks nothing"),
        (r#"{"fault":"clock","seconds":0}"#, "breaks nothing"),
        (r#"{"fault":"memory","mib":17592186044416}"#, "no limit"),
        (r#"{"fault":"descriptors","more":18446744073709551615}"#, "no limit"),
        (r#"{"fault":"link","rate_kib":18014398509481984}"#, "limited by nothing"),
    ] {
        let fault: Fault = serde_json::from_str(text).unwrap();
        let told = fault.make_sense().unwrap_err();
        assert!(told.contains(wanted), "{text}: {told}");
    }
}

/// What becomes of a fault at two nodes whose agents do not run, though these ones were ended by another.
fn begun(text: &str, ended: &[usize]) -> Result<(), FaultError> {
    let folder = tempfile::tempdir().unwrap();
    let mut lab = Lab::open(folder.path()).unwrap();
    let host = |number: u8| Host {
        name: format!("none-{number}"),
        address: Ipv4Addr::new(10, 0, 0, number),
        has_namespace: true,
    };
    let ground = Ground {
        hosts: vec![host(1), host(2)],
        folder: folder.path(),
        holdfast: Path::new("/nowhere"),
        other: None,
        zones: 1,
        disks: false,
        clocks: None,
    };
    let mut farm = Farm::laid_out(&mut lab, &ground).unwrap();
    let mut random = StdRng::seed_from_u64(1);
    let ended = ended.iter().copied().collect();
    let mut watch = Watch::new(Abort::default(), folder.path(), folder.path(), Arc::default());
    let journal = Journal::create(&folder.path().join("history.jsonl"), Run::of_nobody()).unwrap();
    let mut field = Field {
        farm: &mut farm,
        lab: &mut lab,
        switch: None,
        random: &mut random,
        ended,
        watch: &mut watch,
        journal: &journal,
    };
    let fault: Fault = serde_json::from_str(text).unwrap();
    Active::begin(&fault, &[0, 1], &mut field).map(drop)
}

#[test]
fn a_fault_that_hits_nobody_is_no_fault_that_was_survived() {
    for text in ALL {
        let told = begun(text, &[0]).unwrap_err();
        assert!(matches!(told, FaultError::Absent(_)), "{text}: {told}");
        assert!(told.to_string().contains("node-2 does not run"), "{text}: {told}");
    }
}

#[test]
fn an_agent_that_another_fault_has_ended_is_down_already() {
    for text in [
        r#"{"fault":"kill"}"#,
        r#"{"fault":"pause"}"#,
        r#"{"fault":"freeze"}"#,
        r#"{"fault":"restart"}"#,
        r#"{"fault":"fsync_fails"}"#,
        r#"{"fault":"cpu","percent":9}"#,
        r#"{"fault":"memory","mib":9}"#,
        r#"{"fault":"descriptors","more":9}"#,
    ] {
        assert!(begun(text, &[0, 1]).is_ok(), "{text}");
    }
}

#[test]
fn a_wall_about_nobody_is_refused() {
    let host = Host { name: "none".to_owned(), address: Ipv4Addr::LOCALHOST, has_namespace: true };
    let walls = Walls::plan(&[0, 1], Direction::Both, Others::All, &[host.clone(), host]);
    assert!(walls.raise().unwrap_err().to_string().contains("nobody to cut off"));
}

#[test]
fn faults_that_undo_or_wait_for_each_other_on_one_node_clash() {
    let of = |text: &str| serde_json::from_str::<Fault>(text).unwrap();
    let simple = |name: &str| of(&format!(r#"{{"fault":"{name}"}}"#));
    let (cpu, memory) = (of(r#"{"fault":"cpu","percent":9}"#), of(r#"{"fault":"memory","mib":9}"#));
    let clock = of(r#"{"fault":"clock","seconds":9}"#);
    let slow = of(r#"{"fault":"fsync_slow","delay_ms":9}"#);
    for (earlier, later) in [
        (simple("pause"), simple("pause")),
        (simple("pause"), simple("freeze")),
        (simple("freeze"), simple("kill")),
        (simple("restart"), simple("pause")),
        (simple("pause"), simple("version")),
        (simple("old_database"), simple("freeze")),
        (cpu.clone(), memory),
        (cpu.clone(), cpu.clone()),
        (cpu.clone(), simple("freeze")),
        (simple("disk_full"), simple("disk_full")),
        (simple("power_cut"), simple("disk_full")),
        (simple("disk_dies"), simple("disk_full")),
        (clock.clone(), clock.clone()),
        (slow.clone(), simple("fsync_fails")),
        (slow, simple("pause")),
        (simple("kill"), simple("version")),
    ] {
        let why = clash(&earlier, &later).unwrap_or_else(|| panic!("{earlier:?} and {later:?}"));
        assert!(why.contains(earlier.name()) && why.contains(later.name()), "{why}");
    }
    for (earlier, later) in [
        (simple("version"), simple("kill")),
        (simple("pause"), cpu),
        (simple("kill"), simple("disk_full")),
        (simple("kill"), simple("partition")),
        (simple("power_cut"), clock),
        (simple("kill"), simple("kill")),
    ] {
        assert_eq!(clash(&earlier, &later), None);
    }
}

#[test]
fn whoever_is_at_the_other_end_of_a_cut_is_hit_as_well() {
    let of = |from: &str| {
        serde_json::from_str::<Fault>(&format!(r#"{{"fault":"partition","from":"{from}"}}"#)).unwrap()
    };
    assert_eq!(also_hit(&of("one"), &[2], 3), BTreeSet::from([0]));
    assert_eq!(also_hit(&of("bridge"), &[0], 5), BTreeSet::from([1, 2, 3, 4]));
    assert_eq!(also_hit(&of("all"), &[0], 5), BTreeSet::new());
    assert_eq!(also_hit(&Fault::Kill, &[0], 5), BTreeSet::new());
}
