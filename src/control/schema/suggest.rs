//! What somebody may have meant who wrote a word that nobody knows.

/// The word that is nearest to `written`, if one is near enough to be meant.
pub(crate) fn nearest<'a>(written: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = written.to_lowercase();
    let allowed = (written.chars().count() / 3).clamp(1, 3);
    words
        .map(|word| (distance(&lower, &word.to_lowercase()), word))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, word)| word)
}

/// Letters to change, add, drop or swap (optimal string alignment). Words of field names are short; longer ones are never
/// near.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().max(b.len()) > MAX_WORD {
        return usize::MAX;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

const MAX_WORD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_suggested_when_it_is_near() {
        let fields = ["backendRefs", "matches", "name", "fallback"];
        for (written, meant) in [
            ("backendRef", Some("backendRefs")),
            ("backendrefs", Some("backendRefs")),
            ("macthes", Some("matches")),
            ("nmae", Some("name")),
            ("filters", None),
            ("x", None),
        ] {
            assert_eq!(nearest(written, fields.into_iter()), meant, "{written}");
        }
    }
}
