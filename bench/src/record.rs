//! Puts a table into a document, in place of the one before.

use std::fs;
use std::path::Path;

use crate::failure::{Failure, Result};

/// Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->` in `file`.
pub fn put(file: &Path, name: &str, table: &str) -> Result<()> {
    let cannot = |why: &dyn std::fmt::Display| Failure::new(format_args!("record in {}", file.display()), why);
    let text = fs::read_to_string(file).map_err(|error| cannot(&error))?;
    let text =
        replace(&text, name, table).ok_or_else(|| cannot(&format_args!("no <!-- {name} --> and <!-- /{name} --> in it")))?;
    fs::write(file, text).map_err(|error| cannot(&error))
}

fn replace(text: &str, name: &str, table: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{}\n{end}{after}", table.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_changes() {
        let text = "a\n<!-- bench -->\nold\n<!-- /bench -->\nb\n";
        let new = "a\n<!-- bench -->\nnew\n<!-- /bench -->\nb\n";
        assert_eq!(replace(text, "bench", "new\n").as_deref(), Some(new));
        assert_eq!(replace(new, "bench", "new").as_deref(), Some(new));
        assert_eq!(replace("nothing", "bench", "new"), None);
    }
}
