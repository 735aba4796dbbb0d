use super::*;
use crate::history::tests::history;
use crate::report::Verdict;

fn call(idempotent: bool) -> String {
    format!(
        r#"{{"t_us":1,"event":"call","id":1,"client":0,"op":"request","uuid":"u","idempotent":{idempotent}}}"#
    )
}

const SERVED: &str = r#"{"t_us":2,"event":"served","uuid":"u","backend":"b"}"#;
const OTHER: &str = r#"{"t_us":2,"event":"served","uuid":"v","backend":"b"}"#;
const OK: &str = r#"{"t_us":3,"event":"return","id":1,"outcome":"ok","value":{"is":"status","status":200}}"#;
const BAD: &str = r#"{"t_us":3,"event":"return","id":1,"outcome":"ok","value":{"is":"status","status":502}}"#;

#[test]
fn an_order_that_is_executed_twice_is_found_and_a_page_that_is_read_twice_is_none() {
    let (order, page) = (call(false), call(true));
    assert_eq!(check(&history(&[&order, SERVED, OK])).verdict, Verdict::Kept);
    assert!(matches!(check(&history(&[&order, SERVED, SERVED, OK])).verdict, Verdict::Violated { .. }));
    assert_eq!(check(&history(&[&page, SERVED, SERVED, OK])).verdict, Verdict::Kept);
    assert!(matches!(check(&history(&[&page, OTHER, OK])).verdict, Verdict::Violated { .. }), "forged");
}

#[test]
fn failures_are_counted_and_judged_by_what_was_promised() {
    let order = call(false);
    let mut found = history(&[&order, SERVED, BAD]);
    let finding = check(&found);
    assert!(finding.verdict == Verdict::Kept && finding.figures[0].starts_with("1 failed"), "{finding:?}");
    found.run.failed_requests_max = Some(0);
    assert!(matches!(check(&found).verdict, Verdict::Violated { .. }));
}

fn fault(fault: &str, node: &str, begins: bool) -> String {
    format!(r#"{{"t_us":1,"event":"fault","fault":"{fault}","targets":["{node}"],"begins":{begins}}}"#)
}

fn call_at(node: &str, id: u64, idempotent: bool) -> String {
    let call = call(idempotent).replace("\"id\":1", &format!("\"id\":{id}"));
    call.replace("\"uuid\"", &format!("\"node\":\"{node}\",\"uuid\""))
}

fn failed(lines: &[&str]) -> bool {
    let mut history = history(lines);
    history.run.failed_requests_max = Some(0);
    matches!(check(&history).verdict, Verdict::Violated { .. })
}

#[test]
fn a_page_is_excused_by_the_death_of_its_server_alone_and_an_order_by_any() {
    let (killed, page, order) = (fault("kill", "a", true), call_at("a", 1, true), call_at("b", 1, false));
    assert!(!failed(&[&killed, &page, BAD]));
    assert!(failed(&[&killed, &call_at("b", 1, true), BAD]), "b lived");
    assert!(!failed(&[&killed, &order, BAD]));
    assert!(failed(&[&order, BAD]));
    assert!(failed(&[&killed, &order, &BAD.replace("502", "503")]), "nobody had executed it");
    assert!(failed(&[&fault("restart", "a", true), &page, BAD]), "it was told to stop");
    let late = page.replace("\"t_us\":1", "\"t_us\":3");
    assert!(failed(&[&killed, &fault("kill", "a", false), &late, BAD]), "it lives again");
}

#[test]
fn a_page_is_excused_at_either_end_of_a_cut() {
    let cut = fault("partition", "a", true).replace("\"begins\"", "\"others\":[\"b\"],\"begins\"");
    let healed = cut.replace("true", "false");
    assert!(!failed(&[&cut, &call_at("b", 1, true), BAD]));
    assert!(failed(&[&cut, &call_at("c", 1, true), BAD]), "c sees everybody");
    let late = call_at("b", 1, true).replace("\"t_us\":1", "\"t_us\":3");
    assert!(failed(&[&cut, &healed, &late, BAD]), "it is healed");
}

#[test]
fn a_refused_try_is_no_failure_where_another_server_answers() {
    let refused = r#"{"t_us":1,"event":"return","id":2,"outcome":"refused","reason":"r"}"#;
    let (first, second) = (call_at("a", 2, false), call_at("b", 1, false));
    assert!(!failed(&[&first, refused, &second, SERVED, OK]));
    assert!(failed(&[&first, refused]), "nobody takes it, and all live");
    let both = history(&[&first, refused, &second, SERVED, SERVED, OK]);
    assert!(matches!(check(&both).verdict, Verdict::Violated { .. }), "twice by one uuid");
    let finding = check(&history(&[&first, refused, SERVED]));
    assert!(matches!(finding.verdict, Verdict::Violated { .. }), "refused, and executed");
}

#[test]
fn the_longest_gap_is_between_neighbours() {
    assert_eq!(longest_gap_ms(vec![5_000_000, 1_000_000, 2_000_000]), 3_000);
    assert_eq!(longest_gap_ms(vec![7]), 0);
}

#[test]
fn orders_that_were_answered_and_that_nobody_has_written_down_are_in_doubt() {
    let verdict = |lines: &[&str]| check(&history(lines)).verdict;
    assert!(matches!(verdict(&[&call(false), OK]), Verdict::Inconclusive { .. }));
    assert_eq!(verdict(&[&call(true), OK]), Verdict::Kept, "a page may be read by anybody, and often");
}

#[test]
fn requests_that_came_to_nothing_prove_nothing_unless_none_may_fail() {
    let refused = r#"{"t_us":3,"event":"return","id":1,"outcome":"refused","reason":"r"}"#;
    let mut found = history(&[&call(true), refused]);
    assert_eq!(check(&found).verdict, Verdict::NotTested);
    found.run.failed_requests_max = Some(1);
    assert_eq!(check(&found).verdict, Verdict::Kept);
}

/// A minute in which seconds 20 to 24 were starved, and a request failed in this second.
fn starved_at(second: i64, more: &str) -> Verdict {
    let mut lines = Vec::new();
    for at in 0..60 {
        let late_ms = if (20..25).contains(&at) { 900 } else { 3 };
        lines.push(format!(
            r#"{{"t_us":{},"event":"pressure","late_ms":{late_ms},"lost_percent":1,"steal_percent":0,"busy_percent":9}}"#,
            at * 1_000_000
        ));
        if at == second {
            lines.push(call(false).replace(r#""t_us":1,"#, &format!(r#""t_us":{at}000001,"#)));
            lines.push(BAD.replace(r#""t_us":3,"#, &format!(r#""t_us":{at}000002,"#)));
        }
    }
    lines.push(more.replace(r#""t_us":2,"#, r#""t_us":60000000,"#));
    lines.push(more.replace(r#""t_us":2,"#, r#""t_us":60000000,"#));
    let mut history = history(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    history.run.failed_requests_max = Some(0);
    check(&history).verdict
}

#[test]
fn what_fails_while_the_host_is_starved_is_no_violation_and_what_is_executed_twice_then_is() {
    assert!(matches!(starved_at(23, OTHER), Verdict::Inconclusive { .. }));
    assert!(matches!(starved_at(40, OTHER), Verdict::Violated { .. }));
    assert!(matches!(starved_at(23, SERVED), Verdict::Violated { .. }), "twice");
}

#[test]
fn spans_that_overlap_are_one_and_those_between_them_are_not_met() {
    let spans = Spans::new(vec![(50, i64::MAX), (10, 20), (15, 30), (60, 70)]);
    assert_eq!(spans.0, [(10, 30), (50, i64::MAX)]);
    for (from, to, meets) in
        [(0, 9, false), (0, 10, true), (25, 26, true), (30, 31, true), (31, 49, false), (90, 91, true)]
    {
        assert_eq!(spans.meet(from, to), meets, "{from} to {to}");
    }
    assert!(!Spans::new(Vec::new()).meet(0, i64::MAX));
}
