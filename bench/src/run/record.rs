//! Puts a table into a document, in place of the one before.

use std::fs;
use std::path::Path;

use crate::failure::{Failure, Result};

/// Replaces what stands between the two marks in `file`.
pub fn put(file: &Path, table: &str) -> Result<()> {
    let cannot = |why: &dyn std::fmt::Display| Failure::new(format_args!("record in {}", file.display()), why);
    let text = fs::read_to_string(file).map_err(|error| cannot(&error))?;
    let text = replace(&text, table).ok_or_else(|| cannot(&format_args!("no {BEGIN} and {END} in it")))?;
    fs::write(file, text).map_err(|error| cannot(&error))
}

fn replace(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n{END}{after}", table.trim()))
}

const BEGIN: &str = "<!-- bench -->";
const END: &str = "<!-- /bench -->";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_changes() {
        let text = "a\n<!-- bench -->\nold\n<!-- /bench -->\nb\n";
        let new = "a\n<!-- bench -->\nnew\n<!-- /bench -->\nb\n";
        assert_eq!(replace(text, "new\n").as_deref(), Some(new));
        assert_eq!(replace(new, "new").as_deref(), Some(new));
        assert_eq!(replace("nothing", "new"), None);
    }
}
