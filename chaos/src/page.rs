//! A run on one page: what was done to the farm, what its users saw of it, and the verdict.
//!
//! The page needs nothing but itself: no network, no script for what it says. All times are on one axis,
//! with the faults as bands across it, so that what happened under a fault is seen under it. The input is a
//! history that may come from anywhere: every text is escaped, and a long run is drawn in bins.

mod bins;
mod drawing;
mod markup;
mod style;
mod timeline;

use std::fmt::Write as _;

use crate::history::History;
use crate::report::{Exit, Finding, Report, Verdict};
use bins::Bins;
use markup::escape;

/// What a page says besides its history.
pub struct About<'a> {
    /// In the users' terms; empty where nobody knows.
    pub steady_state: &'a str,
    /// The command that does the same again.
    pub again: &'a str,
}

/// The page, as HTML.
pub fn render(history: &History, report: &Report, about: &About<'_>) -> String {
    let bins = Bins::of(history);
    let name = escape(&report.experiment);
    let (word, class, means) = verdict(report.exit());
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{name}: {word}</title>\n<style>{}</style></head>\n<body>\n\
         <header><p class=\"kind\">Holdfast chaos report</p><h1>{name}</h1>\n<p>{}</p>\n\
         <p class=\"verdict {class}\"><strong>{word}</strong> <span>{means}</span></p></header>\n<main>\n",
        style::CSS,
        escape(about.steady_state),
    );
    page += &timeline::section(history, &bins);
    page += &findings(&report.findings);
    page += &figures(&bins);
    let again = escape(about.again);
    // Writing into a String does not fail.
    let _ = write!(
        page,
        "<section><h2>Again</h2><p>Seed {}, nodes {}. The same experiment, with the same choices \
         of its seed; what the farm makes of them, and who leads it then, may differ:</p><pre>{again}</pre></section>\n</main>\n<footer>holdfast-chaos {}</footer>\n\
         <script type=\"application/json\" id=\"bins\">{}</script>\n<script>{}</script>\n</body></html>\n",
        report.seed,
        escape(&history.run.nodes.join(", ")),
        env!("CARGO_PKG_VERSION"),
        bins.json(),
        style::SCRIPT,
    );
    page
}

fn verdict(exit: Exit) -> (&'static str, &'static str, &'static str) {
    match exit {
        Exit::Kept => ("kept", "kept", "Every promise that was tested was kept."),
        Exit::Violated => ("broken", "broken", "A promise was broken."),
        Exit::Harness | Exit::Aborted | Exit::Inconclusive => {
            ("no verdict", "open", "This run proves nothing, one way or the other.")
        }
    }
}

fn findings(findings: &[Finding]) -> String {
    let mut rows = String::new();
    for finding in findings {
        let (word, class, detail) = match &finding.verdict {
            Verdict::Kept => ("kept", "kept", crate::report::confidence(finding.looked_at)),
            Verdict::Violated { count, .. } => {
                ("BROKEN", "broken", format!("{count} times in {}", finding.looked_at))
            }
            Verdict::NotTested => ("not tested", "open", String::new()),
            Verdict::Inconclusive { reason } => ("no verdict", "open", reason.clone()),
        };
        let mut lines = vec![detail];
        lines.extend(finding.figures.iter().cloned());
        if let Verdict::Violated { violations, .. } = &finding.verdict {
            lines.extend(violations.iter().map(|violation| format!("\u{2013} {violation}")));
        }
        let lines: Vec<String> =
            lines.iter().filter(|line| !line.is_empty()).map(|line| escape(line)).collect();
        let _ = writeln!(
            rows,
            "<tr><th scope=\"row\">{}</th><td class=\"{class}\">{word}</td><td>{}<br><small>{}</small></td></tr>",
            escape(finding.check),
            escape(finding.promise),
            lines.join("<br>")
        );
    }
    format!("<section><h2>Promises</h2><div class=\"wide\"><table>{rows}</table></div></section>\n")
}

fn figures(bins: &Bins) -> String {
    let mut rows = String::new();
    for kind in &bins.kinds {
        let [p50, p99, max] = kind.latency_ms.map(|ms| format!("{ms:.1}"));
        let _ = writeln!(
            rows,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{p50}</td><td>{p99}</td>\
             <td>{max}</td><td>{}</td></tr>",
            kind.name,
            kind.answered,
            kind.refused,
            kind.unknown,
            kind.gap_ms.map_or_else(|| "\u{2013}".to_owned(), |gap| gap.to_string()),
        );
    }
    format!(
        "<section><h2>Figures</h2><div class=\"wide\"><table class=\"numbers\"><tr><th>operation</th>\
         <th>answered</th><th>refused</th><th>unknown</th><th>p50 ms</th><th>p99 ms</th><th>max ms</th>\
         <th>longest gap, ms</th></tr>{rows}</table></div></section>\n"
    )
}

#[cfg(test)]
mod tests;
