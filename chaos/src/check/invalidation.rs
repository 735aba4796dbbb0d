//! Once an invalidation is complete nobody reads the old value.

use std::collections::BTreeMap;

use crate::history::{History, Op, Value};
use crate::report::{Finding, Violations};

pub const NAME: &str = "invalidation";

/// An invalidation that says who is missing promises nothing of them.
///
/// A price has one writer, who sets ever higher values: a read that is called after a set was complete
/// must find that value or a higher one, and nothing that nobody has set. That holds of every read, and is
/// proved by those alone that a cache has answered: the store has nothing to invalidate.
pub fn check(history: &History) -> Finding {
    let mut violations = Violations::default();
    let (mut looked_at, mut stored_reads) = (0, 0_u64);
    let (mut all_complete, mut all_incomplete) = (0_u64, 0_u64);
    let mut complete: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
    let mut highest: BTreeMap<&str, i64> = BTreeMap::new();
    for operation in &history.operations {
        let Op::PriceSet { key, value } = &operation.op else { continue };
        match operation.ok() {
            Some((at, Value::Done {})) => {
                complete.entry(key).or_default().push((at, *value));
                all_complete += 1;
            }
            // It promises nothing, as does one that nobody heard of again.
            Some(_incomplete) => all_incomplete += 1,
            None => {}
        }
        let highest = highest.entry(key).or_insert(*value);
        if value < highest {
            // The client's doing, not the farm's.
            violations
                .doubt(|| format!("{key} was set to {value} after {highest}: this history proves nothing"));
        }
        *highest = *value.max(highest);
    }
    for sets in complete.values_mut() {
        sets.sort_unstable();
        // From here on each says the highest that was complete by then.
        let mut so_far = i64::MIN;
        for (_, value) in sets {
            so_far = so_far.max(*value);
            *value = so_far;
        }
    }
    for operation in &history.operations {
        let Op::PriceRead { key } = &operation.op else { continue };
        let Some((_, Value::Price { value, cached })) = operation.ok() else { continue };
        let sets = complete.get(key.as_str()).map_or(&[][..], Vec::as_slice);
        let before = sets.partition_point(|(at, _)| *at < operation.called_us);
        let Some((at, newest)) = before.checked_sub(1).and_then(|last| sets.get(last)) else { continue };
        looked_at += u64::from(*cached);
        stored_reads += u64::from(!*cached);
        if value < newest {
            violations.add(|| {
                format!(
                    "{key} was read as {value} at {} us, though {newest} was complete at {at} us",
                    operation.called_us
                )
            });
        }
        if highest.get(key.as_str()).is_none_or(|highest| value > highest) {
            violations.add(|| format!("{key} was read as {value}, which nobody has set"));
        }
    }
    let figures = match looked_at + stored_reads {
        0 => Vec::new(),
        _ => vec![format!(
            "{looked_at} reads from a cache, {stored_reads} from the store; {all_complete} invalidations \
             complete, {all_incomplete} not"
        )],
    };
    Finding {
        check: NAME,
        promise: "after it is complete nobody reads the old value",
        looked_at,
        verdict: violations.verdict(looked_at),
        figures,
        is_proof: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;
    use crate::report::Verdict;

    const SET: &str = r#"{"t_us":10,"event":"call","id":1,"client":0,"op":"price_set","key":"k","value":7}"#;
    const DONE: &str = r#"{"t_us":20,"event":"return","id":1,"outcome":"ok","value":{"is":"done"}}"#;
    const UNKNOWN: &str = r#"{"t_us":20,"event":"return","id":1,"outcome":"unknown","reason":"r"}"#;

    fn read(at: i64, value: i64) -> [String; 2] {
        let [call, told] = stored(at, value);
        let cached = format!("\"value\":{value},\"cached\":true}}");
        [call, told.replace(&format!("\"value\":{value}}}"), &cached)]
    }

    fn stored(at: i64, value: i64) -> [String; 2] {
        [
            format!(r#"{{"t_us":{at},"event":"call","id":9,"client":0,"op":"price_read","key":"k"}}"#),
            format!(
                r#"{{"t_us":30,"event":"return","id":9,"outcome":"ok","value":{{"is":"price","value":{value}}}}}"#
            ),
        ]
    }

    #[test]
    fn an_old_value_after_the_confirmation_is_found_and_one_before_it_is_not() {
        let [call, old] = read(25, 3);
        assert!(matches!(check(&history(&[SET, DONE, &call, &old])).verdict, Verdict::Violated { .. }));
        assert_eq!(check(&history(&[SET, UNKNOWN, &call, &old])).verdict, Verdict::NotTested);
        let missing = DONE.replace(r#"{"is":"done"}"#, r#"{"is":"incomplete","missing":["b"]}"#);
        assert_eq!(check(&history(&[SET, &missing, &call, &old])).verdict, Verdict::NotTested);
        let [call, new] = read(25, 7);
        assert_eq!(check(&history(&[SET, DONE, &call, &new])).verdict, Verdict::Kept);
        let [call, old] = read(15, 3);
        assert_eq!(check(&history(&[SET, &call, DONE, &old])).verdict, Verdict::NotTested);
        let [call, never] = read(25, 8);
        assert!(matches!(check(&history(&[SET, DONE, &call, &never])).verdict, Verdict::Violated { .. }));
    }

    #[test]
    fn a_client_that_sets_lower_values_proves_nothing_and_breaks_nothing() {
        let again = [SET, DONE].map(|line| line.replace("\"id\":1", "\"id\":2").replace("_us\":", "_us\":2"));
        let lower = again[0].replace("\"value\":7", "\"value\":3");
        let verdict = check(&history(&[SET, DONE, &lower, &again[1]])).verdict;
        assert!(matches!(verdict, Verdict::Inconclusive { .. }), "{verdict:?}");
    }

    #[test]
    fn what_the_store_answers_says_nothing_of_caches_unless_it_is_old() {
        let [call, new] = stored(25, 7);
        assert_eq!(check(&history(&[SET, DONE, &call, &new])).verdict, Verdict::NotTested);
        let [call, old] = stored(25, 3);
        assert!(matches!(check(&history(&[SET, DONE, &call, &old])).verdict, Verdict::Violated { .. }));
    }
}
