//! A program whose only purpose is to become another: what `holdfast exec-instance` is, for the tests
//! of this crate, which must not need the crate that the command is built in.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let error = node_apps::exec_instance(&arguments);
    // What an instance prints goes to its log, and from there into the message that says why it failed.
    #[expect(clippy::print_stderr, reason = "the instance's log is what stderr is")]
    {
        eprintln!("{error}");
    }
    ExitCode::FAILURE
}
