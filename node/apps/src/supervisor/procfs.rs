//! Which processes there are, as `/proc` tells (man 5 proc_pid_stat).

use std::fs;
use std::io;

use super::environment::MARK;

/// One process. Its number alone says nothing: numbers are used again. The number with the start time
/// names it for as long as the machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// Number of its group: of the process that the group was made for.
    pub(super) group: i32,
    /// In clock ticks since the machine's start.
    pub(super) start_time: u64,
    /// It has ended and waits for its parent to ask.
    pub(super) is_zombie: bool,
}

/// Names one run of the machine.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The process with a number, if there is one.
pub(super) fn process(pid: i32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// All processes. One that ends meanwhile may be among them or not.
pub(super) fn processes() -> io::Result<Vec<Process>> {
    let numbers = fs::read_dir("/proc")?.filter_map(|item| item.ok()?.file_name().to_str()?.parse().ok());
    Ok(numbers.filter_map(process).collect())
}

/// Whether a process was started with a mark in its environment.
pub(super) fn has_mark(pid: i32, mark: &str) -> bool {
    let variable = format!("{MARK}={mark}");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|b| *b == 0).any(|entry| entry == variable.as_bytes())
}

/// The second field is the program's name in brackets, and may hold brackets and blanks itself.
fn parse(pid: i32, stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // `fields[0]` is field 3 of the manual page.
    Some(Process {
        pid,
        is_zombie: matches!(*fields.first()?, "Z" | "X"),
        group: fields.get(2)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 1 40 39 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1 2";
        let expected = Process { pid: 42, group: 40, start_time: 123_456, is_zombie: false };
        assert_eq!(parse(42, stat), Some(expected));
        for bad in ["", "42 (a", "42 (a) S", "42 (a) S x y z"] {
            assert_eq!(parse(42, bad), None);
        }
    }

    #[test]
    fn this_process_is_found_with_its_group() {
        let pid = rustix::process::getpid().as_raw_pid();
        let me = process(pid).unwrap();
        assert_eq!(me.group, rustix::process::getpgrp().as_raw_pid());
        assert!(me.start_time > 0 && !me.is_zombie);
        assert!(processes().unwrap().contains(&me));
        assert!(!boot_id().unwrap().is_empty());
    }
}
