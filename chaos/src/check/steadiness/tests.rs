use super::*;
use crate::history::tests::history;

fn phase(at_us: i64, name: &str) -> String {
    format!(r#"{{"t_us":{at_us},"event":"phase","phase":"{name}"}}"#)
}

fn asked(at_us: i64, id: u64) -> String {
    format!(
        r#"{{"t_us":{at_us},"event":"call","id":{id},"client":0,"op":"request","uuid":"u{id}","idempotent":true}}"#
    )
}

fn told(at_us: i64, id: u64, outcome: &str) -> String {
    format!(r#"{{"t_us":{at_us},"event":"return","id":{id},{outcome}}}"#)
}

const OK: &str = r#""outcome":"ok","value":{"is":"status","status":200}"#;
const DEAD: &str = r#""outcome":"ok","value":{"is":"status","status":503}"#;
const REFUSED: &str = r#""outcome":"refused","reason":"no""#;

fn second(at: i64) -> i64 {
    at * 1_000_000
}

/// A whole experiment, of thirty seconds and one, in which something is asked every ten.
fn whole(before: &str, between: &str, after: &str) -> Vec<String> {
    vec![
        phase(second(1), "steady"),
        asked(second(2), 1),
        told(second(3), 1, before),
        phase(second(10), "method"),
        asked(second(12), 2),
        told(second(13), 2, between),
        phase(second(20), "after"),
        asked(second(22), 3),
        told(second(23), 3, after),
        phase(second(30), "final"),
    ]
}

fn verdict(lines: &[String]) -> Verdict {
    check(&history(&lines.iter().map(String::as_str).collect::<Vec<_>>())).verdict
}

fn is_violated(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Violated { .. })
}

fn is_inconclusive(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Inconclusive { .. })
}

#[test]
fn what_fails_while_things_are_broken_is_no_matter_and_later_it_is() {
    assert_eq!(verdict(&whole(OK, OK, OK)), Verdict::Kept);
    assert_eq!(verdict(&whole(OK, REFUSED, OK)), Verdict::Kept);
    assert!(is_violated(&verdict(&whole(OK, OK, REFUSED))));
    assert!(is_inconclusive(&verdict(&whole(REFUSED, OK, OK))));
    assert_eq!(verdict(&[]), Verdict::NotTested);
}

#[test]
fn a_site_that_answers_that_it_is_down_does_not_answer() {
    assert_eq!(verdict(&whole(OK, DEAD, OK)), Verdict::Kept);
    assert!(is_violated(&verdict(&whole(OK, OK, DEAD))));
    assert!(is_inconclusive(&verdict(&whole(DEAD, OK, OK))));
    let missing = OK.replace("200", "404");
    assert_eq!(verdict(&whole(OK, OK, &missing)), Verdict::Kept, "the request is to blame");
}

#[test]
fn an_invalidation_that_some_member_did_not_confirm_is_not_done() {
    let mut lines = whole(OK, OK, OK);
    lines[7] = r#"{"t_us":22000000,"event":"call","id":3,"client":0,"op":"price_set","key":"p","value":1}"#
        .to_owned();
    lines[8] = told(second(23), 3, r#""outcome":"ok","value":{"is":"done"}"#);
    assert_eq!(verdict(&lines), Verdict::Kept);
    lines[8] = told(second(23), 3, r#""outcome":"ok","value":{"is":"incomplete","missing":["b"]}"#);
    assert!(is_violated(&verdict(&lines)));
}

#[test]
fn an_experiment_that_did_not_come_to_its_end_is_inconclusive() {
    let all = whole(OK, OK, OK);
    for ends_at in [2, 4, 6, 7, 9] {
        assert!(is_inconclusive(&verdict(&all[..ends_at])), "{ends_at}");
    }
    assert!(is_inconclusive(&verdict(&all[3..])), "nothing came before");
    // Who was asked when it was cut off may yet answer.
    assert!(is_inconclusive(&verdict(&all[..8])));
    assert!(is_violated(&verdict(&whole(OK, OK, DEAD)[..9])), "it had failed by then");
}

#[test]
fn a_call_that_never_returns_is_not_answered() {
    let mut lines = whole(OK, OK, OK);
    let told = lines.remove(8);
    assert!(is_violated(&verdict(&lines)));
    // By the end of it all is early enough: nothing is promised of how long it takes.
    lines.push(told.replace("23000000", "31000000"));
    assert_eq!(verdict(&lines), Verdict::Kept);
}

#[test]
fn a_farm_that_is_not_whole_in_time_is_told() {
    let mut lines = whole(OK, OK, OK);
    lines.insert(6, r#"{"t_us":20000000,"event":"not_whole","seconds":9,"status":"down"}"#.to_owned());
    assert!(is_violated(&verdict(&lines)));
    assert!(is_violated(&verdict(&lines[..7])), "and so it is if that was the end");
}

/// A minute of which five seconds were starved is no starved run.
#[test]
fn what_is_late_while_the_host_is_starved_is_no_violation() {
    let minute = |starved_from: i64| {
        let mut lines: Vec<(i64, String)> = Vec::new();
        for line in whole(OK, OK, REFUSED) {
            lines.push((at(&line), line));
        }
        for at in 0..60 {
            let late_ms = if (starved_from..starved_from + 5).contains(&at) { 900 } else { 3 };
            lines.push((second(at), format!(
                r#"{{"t_us":{},"event":"pressure","late_ms":{late_ms},"lost_percent":1,"steal_percent":0,"busy_percent":9}}"#,
                second(at)
            )));
        }
        lines.sort_by_key(|(at, _)| *at);
        lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>()
    };
    assert!(is_inconclusive(&verdict(&minute(20))));
    assert!(is_violated(&verdict(&minute(40))), "it failed before");
}

/// A whole experiment whose fault ends at second 15, in which client 0 asks as ever, and another asks once,
/// at these seconds, after it was answered in the beginning.
fn with_another(called: i64, returned: Option<i64>, outcome: &str, more: &[(i64, String)]) -> Verdict {
    let by_another = |at: i64, id: u64| asked(second(at), id).replace("\"client\":0", "\"client\":1");
    let fault = |begins: bool| {
        format!(
            r#"{{"t_us":{},"event":"fault","fault":"pause","targets":["a"],"begins":{begins}}}"#,
            second(if begins { 11 } else { 15 })
        )
    };
    let mut lines: Vec<(i64, String)> = whole(OK, OK, OK).into_iter().map(|line| (at(&line), line)).collect();
    lines.extend([(second(4), by_another(4, 7)), (second(5), told(second(5), 7, OK))]);
    lines.extend([(second(11), fault(true)), (second(15), fault(false))]);
    lines.push((second(called), by_another(called, 8)));
    lines.extend(returned.map(|at| (second(at), told(second(at), 8, outcome))));
    lines.extend(more.iter().cloned());
    lines.push((second(40), phase(second(40), "final")));
    lines.sort_by_key(|(at, _)| *at);
    verdict(&lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>())
}

fn at(line: &str) -> i64 {
    line.split_once("\"t_us\":").unwrap().1.split_once(',').unwrap().0.parse().unwrap()
}

const UNKNOWN: &str = r#""outcome":"unknown","reason":"timed out""#;

#[test]
fn a_client_whose_server_hangs_from_before_all_was_put_right_on_is_found() {
    assert!(is_violated(&with_another(18, Some(28), UNKNOWN, &[])), "it asked after the fault");
    assert!(is_violated(&with_another(18, Some(28), DEAD, &[])));
    assert!(is_violated(&with_another(18, None, "", &[])));
    assert_eq!(with_another(18, Some(28), OK, &[]), Verdict::Kept, "it took its time");
    assert!(is_inconclusive(&with_another(14, Some(24), UNKNOWN, &[])), "the fault may have swallowed it");
    assert!(is_violated(&with_another(14, Some(35), UNKNOWN, &[])), "nobody waits so long");
}

#[test]
fn what_ends_badly_soon_after_all_was_put_right_is_no_matter_if_its_client_is_answered_later() {
    let by_another = asked(second(29), 9).replace("\"client\":0", "\"client\":1");
    let again = [(second(29), by_another), (second(30), told(second(30), 9, OK))];
    assert_eq!(with_another(18, Some(28), UNKNOWN, &again), Verdict::Kept);
    assert_eq!(with_another(14, Some(24), UNKNOWN, &again), Verdict::Kept);
    assert!(is_violated(&with_another(18, Some(33), UNKNOWN, &again)), "so late it is one");
}

#[test]
fn a_rollout_that_was_begun_before_all_was_put_right_may_fail_late() {
    let mut lines = whole(OK, OK, OK);
    let deploy =
        r#"{"t_us":19000000,"event":"call","id":9,"client":9,"op":"deploy","app":"a","release":"r"}"#;
    lines.insert(6, deploy.to_owned());
    lines.push(told(second(50), 9, UNKNOWN));
    assert_eq!(verdict(&lines), Verdict::Kept);
}

#[test]
fn a_history_that_does_not_say_who_asked_is_judged_by_the_calls_alone() {
    let nameless = |lines: Vec<String>| -> Vec<String> {
        lines.into_iter().map(|line| line.replace("\"client\":0,", "")).collect()
    };
    assert_eq!(verdict(&nameless(whole(OK, OK, OK))), Verdict::Kept);
    assert!(is_violated(&verdict(&nameless(whole(OK, OK, REFUSED)))));
    let mut lines = whole(OK, UNKNOWN, OK);
    let told = lines.remove(5).replace("13000000", "24000000");
    lines.insert(8, told);
    assert_eq!(verdict(&nameless(lines)), Verdict::Kept, "nobody knows whether its client was answered");
}
