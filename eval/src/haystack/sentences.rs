//! Text cut into sentences, without a language model: good enough to put a needle between two of them.

/// Words after which a sentence is ended although no mark ends it: running text without marks must not become one
/// sentence of a whole book.
const LONGEST: usize = 60;

/// Words whose full stop ends no sentence.
const ABBREVIATIONS: [&str; 14] =
    ["Mr.", "Mrs.", "Ms.", "Dr.", "St.", "Prof.", "Rev.", "Capt.", "Col.", "Gen.", "Sr.", "Jr.", "vs.", "etc."];

/// The sentences of `text`, each with single spaces between its words and none around it; line breaks are spaces.
#[must_use]
pub fn sentences(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut words: Vec<&str> = Vec::new();
    let mut coming = text.split_whitespace().peekable();
    while let Some(word) = coming.next() {
        words.push(word);
        let next_begins = coming.peek().is_none_or(|next| begins_a_sentence(next));
        if words.len() == LONGEST || (ends_a_sentence(word) && next_begins) {
            found.push(words.join(" "));
            words.clear();
        }
    }
    if !words.is_empty() {
        found.push(words.join(" "));
    }
    found
}

fn ends_a_sentence(word: &str) -> bool {
    let bare = word.trim_end_matches(['"', '\'', ')', ']', '\u{201d}', '\u{2019}']);
    let ends = bare.ends_with(['.', '!', '?', '\u{3002}']);
    // `J.` is an initial, `A.` in `Plan A.` is lost with it.
    let initial = bare.ends_with('.') && bare.chars().count() == 2 && bare.starts_with(char::is_uppercase);
    ends && !initial && !ABBREVIATIONS.contains(&bare)
}

fn begins_a_sentence(word: &str) -> bool {
    word.chars().find(|c| c.is_alphanumeric()).is_none_or(|first| !first.is_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_end_sentences_and_abbreviations_do_not() {
        let text = "Mr. Hale came in.  \"Where is it?\" he asked. It cost 3.5 pounds!\nJ. Doe (of St. Ives.) left";
        assert_eq!(
            sentences(text),
            ["Mr. Hale came in.", "\"Where is it?\" he asked.", "It cost 3.5 pounds!", "J. Doe (of St. Ives.) left"]
        );
    }

    #[test]
    fn text_without_marks_is_cut_all_the_same() {
        let text = "word ".repeat(150);
        let lengths: Vec<usize> = sentences(&text).iter().map(|s| s.split(' ').count()).collect();
        assert_eq!(lengths, [60, 60, 30]);
    }

    #[test]
    fn no_word_is_lost() {
        let text = "One. Two! three? Four: five. \"Six.\" seven";
        assert_eq!(sentences(text).join(" "), text);
        assert!(sentences(" \n").is_empty());
    }
}
