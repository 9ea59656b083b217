//! The line of a file that something is wrong with, and a caret under the place.

use std::fs;

use crate::control::manifests::Location;

/// One line of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Excerpt {
    /// Without its indentation, cut where it is long.
    pub(super) line: String,
    /// Characters before the caret.
    pub(super) before: usize,
    pub(super) carets: usize,
}

/// Reads the line of a location; `None` where there is no such line.
pub(super) fn excerpt(location: &Location) -> Option<Excerpt> {
    let text = fs::read_to_string(&location.file).ok()?;
    let line = text.lines().nth(location.span.line.checked_sub(1)?)?;
    Some(cut(line, location.span.column.saturating_sub(1), location.span.length))
}

/// Shows the characters from `at` on, and some before.
fn cut(line: &str, at: usize, length: usize) -> Excerpt {
    let line: Vec<char> = line
        .trim_end()
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect();
    let indentation = line.iter().take_while(|char| **char == ' ').count();
    let at = at.min(line.len());
    let start = indentation.min(at).max((at + SHOWN / 2).saturating_sub(SHOWN));
    let shown: String = line[start..].iter().take(SHOWN).collect();
    let rest = shown.chars().count().saturating_sub(at - start);
    let wanted = if length == 0 { rest } else { length.min(rest) };
    Excerpt {
        line: shown,
        before: at - start,
        carets: wanted.max(1),
    }
}

/// Characters of a line.
const SHOWN: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_under_the_place() {
        let excerpt = cut("    hostnames: [chat.example.com]", 16, 16);
        assert_eq!(excerpt.line, "hostnames: [chat.example.com]");
        assert_eq!((excerpt.before, excerpt.carets), (12, 16));
    }

    #[test]
    fn a_place_without_a_length_goes_on_to_the_end_of_its_line() {
        assert_eq!(cut("a: bcd", 3, 0).carets, 3);
        assert_eq!(
            cut("a:", 9, 0),
            Excerpt {
                line: "a:".to_owned(),
                before: 2,
                carets: 1
            }
        );
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let line = format!("  a: {}X{}", "b".repeat(500), "c".repeat(500));
        let excerpt = cut(&line, 505, 1);
        assert_eq!(excerpt.line.chars().count(), SHOWN);
        assert_eq!(excerpt.line.chars().nth(excerpt.before), Some('X'));
    }
}
