//! What a model writes after a prompt, and how likely it finds the right answer.

use crate::error::TaskError;
use crate::model::{ModelError, Reply, TextCodec};
use crate::task::Sample;

/// Prompt and answer tokens of a `stem` and several `values` behind it, separated by commas; every value is tokenized as it
/// follows the text before it. A blank token between the stem and the first value belongs to the stem, since it says
/// nothing about the value.
pub(super) fn listed(codec: &dyn TextCodec, stem: &str, values: &[String]) -> Result<(Vec<u32>, Vec<u32>), TaskError> {
    let head = codec.encode(stem)?;
    let text = format!("{stem} {}", values.join(", "));
    let whole = codec.encode(&text)?;
    let inseparable = || TaskError::AnswerNotSeparable { key: values.join(", ") };
    let Some(answer) = whole.strip_prefix(head.as_slice()) else { return Err(inseparable()) };
    if codec.decode(answer)?.trim() != values.join(", ") {
        return Err(inseparable());
    }
    let (mut head, mut answer) = (head, answer.to_vec());
    while answer.len() > 1 && codec.decode(&answer[..1])?.trim().is_empty() {
        head.push(answer.remove(0));
    }
    Ok((head, answer))
}

/// What separates two pieces of text that are encoded on their own: nothing when the tokenizer puts a space in
/// front of every text (as LLaMA's SentencePiece does), a space otherwise.
pub(super) fn joint(codec: &dyn TextCodec) -> Result<&'static str, ModelError> {
    let apart = [codec.encode("green")?, codec.encode("grass")?].concat();
    Ok(if codec.encode("green grass")? == apart { "" } else { " " })
}

/// What a model did with a sample.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answered {
    /// The greedy continuation.
    pub(super) text: String,
    /// Whether each token of the true answer was the most likely one, given all tokens before it.
    pub(super) ranked_first: Vec<bool>,
}

/// What the model wrote, and the true answer token by token.
pub(super) fn answered(codec: &dyn TextCodec, sample: &Sample, reply: &Reply) -> Result<Answered, ModelError> {
    let ranked_first = reply.forced.iter().zip(&sample.answer).map(|(score, &token)| score.top == token).collect();
    Ok(Answered { text: codec.decode(&reply.written)?, ranked_first })
}

/// Share of the values of a comma-separated answer of which every token was ranked first; the commas and blanks between
/// say nothing of a value and do not count. Where the tokenizer joins values, all of them stand or fall together.
pub(super) fn forced_share(codec: &dyn TextCodec, sample: &Sample, ranked_first: &[bool]) -> Result<f64, ModelError> {
    let mut values: Vec<bool> = Vec::new();
    let mut inside = false;
    for (&token, &first) in sample.answer.iter().zip(ranked_first) {
        let says_something = codec.decode(&[token])?.chars().any(char::is_alphanumeric);
        match values.last_mut() {
            Some(value) if says_something && inside => *value &= first,
            _ if says_something => values.push(first),
            _ => {}
        }
        inside = says_something;
    }
    if values.len() != sample.references.len() {
        return Ok(f64::from(!ranked_first.is_empty() && ranked_first.iter().all(|&first| first)));
    }
    Ok(values.iter().filter(|&&value| value).count() as f64 / values.len() as f64)
}

/// Share of `values` that `text` holds as whole numbers: `123` is not in `1234`.
pub(super) fn numbers_found(text: &str, values: &[String]) -> f64 {
    let numbers: Vec<&str> = text.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty()).collect();
    let found = values.iter().filter(|value| numbers.contains(&value.as_str())).count();
    found as f64 / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::WordCodec;

    fn values() -> Vec<String> {
        vec!["123".into(), "456".into()]
    }

    #[test]
    fn whole_numbers_count_and_parts_of_numbers_do_not() {
        assert_eq!(numbers_found("are 123, and 456.", &values()), 1.0);
        assert_eq!(numbers_found("456", &values()), 0.5);
        assert_eq!(numbers_found("123456", &values()), 0.0);
        assert_eq!(numbers_found("", &values()), 0.0);
        // Searching for a substring, as RULER does, would find the number in a longer one.
        assert!("1234567".contains("123"));
    }

    #[test]
    fn each_value_is_graded_by_its_own_tokens() {
        let codec = WordCodec::default();
        let (head, answer) = listed(&codec, "They are", &values()).unwrap();
        assert_eq!(codec.decode(&head).unwrap(), "They are ");
        assert_eq!(codec.decode(&answer).unwrap(), "123, 456");
        let sample = Sample { answer, references: values(), ..Sample::default() };
        // Tokens: 1 2 3 , blank 4 5 6.
        let share = |firsts: [u8; 8]| forced_share(&codec, &sample, &firsts.map(|first| first == 1)).unwrap();
        assert_eq!(share([1, 1, 1, 1, 1, 1, 1, 1]), 1.0);
        assert_eq!(share([1, 1, 1, 0, 0, 1, 1, 1]), 1.0);
        assert_eq!(share([1, 1, 0, 1, 1, 1, 1, 1]), 0.5);
        assert_eq!(share([0, 1, 1, 1, 1, 1, 1, 0]), 0.0);
    }
}
