//! Needles between the sentences of a haystack: the prompt has an exact number of tokens, and every needle begins at an
//! exact one.
//!
//! Needles divide the haystack into segments of prescribed sizes. All segments together are one stretch of text, which
//! begins at a sentence that the seed chooses and is the same wherever the needles are, so that the prompts of several depths
//! begin alike. A needle stands after the last sentence that fits in front of it; the few tokens that are missing there are
//! a whole sentence from elsewhere, or the end of one where none has the size, and the text goes on behind the needle where
//! it was left. Other sentences have their share of the text before them, whatever the depth.

use std::collections::VecDeque;
use std::ops::Range;

use crate::error::TaskError;
use crate::haystack::{Stretch, TokenStream, tokens_before};
use crate::rng::SplitMix64;

/// A sentence that is not asked for.
#[derive(Debug, Clone)]
pub(super) struct Other {
    pub(super) tokens: Vec<u32>,
    /// Share of the text before it, from 0 to 1.
    pub(super) share: f64,
    /// The segment that it must be in; none: the one in which its share lies, or the nearest with room for it.
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
    /// By share, and by segment where they have one.
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
    ///
    /// The first number drawn is where the text begins; with the same numbers, depths differ in nothing before their needle.
    pub(super) fn planted(&self, length: usize, depth: f64, rng: &mut SplitMix64) -> Result<Planted, TaskError> {
        let sizes = self.segments(length, depth)?;
        let others: usize = self.others.iter().map(|other| other.tokens.len()).sum();
        let filler = sizes.iter().sum::<usize>() - others;
        let text = self.stream.after(self.stream.some_end(rng), filler)?;
        let mut walk = Walk::new(text, self.others, self.bos);
        let mut needles = Vec::with_capacity(self.asked.len());
        for (index, &size) in sizes.iter().enumerate() {
            let Some(count) = walk.due(index, size, sizes[index + 1..].iter().max().copied()) else {
                return Err(TaskError::TooShort { task: self.task.clone(), length, least: self.least() });
            };
            let Some(needle) = self.asked.get(index) else {
                walk.close(count, size);
                continue;
            };
            walk.lead_to_needle(count, size, self.stream, rng)?;
            needles.push(walk.tokens.len()..walk.tokens.len() + needle.len());
            walk.tokens.extend(needle);
        }
        walk.tokens.extend(self.question);
        Ok(Planted { tokens: walk.tokens, needles })
    }
}

/// Sentences before a needle that are given up for one that has just the size that is missing.
const PATIENCE: usize = 6;

/// A prompt on its way through the text.
struct Walk<'l> {
    tokens: Vec<u32>,
    text: Stretch,
    /// Text used so far; a sentence ends there.
    at: usize,
    /// Other sentences still to come, each with the sentence end in the text at which it belongs.
    waiting: VecDeque<(usize, &'l Other)>,
}

impl<'l> Walk<'l> {
    fn new(text: Stretch, others: &'l [Other], bos: Option<u32>) -> Self {
        let wished = |share: f64| (share * text.tokens.len() as f64) as usize;
        let place = |other: &'l Other| {
            let at = text.ends.partition_point(|&end| end < wished(other.share));
            (text.ends.get(at).or(text.ends.last()).copied().unwrap_or(0), other)
        };
        let waiting = others.iter().map(place).collect();
        Self { tokens: bos.into_iter().collect(), text, at: 0, waiting }
    }

    /// How many others go into a segment of `size` tokens: those that are reached in it, and those that would no longer fit
    /// into the largest one after it (none: this is the last). None where they do not fit.
    ///
    /// All others fit into the largest of all segments (see [`Layout::least`]), and whenever a segment is left, what still
    /// waits fits into one after it.
    fn due(&self, index: usize, size: usize, later: Option<usize>) -> Option<usize> {
        let mut rest: usize = self.waiting.iter().map(|(_, other)| other.tokens.len()).sum();
        let (mut used, mut count) = (0, 0);
        for &(place, other) in &self.waiting {
            let needed = used + other.tokens.len();
            let reached = place.saturating_sub(self.at) + needed <= size;
            let here = other.segment.map_or(reached || later.is_none_or(|later| rest > later), |it| it == index);
            if !here {
                break;
            }
            if needed > size {
                return None;
            }
            rest -= other.tokens.len();
            (used, count) = (needed, count + 1);
        }
        Some(count)
    }

    /// Text up to `end` with the next `count` others in it; those whose place is not in it stand at its ends.
    fn go(&mut self, count: usize, end: usize, last_place: usize) {
        for _ in 0..count {
            let Some((place, other)) = self.waiting.pop_front() else { break };
            let place = place.clamp(self.at, last_place);
            self.tokens.extend(&self.text.tokens[self.at..place]);
            self.tokens.extend(&other.tokens);
            self.at = place;
        }
        self.tokens.extend(&self.text.tokens[self.at..end]);
        self.at = end;
    }

    /// Text of `size` tokens with the next `count` others in it.
    fn filler(&self, count: usize, size: usize) -> usize {
        size - self.waiting.iter().take(count).map(|(_, other)| other.tokens.len()).sum::<usize>()
    }

    /// The last segment: the text is cut where the question begins.
    fn close(&mut self, count: usize, size: usize) {
        let end = self.at + self.filler(count, size);
        let last = self.stops(end).last().copied().unwrap_or(self.at);
        self.go(count, end, last);
    }

    /// Sentence ends from here to `end`.
    fn stops(&self, end: usize) -> Vec<usize> {
        let ends = self.text.ends.iter().copied().filter(|&stop| self.at < stop && stop <= end);
        std::iter::once(self.at).chain(ends).collect()
    }

    /// A segment before a needle: it ends with a sentence.
    fn lead_to_needle(
        &mut self,
        count: usize,
        size: usize,
        stream: &TokenStream,
        rng: &mut SplitMix64,
    ) -> Result<(), TaskError> {
        let end = self.at + self.filler(count, size);
        let stops = self.stops(end);
        let nearest = stops.last().copied().unwrap_or(self.at);
        let fitting = |&stop: &usize| Some((stop, stream.sentence_of(end - stop, rng)?));
        let (stop, piece) = match stops.iter().rev().take(PATIENCE).find_map(fitting) {
            Some(found) => found,
            None => (nearest, stream.before(stream.some_end(rng), end - nearest)?.tokens),
        };
        self.go(count, stop, stop);
        self.tokens.extend(piece);
        Ok(())
    }
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
        let bait = |share| Other { tokens: bytes(" Bait."), share, segment: None };
        let others = [0.0, 0.4, 0.95].map(bait);
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
        let others = vec![Other { tokens: bytes(" Some bait."), share: 0.5, segment: None }; 2];
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
    fn prompts_of_two_depths_differ_in_nothing_but_a_sentence_or_two_before_their_needle() {
        let stream = Haystack::generated(1, 2000).encoded(&ByteCodec, " ").unwrap();
        let (asked, question) = ([bytes(" One needle.")], bytes(" Where?"));
        let others = [0.1, 0.6].map(|share| Other { tokens: bytes(" Bait."), share, segment: None });
        let (task, bos) = ("t".to_owned(), Some(ByteCodec::BOS));
        let layout =
            Layout { task, bos, stream: &stream, asked: &asked, others: &others, question: &question, answer: 4 };
        let mut whole = 0;
        for seed in 0..20 {
            let at = |depth: f64| layout.planted(4000, depth, &mut SplitMix64::new(seed)).unwrap();
            let deepest = at(1.0);
            for depth in [0.0, 0.25, 0.5, 0.75] {
                let planted = at(depth);
                let same = planted.tokens.iter().zip(&deepest.tokens).take_while(|(a, b)| a == b).count();
                let needle = planted.needles[0].start;
                assert!(same <= needle + 5 && same + 400 > needle, "{same} {needle}");
                let before = ByteCodec.decode(&planted.tokens[..needle]).unwrap();
                whole += usize::from(
                    before.match_indices(". ").all(|(at, _)| before[at + 2..].starts_with(char::is_uppercase)),
                );
            }
        }
        assert!(whole > 70, "nearly always every sentence before the needle is whole: {whole} of 80");
    }

    #[test]
    fn a_place_drawn_without_regard_to_sentences_is_rejected() {
        // The tempting way: cut the haystack at the exact token, wherever that is.
        let stream = Haystack::generated(1, 60).encoded(&ByteCodec, " ").unwrap();
        let cut = stream.after(0, 137).unwrap();
        assert!(!ByteCodec.decode(&cut.tokens).unwrap().ends_with('.'));
    }
}
