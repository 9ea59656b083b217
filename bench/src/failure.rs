//! The one error of this program: what could not be done, and why. It ends the program, so nobody tells errors apart.

use std::fmt;

pub type Result<T> = std::result::Result<T, Failure>;

#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// `doing` reads after "cannot".
    pub fn new(doing: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self(format!("cannot {doing}: {why}"))
    }

    pub fn says(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
