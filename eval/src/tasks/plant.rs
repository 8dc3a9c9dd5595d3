//! Needles between the sentences of a haystack: the prompt has an exact number of tokens, and every needle begins at an
//! exact one.
//!
//! Needles divide the haystack into segments of prescribed sizes. A segment that a needle follows is taken so that it ends
//! where a sentence of the text ends, so that a needle always stands between sentences however long the segment is; where
//! a segment has needles on both sides, two stretches of text meet in its middle.

use std::ops::Range;

use crate::error::TaskError;
use crate::haystack::{Stretch, TokenStream, tokens_before};
use crate::rng::SplitMix64;

/// A sentence that is not asked for.
#[derive(Debug, Clone)]
pub(super) struct Other {
    pub(super) tokens: Vec<u32>,
    /// The segment that it must be in; none: any with room for it.
    pub(super) segment: Option<usize>,
}

/// What goes into a prompt.
#[derive(Debug)]
pub(super) struct Layout<'l> {
    pub(super) task: String,
    pub(super) bos: Option<u32>,
    pub(super) stream: &'l TokenStream,
    /// Needles that are asked for (at least one), in order.
    pub(super) asked: &'l [Vec<u32>],
    pub(super) others: &'l [Other],
    pub(super) question: &'l [u32],
    /// Tokens kept free behind the question.
    pub(super) answer: usize,
}

/// A prompt, and where its needles are.
#[derive(Debug)]
pub(super) struct Planted {
    pub(super) tokens: Vec<u32>,
    pub(super) needles: Vec<Range<usize>>,
}

impl Layout<'_> {
    /// Least length in tokens at which every depth can be had: the largest of `needles + 1` segments has at least its share
    /// of the haystack, and all other sentences must fit into it.
    pub(super) fn least(&self) -> usize {
        let others: usize = self.others.iter().map(|other| other.tokens.len()).sum();
        self.fixed() + others * (self.asked.len() + 1)
    }

    fn fixed(&self) -> usize {
        let asked: usize = self.asked.iter().map(Vec::len).sum();
        usize::from(self.bos.is_some()) + asked + self.question.len() + self.answer
    }

    /// Sizes of the segments in tokens when the first needle has the share `depth` of the haystack before it; the needles
    /// after it stand at equal distances to the end.
    pub(super) fn segments(&self, length: usize, depth: f64) -> Result<Vec<usize>, TaskError> {
        let least = self.least();
        if length < least {
            return Err(TaskError::TooShort { task: self.task.clone(), length, least });
        }
        let body = length - self.fixed();
        let mut starts = vec![0];
        for index in 0..self.asked.len() {
            let share = index as f64 / self.asked.len() as f64;
            starts.push(tokens_before(body, depth + (1.0 - depth) * share)?);
        }
        starts.push(body);
        Ok(starts.windows(2).map(|pair| pair[1] - pair[0]).collect())
    }

    /// The prompt of `length` tokens, answer not included.
    pub(super) fn planted(&self, length: usize, depth: f64, rng: &mut SplitMix64) -> Result<Planted, TaskError> {
        let sizes = self.segments(length, depth)?;
        let mut inside = self.assigned(&sizes, length, rng)?;
        let mut tokens: Vec<u32> = self.bos.into_iter().collect();
        let mut needles = Vec::with_capacity(self.asked.len());
        let mut end = self.stream.some_end(rng);
        let last = self.asked.len();
        for (index, size) in sizes.into_iter().enumerate() {
            let others = std::mem::take(&mut inside[index]);
            let filler = size - others.iter().map(|other| other.len()).sum::<usize>();
            let stretch = match index {
                0 => self.stream.before(end, filler)?,
                _ if index == last => self.stream.after(end, filler)?,
                _ => self.between(&mut end, filler, rng)?,
            };
            tokens.extend(inserted(&stretch, &others, rng));
            if let Some(needle) = self.asked.get(index) {
                needles.push(tokens.len()..tokens.len() + needle.len());
                tokens.extend(needle);
            }
        }
        tokens.extend(self.question);
        Ok(Planted { tokens, needles })
    }

    /// Text that begins where the text before it ended and ends with a sentence; the seam is in its middle.
    fn between(&self, end: &mut usize, count: usize, rng: &mut SplitMix64) -> Result<Stretch, TaskError> {
        let first = self.stream.after(*end, count / 2)?;
        *end = self.stream.some_end(rng);
        let second = self.stream.before(*end, count - count / 2)?;
        let shift = first.tokens.len();
        let ends = first.ends.iter().copied().chain(second.ends.iter().map(|end| end + shift)).collect();
        Ok(Stretch { tokens: [first.tokens, second.tokens].concat(), ends })
    }

    /// The other sentences of each segment, in order.
    fn assigned(&self, sizes: &[usize], length: usize, rng: &mut SplitMix64) -> Result<Vec<Vec<&[u32]>>, TaskError> {
        let mut room = sizes.to_vec();
        let mut inside: Vec<Vec<&[u32]>> = vec![Vec::new(); sizes.len()];
        for other in self.others {
            let size = other.tokens.len();
            let fits = |segment: usize| room.get(segment).is_some_and(|&room| room >= size);
            let segment = match other.segment {
                Some(segment) => Some(segment).filter(|&segment| fits(segment)),
                None => weighted(&room, fits, rng),
            };
            let Some(segment) = segment else {
                return Err(TaskError::TooShort { task: self.task.clone(), length, least: self.least() });
            };
            room[segment] -= size;
            inside[segment].push(&other.tokens);
        }
        Ok(inside)
    }
}

/// One of the segments that fit, each as likely as it has room.
fn weighted(room: &[usize], fits: impl Fn(usize) -> bool, rng: &mut SplitMix64) -> Option<usize> {
    let total: usize = (0..room.len()).filter(|&i| fits(i)).map(|i| room[i]).sum();
    let mut drawn = rng.below(total);
    for segment in (0..room.len()).filter(|&i| fits(i)) {
        if drawn < room[segment] {
            return Some(segment);
        }
        drawn -= room[segment];
    }
    None
}

/// `others` put in at sentence ends of `stretch` (or at its beginning), in order.
fn inserted(stretch: &Stretch, others: &[&[u32]], rng: &mut SplitMix64) -> Vec<u32> {
    let places = stretch.ends.len() + 1;
    let mut chosen: Vec<usize> = (0..others.len()).map(|_| rng.below(places)).collect();
    chosen.sort_unstable();
    let (mut tokens, mut from) = (Vec::new(), 0);
    for (place, other) in chosen.into_iter().zip(others) {
        let at = place.checked_sub(1).map_or(0, |index| stretch.ends[index]);
        tokens.extend(&stretch.tokens[from..at]);
        tokens.extend(*other);
        from = at;
    }
    tokens.extend(&stretch.tokens[from..]);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::ByteCodec;
    use crate::haystack::Haystack;
    use crate::model::TextCodec;

    fn bytes(text: &str) -> Vec<u32> {
        ByteCodec.encode(text).unwrap()
    }

    #[test]
    fn needles_begin_at_their_tokens_and_stand_between_sentences() {
        let stream = Haystack::generated(1, 60).encoded(&ByteCodec, " ").unwrap();
        let asked = [bytes(" One needle."), bytes(" Another needle."), bytes(" Third.")];
        let others = vec![Other { tokens: bytes(" Bait."), segment: None }; 3];
        let question = bytes(" Where?");
        let layout = Layout {
            task: "t".into(),
            bos: Some(ByteCodec::BOS),
            stream: &stream,
            asked: &asked,
            others: &others,
            question: &question,
            answer: 4,
        };
        for (seed, depth) in (0..200).zip([0.0, 0.01, 0.3, 0.5, 0.97, 1.0].into_iter().cycle()) {
            let planted = layout.planted(700, depth, &mut SplitMix64::new(seed)).unwrap();
            assert_eq!(planted.tokens.len(), 696);
            let body = 700 - layout.fixed();
            let mut earlier = 1;
            for (index, needle) in planted.needles.iter().enumerate() {
                let share = depth + (1.0 - depth) * index as f64 / 3.0;
                assert_eq!(needle.start, earlier + (share * body as f64).round() as usize);
                earlier += asked[index].len();
                let before = ByteCodec.decode(&planted.tokens[..needle.start]).unwrap();
                assert!(before.is_empty() || before.ends_with('.'), "{before}");
            }
            let text = ByteCodec.decode(&planted.tokens).unwrap();
            assert_eq!(text.matches(" Bait.").count(), 3);
            assert!(text.match_indices(" Bait.").all(|(at, _)| at == 0 || text[..at].ends_with('.')), "{text}");
        }
    }

    #[test]
    fn the_least_length_serves_every_depth_and_one_token_less_is_refused() {
        let stream = Haystack::filler().encoded(&ByteCodec, " ").unwrap();
        let asked = [bytes(" Needle.")];
        let others = vec![Other { tokens: bytes(" Some bait."), segment: None }; 2];
        let layout = Layout {
            task: "t".into(),
            bos: None,
            stream: &stream,
            asked: &asked,
            others: &others,
            question: &[1],
            answer: 1,
        };
        let least = layout.least();
        assert_eq!(least, 8 + 2 + 2 * 22);
        for depth in (0..=100).map(|percent| f64::from(percent) / 100.0) {
            let planted = layout.planted(least, depth, &mut SplitMix64::new(9)).unwrap();
            assert_eq!(planted.tokens.len(), least - 1);
            let error = layout.planted(least - 1, depth, &mut SplitMix64::new(9)).unwrap_err();
            assert_eq!(error, TaskError::TooShort { task: "t".into(), length: least - 1, least });
        }
    }

    #[test]
    fn a_place_drawn_without_regard_to_sentences_is_rejected() {
        // The tempting way: cut the haystack at the exact token, wherever that is.
        let stream = Haystack::generated(1, 60).encoded(&ByteCodec, " ").unwrap();
        let cut = stream.after(0, 137).unwrap();
        assert!(!ByteCodec.decode(&cut.tokens).unwrap().ends_with('.'));
    }
}
