//! The fixed parts of our own prompt, in tokens, whatever the tokenizer does at the joints.

use crate::error::TaskError;
pub(super) use crate::haystack::FILLER;
use crate::model::TextCodec;
pub(super) use crate::tasks::answer::joint;

/// The published question and the stem of its answer.
pub(super) const QUESTION: &str = "What is the pass key? The pass key is";

/// Key line, question and answer of one sample.
pub(super) struct Frame {
    pub(super) key_line: Vec<u32>,
    pub(super) question: Vec<u32>,
    pub(super) answer: Vec<u32>,
}

impl Frame {
    /// The frame of `key`: one short sentence, the published question, the digits.
    pub(super) fn new(codec: &dyn TextCodec, joint: &str, key: &str) -> Result<Self, TaskError> {
        let key_line = codec.encode(&format!("{joint}The pass key is {key}. Remember it."))?;
        let (mut question, mut answer) = split_answer(codec, &format!("{joint}{QUESTION}"), key)?;
        // A blank token between the stem and the digits says nothing about the key: it belongs to the question.
        while answer.len() > 1 && codec.decode(&answer[..1])?.trim().is_empty() {
            question.push(answer.remove(0));
        }
        Ok(Self { key_line, question, answer })
    }

    /// Tokens of the frame.
    pub(super) fn len(&self) -> usize {
        self.key_line.len() + self.question.len() + self.answer.len()
    }
}

/// Prompt and answer tokens of `prompt` followed by a space and `key`, encoded in one go.
pub(super) fn split_answer(codec: &dyn TextCodec, prompt: &str, key: &str) -> Result<(Vec<u32>, Vec<u32>), TaskError> {
    let head = codec.encode(prompt)?;
    let whole = codec.encode(&format!("{prompt} {key}"))?;
    match whole.strip_prefix(head.as_slice()) {
        Some(answer) if codec.decode(answer)?.trim() == key => {
            let answer = answer.to_vec();
            Ok((head, answer))
        }
        _ => Err(TaskError::AnswerNotSeparable { key: key.to_owned() }),
    }
}
