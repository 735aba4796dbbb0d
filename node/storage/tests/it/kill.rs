use crate::writer::{Writer, lost};

#[test]
fn what_was_acknowledged_before_a_kill_is_there_after_it() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=5 {
        let mut writer = Writer::start(dir.path());
        writer.wait_for(20 * round);
        let acknowledged = writer.kill();
        assert_eq!(lost(dir.path(), acknowledged), Vec::<String>::new(), "round {round}");
    }
}
