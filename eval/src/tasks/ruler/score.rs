//! RULER's two scores.

/// An output as RULER reads it: control characters are line breaks, and blanks around it are cut off.
#[must_use]
pub fn cleaned(output: &str) -> String {
    let printable = |c: char| if c < ' ' { '\n' } else { c };
    output.trim().chars().map(printable).collect::<String>().trim().to_owned()
}

/// Share of `references` that `output` holds, whatever the case; 0 without references.
#[must_use]
pub fn string_match_all(output: &str, references: &[String]) -> f64 {
    found(output, references) as f64 / references.len().max(1) as f64
}

/// 1 when `output` holds any of `references`, whatever the case, else 0.
#[must_use]
pub fn string_match_part(output: &str, references: &[String]) -> f64 {
    if found(output, references) > 0 { 1.0 } else { 0.0 }
}

fn found(output: &str, references: &[String]) -> usize {
    let output = output.to_lowercase();
    references.iter().filter(|reference| output.contains(&reference.to_lowercase())).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn all_is_the_share_of_references_found() {
        let four = references(&["123", "456", "789", "abc"]);
        assert_eq!(string_match_all("123, 789 and ABC", &four), 0.75);
        assert_eq!(string_match_all("", &four), 0.0);
        assert_eq!(string_match_all("anything", &[]), 0.0);
        // A substring is enough, as in the reference.
        assert_eq!(string_match_all("x1234567x", &references(&["345"])), 1.0);
    }

    #[test]
    fn part_is_whether_any_reference_is_found() {
        let names = references(&["France", "the French Republic", "Gaul"]);
        assert_eq!(string_match_part("It is in france.", &names), 1.0);
        assert_eq!(string_match_part("It is in Spain.", &names), 0.0);
    }

    #[test]
    fn the_mean_over_references_is_rejected_as_a_score_of_questions() {
        // The harness's rule gives 1/k for one of k right answers.
        let names = references(&["France", "the French Republic", "Gaul"]);
        let mean_over_references = string_match_all("It is in france.", &names);
        assert!((mean_over_references - 1.0 / 3.0).abs() < 1e-12);
        assert_ne!(string_match_part("It is in france.", &names), mean_over_references);
    }

    #[test]
    fn outputs_are_cleaned_as_the_reference_does() {
        assert_eq!(cleaned("  a\tb\u{0}c\u{1f} \n"), "a\nb\nc");
        assert_eq!(cleaned("\u{7f}a"), "\u{7f}a");
    }
}
