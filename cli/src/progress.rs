//! Progress on stderr: a line that moves on a terminal, plain lines where a log is written.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::paint;

/// How often the spinner turns: often enough to look alive.
const TICK: Duration = Duration::from_millis(120);

/// One thing at a time that is being waited for.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    shown: String,
}

impl Progress {
    pub fn new() -> Self {
        Self { bar: std::io::stderr().is_terminal().then(spinner), shown: String::new() }
    }

    /// What is being done now. A log gets a line only when it changes.
    pub fn doing(&mut self, what: impl Into<String>) {
        let what = what.into();
        match &self.bar {
            Some(bar) => bar.set_message(what),
            None if what != self.shown => {
                eprintln!("... {what}");
                self.shown = what;
            }
            None => {}
        }
    }

    /// What is done; the line stays.
    pub fn done(&mut self, what: &str) {
        let line = format!("{} {what}", paint::stderr().green("ok "));
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Takes the moving line away; the steps that are done stay.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A bar for bytes of which the sum is known. Hidden where no terminal is.
pub fn bytes(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("    {bar:30} {bytes}/{total_bytes} {bytes_per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(TICK);
    bar
}
