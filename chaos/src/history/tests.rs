use proptest::prelude::*;

use super::*;

const RUN: &str = r#"{"t_us":0,"event":"run","version":1,"seed":7,"experiment":"x","nodes":["a"],"failed_requests_max":null}"#;

/// A history of these lines after its `run`.
pub fn history(lines: &[&str]) -> History {
    of_text(&([&[RUN], lines].concat().join("\n") + "\n")).unwrap()
}

fn of_text(text: &str) -> Result<History, HistoryError> {
    parse(text.as_bytes())
}

#[test]
fn the_example_of_the_help_is_a_history() {
    let example = FORMAT.split_once("Example:\n").unwrap().1;
    let history = of_text(example).unwrap();
    assert_eq!(history.operations.len(), 1);
    assert_eq!(history.operations[0].ok(), Some((90, &Value::Total { total: 2 })));
}

#[test]
fn a_line_that_was_cut_at_the_end_did_not_happen_and_one_in_the_middle_is_told() {
    let call = r#"{"t_us":1,"event":"call","id":1,"client":0,"op":"ledger_read"}"#;
    let cut = of_text(&format!("{RUN}\n{call}\n{{\"t_us\":2,\"ev")).unwrap();
    assert!(cut.is_cut && cut.operations[0].returned.is_none());
    let error = of_text(&format!("{RUN}\n{{\"t_us\":2,\"ev\n{call}\n")).unwrap_err();
    assert!(error.to_string().starts_with("line 2 is not understood"), "{error}");
}

#[test]
fn what_makes_no_sense_is_told_with_its_line() {
    let call = r#"{"t_us":5,"event":"call","id":1,"client":0,"op":"counter_add","key":"c","delta":1}"#;
    let cases: [(&str, &str); 5] = [
        (call, "two calls 1"),
        (r#"{"t_us":9,"event":"return","id":2,"outcome":"unknown","reason":""}"#, "no call 2"),
        (r#"{"t_us":9,"event":"return","id":1,"outcome":"ok","value":{"is":"done"}}"#, "no answer to"),
        (r#"{"t_us":4,"event":"phase","phase":"final"}"#, "time goes back"),
        (RUN, "time goes back"),
    ];
    for (line, wanted) in cases {
        let error = of_text(&format!("{RUN}\n{call}\n{line}\n")).unwrap_err().to_string();
        assert!(error.starts_with("line 3") && error.contains(wanted), "{error}");
    }
    assert!(matches!(of_text(""), Err(HistoryError::NoRun)));
    assert!(matches!(of_text(&format!("{call}\n")), Err(HistoryError::NoRun)));
    let later = RUN.replace("\"version\":1", "\"version\":2");
    assert!(matches!(of_text(&format!("{later}\n")), Err(HistoryError::NoRun)));
}

fn any_op() -> impl Strategy<Value = Op> {
    let key = "[a-c]";
    prop_oneof![
        key.prop_map(|entry| Op::LedgerAdd { entry }),
        Just(Op::LedgerRead {}),
        key.prop_map(|key| Op::RegisterRead { key }),
        (key, any::<i64>(), any::<Option<u64>>()).prop_map(|(key, value, if_version)| Op::RegisterWrite {
            key,
            value,
            if_version
        }),
        (key, any::<i64>()).prop_map(|(key, delta)| Op::CounterAdd { key, delta }),
        (key, any::<bool>(), proptest::option::of(key)).prop_map(|(uuid, idempotent, node)| Op::Request {
            uuid,
            idempotent,
            node
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_it_was(t_us in any::<i64>(), id in any::<u64>(), op in any_op()) {
        let record = Record { t_us, event: Event::Call { id, client: Some(3), op } };
        let line = serde_json::to_string(&record).unwrap();
        prop_assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record, "{}", line);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _any = parse(&bytes[..]);
        let _after_a_run = parse(&[RUN.as_bytes(), b"\n", &bytes].concat()[..]);
    }
}
