//! What goes to the terminal.
//!
//! Written here rather than with `println!` and `eprintln!`, which panic when the reader has gone: a run
//! whose watcher has seen enough still has to put everything back, and to give its verdict.

use std::fmt::Arguments;
use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::report::Exit;

/// A line to stdout, as `println!` writes it. `Err` when it can not be written.
macro_rules! say {
    ($($words:tt)*) => { $crate::output::line(format_args!($($words)*)) };
}

/// A line to stderr, as `eprintln!` writes it. Where it can not be written there is nobody to be told.
macro_rules! note {
    ($($words:tt)*) => { $crate::output::notice(format_args!($($words)*)) };
}

pub(crate) use {note, say};

/// See [`say!`].
///
/// # Errors
/// When it can not be written.
pub fn line(words: Arguments<'_>) -> io::Result<()> {
    text(&format!("{words}\n"))
}

/// See [`note!`].
pub fn notice(words: Arguments<'_>) {
    let _nobody_reads = io::stderr().lock().write_all(format!("{words}\n").as_bytes());
}

/// Text to stdout as it is.
///
/// # Errors
/// When it can not be written.
pub fn text(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let said = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    said.map_err(|error| io::Error::new(error.kind(), format!("can not write to stdout: {error}")))
}

/// Gives a verdict, which stands though its reader may have seen enough before its end.
///
/// # Errors
/// When it can not be written for another reason.
pub fn conclude(said: io::Result<()>, exit: Exit) -> io::Result<ExitCode> {
    match said {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(exit.into()),
    }
}

/// How the program ends that can not say what it has to. Who has seen enough is told nothing more.
pub fn unsaid(error: &io::Error) -> ExitCode {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Exit::Aborted.into();
    }
    note!("error: {error}");
    Exit::Harness.into()
}
