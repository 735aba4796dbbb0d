use crate::writer::{Writer, lost};

#[test]
fn what_was_acknowledged_before_a_kill_is_there_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("db");
    let mut last = 0;
    for round in 1..=5 {
        let mut writer = Writer::start(&folder, last);
        writer.wait_for(last + 20);
        last = writer.kill();
        assert_eq!(lost(&folder, last), Vec::<String>::new(), "round {round}");
    }
}
