//! Aligned columns for a person.

use std::fmt::Write as _;

use super::paint::Paint;

/// How a cell looks, so that trouble is seen before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Doubtful,
    Bad,
}

/// Rows under a heading. A row has as many cells as the heading.
#[derive(Debug)]
pub struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    pub fn new(heading: &[&'static str]) -> Self {
        Self { heading: heading.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<(String, Tone)>) {
        assert_eq!(cells.len(), self.heading.len(), "a row has as many cells as the heading");
        self.rows.push(cells);
    }

    /// The table, each line ended, without blanks at the end of a line. Empty without rows.
    pub fn render(&self, paint: Paint) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let widths: Vec<usize> = (0..self.heading.len()).map(|column| self.width(column)).collect();
        let mut out = String::new();
        let heading = self.heading.iter().map(|name| (*name, paint.dim(name)));
        line(&mut out, heading, &widths);
        for row in &self.rows {
            line(
                &mut out,
                row.iter().map(|(text, tone)| (text.as_str(), toned(paint, text, *tone))),
                &widths,
            );
        }
        out
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[column].0.chars().count());
        cells.chain([self.heading[column].len()]).max().unwrap_or_default()
    }
}

pub fn plain(text: impl Into<String>) -> (String, Tone) {
    (text.into(), Tone::Plain)
}

fn toned(paint: Paint, text: &str, tone: Tone) -> String {
    match tone {
        Tone::Plain => text.to_owned(),
        Tone::Good => paint.green(text),
        Tone::Doubtful => paint.yellow(text),
        Tone::Bad => paint.red(text),
    }
}

/// Pads by the width that is seen, which the colour's escapes are not part of.
fn line<'a>(out: &mut String, cells: impl Iterator<Item = (&'a str, String)>, widths: &[usize]) {
    let last = widths.len().saturating_sub(1);
    for (column, (bare, painted)) in cells.enumerate() {
        out.push_str(&painted);
        if column < last {
            let gap = widths[column] - bare.chars().count() + 2;
            let _ = write!(out, "{:gap$}", "");
        }
    }
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&["NODE", "STATE", "NOTE"]);
        table.row(vec![plain("node-1"), ("alive".into(), Tone::Good), plain("")]);
        table.row(vec![plain("kül"), ("down".into(), Tone::Bad), plain("since noon")]);
        table
    }

    #[test]
    fn columns_start_at_the_same_place_in_every_line() {
        let text = sample().render(Paint::plain());
        assert_eq!(text, "NODE    STATE  NOTE\nnode-1  alive\nkül     down   since noon\n");
    }

    #[test]
    fn colour_does_not_move_the_columns() {
        let text = sample().render(Paint::colourful());
        let bare: String = text.replace("\x1b[2m", "").replace("\x1b[32m", "").replace("\x1b[1;31m", "");
        let bare = bare.replace("\x1b[0m", "");
        assert_eq!(bare, sample().render(Paint::plain()));
        assert!(text.contains("\x1b[1;31mdown\x1b[0m"));
    }

    #[test]
    fn a_table_without_rows_prints_nothing() {
        assert_eq!(Table::new(&["A"]).render(Paint::plain()), "");
    }
}
