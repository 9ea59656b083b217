//! How every command speaks: colour, glyphs, tables, documents, and errors.
//!
//! Colour sits on glyphs and on the one word that matters, and only where a terminal wants it. What is piped is never wrapped,
//! coloured or animated. Commands ask for a [`Screen`] and never look at the environment themselves.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR or TERM=dumb says no; CLICOLOR_FORCE says yes.
    #[default]
    Auto,
    /// Also into a pipe.
    Always,
    /// Not at all.
    Never,
}

/// The shape of an answer (`-o`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For a person.
    #[default]
    Table,
    /// For a person with a wide terminal: more columns.
    Wide,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// How good the news is. It chooses the glyph and the colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Warning,
    /// Not as it should be.
    Bad,
}

/// What an output can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    color: bool,
    utf8: bool,
    width: Option<usize>,
}

impl Screen {
    /// What stdout can show.
    #[must_use]
    pub fn stdout(choice: ColorChoice) -> Self {
        let terminal = io::stdout().is_terminal();
        let columns = terminal
            .then(terminal_size::terminal_size)
            .flatten()
            .map(|(width, _)| usize::from(width.0));
        Self::decide(choice, terminal, columns, |name| std::env::var(name).ok())
    }

    /// What stderr can show.
    #[must_use]
    pub fn stderr(choice: ColorChoice) -> Self {
        Self::decide(choice, io::stderr().is_terminal(), None, |name| std::env::var(name).ok())
    }

    /// The decision itself: `columns` is the terminal's width where there is one, `var` reads the environment.
    #[must_use]
    pub fn decide(choice: ColorChoice, terminal: bool, columns: Option<usize>, var: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name| var(name).filter(|value| !value.is_empty());
        let color = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto if set("NO_COLOR").is_some() => false,
            ColorChoice::Auto if set("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
            ColorChoice::Auto => terminal && set("TERM").is_none_or(|term| term != "dumb"),
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(set)
            .unwrap_or_default()
            .to_ascii_lowercase();
        let utf8 = locale.contains("utf-8") || locale.contains("utf8");
        let wished = set("COLUMNS").and_then(|value| value.parse().ok());
        let width = if terminal { wished.or(columns) } else { None };
        Self { color, utf8, width }
    }

    /// Whether this output is coloured.
    #[must_use]
    pub fn color(&self) -> bool {
        self.color
    }

    /// The glyph for a tone, coloured.
    #[must_use]
    pub fn mark(&self, tone: Tone) -> String {
        self.toned(tone, self.glyph(tone))
    }

    /// `text` in the colour of a tone.
    #[must_use]
    pub fn toned(&self, tone: Tone, text: &str) -> String {
        let style = if self.color { tone.style() } else { Style::new() };
        format!("{style}{text}{style:#}")
    }

    /// The glyph for a tone, plain.
    #[must_use]
    pub fn glyph(&self, tone: Tone) -> &'static str {
        match (tone, self.utf8) {
            (Tone::Good, true) => "✓",
            (Tone::Warning, true) => "!",
            (Tone::Bad, true) => "✗",
            (Tone::Good, false) => "ok",
            (Tone::Warning, false) => "!!",
            (Tone::Bad, false) => "xx",
        }
    }

    /// Breaks `text` at spaces so that it fits the terminal behind `indent` columns; as it is where there is no terminal.
    #[must_use]
    pub fn wrap(&self, text: &str, indent: usize) -> Vec<String> {
        let room = self
            .width
            .map_or(usize::MAX, |width| width.saturating_sub(indent).max(NARROWEST));
        wrap(text, room)
    }
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Good => AnsiColor::Green,
            Self::Warning => AnsiColor::Yellow,
            Self::Bad => AnsiColor::Red,
        }
        .on_default()
    }
}

/// Rows whose columns line up, two spaces apart. The last column is broken at spaces when the terminal is too narrow.
#[derive(Debug, Clone)]
pub struct Table {
    header: Vec<&'static str>,
    right: Vec<usize>,
    least: Vec<usize>,
    rows: Vec<Vec<Cell>>,
}

/// One field of a row.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Table {
    /// A table with these column words; all empty means no header line.
    #[must_use]
    pub fn new(header: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            header: header.into_iter().collect(),
            right: Vec::new(),
            least: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Numbers read better from the right: aligns these columns (from 0) so.
    #[must_use]
    pub fn right(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        self.right.extend(columns);
        self
    }

    /// Columns are at least so wide: for a table that goes on where another one ended.
    #[must_use]
    pub fn at_least(mut self, widths: &[usize]) -> Self {
        self.least = widths.to_vec();
        self
    }

    /// Adds a row. Missing cells are empty.
    pub fn row<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The whole table, each line with its newline.
    #[must_use]
    pub fn render(&self, screen: &Screen) -> String {
        let widths = self.widths();
        let mut out = String::new();
        if self.header.iter().any(|word| !word.is_empty()) {
            let header: Vec<Cell> = self.header.iter().map(|word| Cell::from(*word)).collect();
            self.line(&mut out, &header, &widths, screen);
        }
        for row in &self.rows {
            self.line(&mut out, row, &widths, screen);
        }
        out
    }

    /// How wide each column is.
    #[must_use]
    pub fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.header.iter().map(|word| width(word)).collect();
        widths.resize(widths.len().max(self.least.len()), 0);
        for (width, least) in widths.iter_mut().zip(&self.least) {
            *width = (*width).max(*least);
        }
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (i, cell) in row.iter().enumerate() {
                widths[i] = widths[i].max(width(&cell.text));
            }
        }
        widths
    }

    fn line(&self, out: &mut String, cells: &[Cell], widths: &[usize], screen: &Screen) {
        let Some((last, before)) = cells.split_last() else {
            out.push('\n');
            return;
        };
        let mut line = String::new();
        let mut indent = 0;
        for (i, cell) in before.iter().enumerate() {
            self.pad(&mut line, i, &cell.text, widths[i], &cell.shown(screen));
            line.push_str(GAP);
            indent += widths[i] + GAP.len();
        }
        for (n, part) in screen.wrap(&last.text, indent).into_iter().enumerate() {
            if n > 0 {
                line = " ".repeat(indent);
            }
            let part = Cell {
                text: part,
                tone: last.tone,
            };
            self.pad(&mut line, before.len(), &part.text, widths[before.len()], &part.shown(screen));
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }

    fn pad(&self, line: &mut String, column: usize, plain: &str, to: usize, shown: &str) {
        let blank = " ".repeat(to.saturating_sub(width(plain)));
        if self.right.contains(&column) {
            line.push_str(&blank);
            line.push_str(shown);
        } else {
            line.push_str(shown);
            line.push_str(&blank);
        }
    }
}

impl Cell {
    /// A cell in the colour of a tone.
    #[must_use]
    pub fn toned(tone: Tone, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            tone: Some(tone),
        }
    }

    fn shown(&self, screen: &Screen) -> String {
        self.tone
            .map_or_else(|| self.text.clone(), |tone| screen.toned(tone, &self.text))
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            tone: None,
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, tone: None }
    }
}

/// `answer` as one document with a `version` key in front, ending in a newline; `None` where `format` is for a person.
///
/// # Errors
/// When the answer cannot be written in that format.
pub fn document(format: Format, answer: &impl Serialize) -> io::Result<Option<String>> {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        version: u32,
        #[serde(flatten)]
        answer: &'a T,
    }

    let versioned = Versioned {
        version: DOCUMENT_VERSION,
        answer,
    };
    match format {
        Format::Table | Format::Wide => Ok(None),
        Format::Json => Ok(Some(serde_json::to_string_pretty(&versioned)? + "\n")),
        Format::Yaml => {
            // By way of a JSON value, so that the two formats cannot differ.
            let value = serde_json::to_value(&versioned)?;
            serde_saphyr::to_string(&value).map(Some).map_err(io::Error::other)
        }
    }
}

/// Writes to stdout and flushes.
///
/// # Errors
/// When stdout is gone; a command then ends, and says nothing about a closed pipe.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes one error line to stderr, as clap writes its own.
pub fn error(choice: ColorChoice, text: impl std::fmt::Display) {
    let word = Screen::stderr(choice).toned(Tone::Bad, "error:");
    let _ = writeln!(io::stderr(), "{word} {text}");
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Greedy, by words; a word that is longer than the line stays whole.
fn wrap(text: &str, room: usize) -> Vec<String> {
    if width(text) <= room {
        return vec![text.to_owned()];
    }
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Grows when a key of a document changes its meaning or goes away.
const DOCUMENT_VERSION: u32 = 1;
/// Between columns.
const GAP: &str = "  ";
/// The last column is never squeezed below this.
const NARROWEST: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(choice: ColorChoice, terminal: bool, vars: &[(&str, &str)]) -> Screen {
        Screen::decide(choice, terminal, Some(40), |name| {
            vars.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn colour_follows_the_flag_then_the_environment_then_the_terminal() {
        use ColorChoice::{Always, Auto, Never};
        for (choice, terminal, vars, expected) in [
            (Auto, true, &[][..], true),
            (Auto, true, &[("TERM", "xterm")], true),
            (Auto, true, &[("TERM", "dumb")], false),
            (Auto, false, &[("TERM", "xterm")], false),
            (Auto, true, &[("NO_COLOR", "1")], false),
            (Auto, true, &[("NO_COLOR", "")], true),
            (Auto, false, &[("CLICOLOR_FORCE", "1")], true),
            (Auto, false, &[("CLICOLOR_FORCE", "0")], false),
            (Auto, false, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
            (Always, false, &[("NO_COLOR", "1")], true),
            (Never, true, &[("CLICOLOR_FORCE", "1")], false),
        ] {
            assert_eq!(
                screen(choice, terminal, vars).color(),
                expected,
                "{choice:?} {terminal} {vars:?}"
            );
        }
    }

    #[test]
    fn glyphs_follow_the_first_locale_variable_that_is_set() {
        for (vars, expected) in [
            (&[][..], "ok"),
            (&[("LANG", "en_GB.UTF-8")], "✓"),
            (&[("LANG", "C.utf8")], "✓"),
            (&[("LANG", "en_GB.UTF-8"), ("LC_ALL", "C")], "ok"),
            (&[("LANG", "C"), ("LC_CTYPE", "C.UTF-8")], "✓"),
        ] {
            assert_eq!(screen(ColorChoice::Never, true, vars).mark(Tone::Good), expected, "{vars:?}");
        }
    }

    fn table() -> Table {
        let mut table = Table::new(["NAME", "OPEN", "NOTE"]).right([1]);
        table.row([Cell::from("chat-0"), Cell::from("7"), Cell::toned(Tone::Bad, "gone")]);
        table.row(["a", "1234", "words that do not fit on forty columns at all"]);
        table.row(["b"]);
        table
    }

    #[test]
    fn a_piped_table_is_never_wrapped_or_coloured() {
        let text = table().render(&screen(ColorChoice::Auto, false, &[]));
        let expected = "NAME    OPEN  NOTE\nchat-0     7  gone\na       1234  words that do not fit on forty columns at all\nb\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_terminal_breaks_the_last_column_and_colour_takes_no_room() {
        let text = table().render(&screen(ColorChoice::Auto, true, &[]));
        let expected = "NAME    OPEN  NOTE\nchat-0     7  \x1b[31mgone\x1b[0m\n\
                        a       1234  words that do not fit on\n              forty columns at all\nb\n";
        // Padding behind a coloured last cell stays; compare without it.
        let trimmed: String = text.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
        assert_eq!(trimmed, expected);
        assert!(
            text.lines()
                .all(|line| line.replace("\x1b[31m", "").replace("\x1b[0m", "").chars().count() <= 40)
        );
    }

    #[test]
    fn columns_overrides_the_terminals_width() {
        let wide = screen(ColorChoice::Never, true, &[("COLUMNS", "200")]);
        assert_eq!(table().render(&wide).lines().count(), 4);
    }

    #[test]
    fn documents_carry_a_version_and_agree() {
        #[derive(Serialize)]
        struct Answer {
            #[serde(rename = "client.address")]
            address: &'static str,
        }
        let answer = Answer { address: "::1" };
        let json = document(Format::Json, &answer).unwrap().unwrap();
        assert_eq!(json, "{\n  \"version\": 1,\n  \"client.address\": \"::1\"\n}\n");
        let yaml = document(Format::Yaml, &answer).unwrap().unwrap();
        let back: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(back, serde_json::from_str::<serde_json::Value>(&json).unwrap());
        assert!(document(Format::Table, &answer).unwrap().is_none());
    }
}
