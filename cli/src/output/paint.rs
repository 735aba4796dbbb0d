//! Colour, where somebody sees it: on a terminal, unless NO_COLOR (no-color.org) or a dumb terminal
//! says otherwise.

use std::io::IsTerminal as _;

/// Wraps text in colour, or leaves it alone.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    on: bool,
}

pub fn stdout() -> Paint {
    Paint { on: std::io::stdout().is_terminal() && wanted() }
}

pub fn stderr() -> Paint {
    Paint { on: std::io::stderr().is_terminal() && wanted() }
}

fn wanted() -> bool {
    let unset = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
    unset("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

impl Paint {
    #[cfg(test)]
    pub fn plain() -> Self {
        Self { on: false }
    }

    #[cfg(test)]
    pub fn colourful() -> Self {
        Self { on: true }
    }

    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    pub fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    pub fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
