//! "Did you mean": the known word nearest to a misspelt one.

/// The nearest of `known` within two edits of `word`, in words ready to append; empty when none is near.
pub(super) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(word, known) {
        Some(known) => format!("; did you mean \"{known}\"?"),
        None => String::new(),
    }
}

/// The nearest of `known` within two edits (and fewer than half its letters) of `word`.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A misspelling has about the length of the word, so that long junk costs nothing.
    let near = |candidate: &&str| candidate.len().abs_diff(word.len()) <= 2;
    known
        .into_iter()
        .filter(near)
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= 2 && edits * 2 < candidate.len())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, letters compared without case.
fn edits(one: &str, other: &str) -> usize {
    let (one, other) = (one.to_lowercase(), other.to_lowercase());
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, wanted) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *wanted);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let known = ["linear", "dynamic", "yarn", "su"];
        assert_eq!(nearest("linaer", known), Some("linear"));
        assert_eq!(nearest("Yarn", known), Some("yarn"));
        assert_eq!(nearest("dynamics", known), Some("dynamic"));
        assert_eq!(nearest("alibi", known), None);
        assert_eq!(nearest("sv", known), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), known), None);
    }
}
