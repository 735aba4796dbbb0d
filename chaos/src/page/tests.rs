use super::*;
use crate::check;
use crate::history::tests::history;

const ABOUT: About<'_> = About { steady_state: "all is <well>", again: "again & again" };

fn page(lines: &[String]) -> String {
    let history = history(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    render(&history, &check::all(&history), &ABOUT)
}

/// Opening and closing tags, in order; those that stand alone are left out.
fn is_well_formed(page: &str) -> bool {
    let alone = ["!doctype", "meta", "br", "path", "rect"];
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let Some((inside, _)) = tag.split_once('>') else { return false };
        if let Some(name) = inside.strip_prefix('/') {
            if open.pop() != Some(name.to_owned()) {
                return false;
            }
        } else if !inside.ends_with('/') {
            let name = inside.split([' ', '\n']).next().unwrap_or_default().to_owned();
            if !alone.contains(&name.as_str()) {
                open.push(name);
            }
        }
    }
    open.is_empty()
}

fn some(operations: u64) -> Vec<String> {
    let mut lines = vec![r#"{"t_us":1,"event":"phase","phase":"steady"}"#.to_owned()];
    for id in 1..=operations {
        let at = id * 1_000;
        lines.push(format!(
            r#"{{"t_us":{at},"event":"call","id":{id},"client":0,"op":"counter_add","key":"c{}","delta":1}}"#,
            id / 50
        ));
        let total = id % 50 + u64::from(id / 50 == 0) - u64::from(id / 50 == 0);
        let total = if id / 50 == 0 { total } else { total + 1 };
        lines.push(format!(
            r#"{{"t_us":{},"event":"return","id":{id},"outcome":"ok","value":{{"is":"total","total":{total}}}}}"#,
            at + 500
        ));
    }
    lines
}

#[test]
fn a_page_has_the_verdict_the_faults_and_the_way_to_do_it_again() {
    let mut lines = some(200);
    lines.push(
        r#"{"t_us":300000,"event":"fault","fault":"power_cut","targets":["a","b"],"begins":true}"#.to_owned(),
    );
    lines.push(
        r#"{"t_us":310000,"event":"seen","node":"a","controller":"b","epoch":7,"quorum":true,"members":{"a":"ready","b":"down"}}"#
            .to_owned(),
    );
    lines.push(
        r#"{"t_us":400000,"event":"fault","fault":"power_cut","targets":["a","b"],"begins":false}"#
            .to_owned(),
    );
    let page = page(&lines);
    assert!(is_well_formed(&page), "{page}");
    for wanted in ["power cut a b", "b e7", "counter add", "again &amp; again", "all is &lt;well&gt;"] {
        assert!(page.contains(wanted), "{wanted}");
    }
    // It promises no more than a seed can decide: who is the controller then is the farm's own.
    assert!(page.contains("the same choices") && !page.contains("the same nodes"), "{page}");
    // Nothing is fetched from anywhere.
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="));
}

#[test]
fn what_a_history_says_is_never_markup() {
    let evil = "</script><script>alert(1)</script>";
    let mut lines = some(5);
    lines.push(format!(
        r#"{{"t_us":9000,"event":"fault","fault":"{evil}","targets":["{evil}"],"begins":true}}"#
    ));
    lines.push(format!(r#"{{"t_us":9001,"event":"ended","node":"{evil}","reason":"{evil}"}}"#));
    let page = page(&lines);
    assert!(is_well_formed(&page), "{page}");
    assert!(!page.contains("alert(1)</script>"), "{page}");
}

#[test]
fn a_long_history_makes_no_long_page() {
    let short = page(&some(500)).len();
    let long = page(&some(60_000)).len();
    assert!(long < 400_000, "{long} bytes, {short} for a short one");
    assert!(is_well_formed(&page(&[])), "an empty one");
}
