//! Tables that fit a width.

use super::{
    Style,
    clean::{columns, cut},
};

/// One cell: plain text, and how it is painted once its width is known.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    paint: fn(Style, &str) -> String,
}

impl Cell {
    /// Painted by `paint`.
    pub(crate) fn painted(text: impl Into<String>, paint: fn(Style, &str) -> String) -> Self {
        Self { text: flat(text.into()), paint }
    }
}

/// A tab is as wide as the terminal likes.
fn flat(text: String) -> String {
    if text.contains('\t') { text.replace('\t', " ") } else { text }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: flat(text.into()), paint: |_, text| text.to_owned() }
    }
}

/// A column: its title, and what gives way when the table is too wide.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    /// Text, to the left.
    Left(&'static str),
    /// A number, to the right.
    Right(&'static str),
    /// Text that takes what is left of the line, cut if need be. One at most, the last.
    Rest(&'static str),
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Left(title) | Self::Right(title) | Self::Rest(title) => title,
        }
    }
}

/// Rows under titles.
#[derive(Clone, Debug)]
pub(crate) struct Table<'a> {
    columns: &'a [Column],
    rows: Vec<Vec<Cell>>,
}

impl<'a> Table<'a> {
    pub(crate) fn new(columns: &'a [Column]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The lines, titles first, none wider than `width`.
    pub(crate) fn lines(&self, width: usize, style: Style) -> Vec<String> {
        let widths = self.widths(width);
        let titles = self.columns.iter().map(|column| Cell::painted(column.title(), Style::bold));
        let titles: Vec<Cell> = titles.collect();
        let rows = std::iter::once(&titles).chain(&self.rows);
        rows.map(|row| self.line(row, &widths, style)).collect()
    }

    fn widths(&self, width: usize) -> Vec<usize> {
        let natural = self.columns.iter().enumerate().map(|(at, column)| {
            let cells = self.rows.iter().filter_map(|row| row.get(at));
            let widest = cells.map(|cell| columns(&cell.text)).max().unwrap_or(0);
            widest.max(columns(column.title()))
        });
        let mut widths: Vec<usize> = natural.collect();
        let over = |widths: &[usize]| {
            (widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1))
                .saturating_sub(width)
        };
        // The last column gives way first; then the others, the widest first, as far as their titles.
        if let (Some(Column::Rest(title)), Some(last)) =
            (self.columns.last(), widths.len().checked_sub(1))
        {
            let excess = over(&widths);
            widths[last] = widths[last].saturating_sub(excess).max(columns(title));
        }
        while over(&widths) > 0 {
            let shrinkable = widths.iter().zip(self.columns).enumerate();
            let widest = shrinkable
                .filter(|(_, (width, column))| **width > columns(column.title()).max(4))
                .max_by_key(|(_, (width, _))| **width)
                .map(|(at, _)| at);
            let Some(at) = widest else { break };
            widths[at] -= 1;
        }
        widths
    }

    fn line(&self, row: &[Cell], widths: &[usize], style: Style) -> String {
        let mut line = String::new();
        let mut gap = 0;
        for ((cell, width), column) in row.iter().zip(widths).zip(self.columns) {
            let text = cut(&cell.text, *width);
            let pad = width.saturating_sub(columns(&text));
            let painted = if text.is_empty() { String::new() } else { (cell.paint)(style, &text) };
            let (before, after) = match column {
                Column::Right(_) => (pad, 0),
                Column::Left(_) | Column::Rest(_) => (0, pad),
            };
            if painted.is_empty() {
                gap += before;
            } else {
                line.extend(std::iter::repeat_n(' ', gap + before));
                line += &painted;
                gap = 0;
            }
            gap += after + 2;
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] =
        [Column::Left("NAME"), Column::Right("PID"), Column::Rest("REASON")];

    fn table() -> Table<'static> {
        let mut table = Table::new(&COLUMNS);
        table.row(vec!["web".into(), "12345".into(), "a long reason indeed".into()]);
        table.row(vec!["b".into(), "1".into(), "".into()]);
        table
    }

    #[test]
    fn aligns_and_leaves_no_trailing_spaces() {
        let lines = table().lines(80, Style::new(false));
        assert_eq!(
            lines,
            ["NAME    PID  REASON", "web   12345  a long reason indeed", "b         1"]
        );
    }

    #[test]
    fn never_wider_than_asked_for() {
        for width in 18..60 {
            for line in table().lines(width, Style::new(false)) {
                assert!(columns(&line) <= width, "{width}: {line}");
            }
        }
        assert_eq!(table().lines(20, Style::new(false))[1], "web   12345  a long…");
    }

    #[test]
    fn colours_take_no_room() {
        let mut table = Table::new(&COLUMNS);
        table.row(vec![Cell::painted("web", Style::green), "1".into(), "x".into()]);
        assert_eq!(table.lines(80, Style::new(true))[1], "\x1b[32mweb\x1b[0m     1  x");
    }
}
