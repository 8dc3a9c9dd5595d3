//! Questions over documents, from files that the user gives.
//!
//! Three layouts are read: SQuAD (`data`, `paragraphs`, `qas`), HotpotQA (a list of `question`, `answer`, `context`,
//! `supporting_facts`) and the lines of the lost-in-the-middle data (`question`, `answers`, `ctxs`). None of them is shipped.

mod read;

/// One document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Document {
    /// Title; may be empty.
    pub title: String,
    /// Text.
    pub text: String,
}

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The question.
    pub text: String,
    /// Every answer that counts as right, at least one.
    pub answers: Vec<String>,
    /// Documents that hold the answer.
    pub gold: Vec<usize>,
    /// Documents that the file gives with the question, gold ones included.
    pub context: Vec<usize>,
    /// Documents near them, of the same article.
    pub near: Vec<usize>,
}

/// Which layout a set was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QaFormat {
    /// Stanford Question Answering Dataset.
    Squad,
    /// HotpotQA.
    Hotpot,
    /// Lost in the middle (Liu et al. 2023).
    LostInTheMiddle,
}

/// Questions and the documents that they are asked over.
#[derive(Debug, Clone, PartialEq)]
pub struct QaSet {
    /// Layout of the file.
    pub format: QaFormat,
    /// Every document once, in order of its text.
    pub documents: Vec<Document>,
    /// Every question that has an answer, in the order of the file.
    pub questions: Vec<Question>,
}

/// Why a file of questions could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QaError {
    /// The file is not JSON of a known layout.
    #[error("not a SQuAD, HotpotQA or lost-in-the-middle file: {0}")]
    Layout(String),
    /// There is nothing to ask.
    #[error("the file holds no question with an answer and a document")]
    NoQuestions,
}

/// Lower case without punctuation, articles and extra blanks, as SQuAD's evaluation normalizes answers.
#[must_use]
pub fn normalized(text: &str) -> String {
    let bare: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    bare.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the")).collect::<Vec<_>>().join(" ")
}

/// Whether the first line of `output` holds one of `answers`, both normalized (`best_subspan_em` of Liu et al.). Only the
/// first line: a model that copies its documents would otherwise always be right.
#[must_use]
pub fn best_subspan(output: &str, answers: &[String]) -> bool {
    let first = normalized(output.split('\n').next().unwrap_or(""));
    answers.iter().any(|answer| {
        let answer = normalized(answer);
        !answer.is_empty() && first.contains(&answer)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const SQUAD: &str = r#"{"data": [
        {"title": "Rivers", "paragraphs": [
            {"context": "The Avel rises near Morn.", "qas": [
                {"question": "Where does the Avel rise?", "is_impossible": false,
                 "answers": [{"text": "near Morn"}, {"text": "Morn"}]},
                {"question": "Who?", "is_impossible": true, "answers": []}]},
            {"context": "The Besk is short.", "qas": []}]},
        {"title": "Hills", "paragraphs": [
            {"context": "Mount Cor is high.", "qas": [
                {"question": "What is high?", "answers": [{"text": "Mount Cor"}]}]}]}]}"#;

    pub(crate) const HOTPOT: &str = r#"[{"question": "Which film is older?", "answer": "Dawn",
        "supporting_facts": [["Dawn", 0], ["Dusk", 0]],
        "context": [["Dusk", ["Dusk is a film of 1990.", " It is long."]], ["Noon", ["Noon is a book."]],
                    ["Dawn", ["Dawn is a film of 1950."]]]},
        {"question": "Who sang?", "answer": "Eve", "supporting_facts": [["Choir", 0]],
        "context": [["Choir", ["Eve sang in the choir."]], ["Organ", ["The organ was old."]]]}]"#;

    pub(crate) const LINES: &str = concat!(
        r#"{"question": "who wrote it", "answers": ["Ann Lee"], "ctxs": [{"title": "It", "text": "It is by Ann Lee.","#,
        r#" "isgold": true}, {"title": "Them", "text": "Them is by Bo.", "isgold": false}]}"#,
        "\n",
    );

    #[test]
    fn answers_are_found_whatever_their_case_articles_and_marks() {
        let answers = ["The Eiffel Tower".to_owned()];
        assert!(best_subspan(" It is the eiffel-free, Eiffel tower!", &answers));
        assert!(best_subspan("eiffel  TOWER", &answers));
        assert!(!best_subspan("a tower", &answers));
        assert!(!best_subspan("No idea.\nDocument [1] The Eiffel Tower", &answers), "only the first line counts");
        assert!(!best_subspan("anything", &["the".to_owned()]), "an answer of articles alone is in no text");
    }
}
