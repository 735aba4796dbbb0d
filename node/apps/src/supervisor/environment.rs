//! What an instance finds in its environment, and `$NAME` in its arguments.
//!
//! The agent's own environment is not handed on: it may hold a join token. A few variables that every
//! program expects are.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::Launch;

/// Variables of the agent that an instance gets as they are.
const HANDED_ON: [&str; 10] =
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"];

/// Names the instance's processes, so that they are known for ours when their leader is gone.
pub(super) const MARK: &str = "HOLDFAST_INSTANCE";

/// The agent's variables that are handed on.
pub(super) fn inherited() -> Vec<(OsString, OsString)> {
    HANDED_ON.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?))).collect()
}

/// The variables that are the instance's own, by name.
pub(super) fn own(launch: &Launch, port: u16, mark: &str) -> BTreeMap<String, String> {
    let mut variables = launch.spec.env.clone();
    let agents = launch.environment.iter().map(|(name, value)| (name.as_str(), value.clone()));
    let agents = agents.chain([
        ("PORT", port.to_string()),
        ("HOLDFAST_APP", launch.spec.app.clone()),
        ("HOLDFAST_RELEASE", launch.release.to_string()),
        ("HOLDFAST_VERSION", launch.version.clone()),
        (MARK, mark.to_owned()),
    ]);
    variables.extend(agents.map(|(name, value)| (name.to_owned(), value)));
    variables
}

/// The arguments with `$NAME` and `${NAME}` replaced.
///
/// A name that is not among the variables stays as it is, as does a `$` before anything else: an
/// argument may be a shell's program with variables of its own.
pub(super) fn expand(argument: &str, variables: &BTreeMap<String, String>) -> String {
    let mut expanded = String::with_capacity(argument.len());
    let mut rest = argument;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let (name, written) = name_after(&rest[at + 1..]);
        let end = at + 1 + written;
        match variables.get(name) {
            Some(value) => expanded.push_str(value),
            None => expanded.push_str(&rest[at..end]),
        }
        rest = &rest[end..];
    }
    expanded + rest
}

/// The name that follows a `$`, and how many bytes it takes with its braces. Both are empty where
/// there is no name.
fn name_after(text: &str) -> (&str, usize) {
    let braced = text.strip_prefix('{');
    let inner = braced.unwrap_or(text);
    let length = inner.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
    let name = &inner[..length];
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return ("", 0);
    }
    match braced {
        None => (name, length),
        Some(_) if inner[length..].starts_with('}') => (name, length + 2),
        Some(_) => ("", 0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variables() -> BTreeMap<String, String> {
        BTreeMap::from([("PORT".into(), "20001".into()), ("A_1".into(), "$PORT".into())])
    }

    #[test]
    fn names_are_expanded_once_and_what_is_no_name_of_ours_stays() {
        for (argument, expanded) in [
            ("127.0.0.1:$PORT", "127.0.0.1:20001"),
            ("${PORT}0", "200010"),
            ("$PORT$PORT", "2000120001"),
            ("$PORT_X", "$PORT_X"),
            ("$A_1", "$PORT"),
            ("$HOME/$1 $$ ${PORT ${} $", "$HOME/$1 $$ ${PORT ${} $"),
            ("é$PORTé", "é20001é"),
            ("", ""),
        ] {
            assert_eq!(expand(argument, &variables()), expanded, "{argument}");
        }
    }

    proptest! {
        #[test]
        fn an_argument_without_our_names_is_left_alone(argument in "[$a-z{}é ]{0,20}") {
            prop_assert_eq!(expand(&argument, &variables()), argument);
        }
    }
}
