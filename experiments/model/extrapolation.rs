//! Longer contexts without training: attention whose relative positions never leave the trained range.
//!
//! Each method covers the visible pairs by parts. In a part, queries and keys are rotated as if they stood at other
//! positions, and an ordinary mask says which pairs belong to it; the parts' outputs are joined by their log-sum-exp.
//! Hence a method costs what plain attention costs, needs nothing of size `length x length`, and keeps un-rotated keys
//! in its cache.
//!
//! | method | pairs at a distance below the window | pairs beyond |
//! |---|---|---|
//! | Self-Extend (Jin et al. 2024) | as they are | at `floor(m / G) - floor(n / G) + w - floor(w / G)` |
//! | ReRoPE (Su 2023) | as they are | at distance `w` |
//! | LM-Infinite (Han et al. 2023) | as they are | the first keys alone, at distance `w` |
//! | StreamingLLM (Xiao et al. 2023) | as they are | the first keys alone, at their distance inside the cache |
//! | DCA (An et al. 2024) | by chunks of `s` with `c = s + w`: positions `mod s` in one chunk; `min(s + r, c - 1)` for the query when the key is in the chunk before | `c - 1` for the query |

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use attention::{AttnError, AttnProblem, AttnShape, Backend, DocumentStarts, Mask};
use tch::{Kind, Tensor};

use super::positions::PlanTensors;
use crate::error::Failure;

/// A method, with its sizes in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extrapolation {
    /// Far keys share positions by groups.
    SelfExtend {
        /// Positions that become one.
        group: usize,
        /// Neighbours that keep their own.
        window: usize,
    },
    /// Far keys all stand at the window's edge.
    ReRope {
        /// Distances from here on are one.
        window: usize,
    },
    /// A window and the first keys, which stand at the window's edge.
    LmInfinite {
        /// Keys of the window, the query among them.
        window: usize,
        /// First keys, always seen.
        sinks: usize,
    },
    /// A window and the first keys, with positions counted inside the cache.
    Streaming {
        /// Keys of the window, the query among them.
        window: usize,
        /// First keys, always seen.
        sinks: usize,
    },
    /// Dual chunk attention (ChunkLlama).
    Dca {
        /// Tokens of a chunk.
        chunk: usize,
        /// Neighbours across a chunk's border that keep their distance.
        local: usize,
    },
}

/// One share of the visible pairs.
struct Part {
    /// Rows of the queries given.
    queries: Range<i64>,
    /// Positions at which they are rotated.
    query_positions: Vec<i64>,
    /// Rows of the keys given.
    keys: Range<i64>,
    /// Positions at which they are rotated.
    key_positions: Vec<i64>,
    mask: Mask,
}

impl Extrapolation {
    /// The names of the methods.
    pub const NAMES: [&str; 5] = ["self-extend", "rerope", "lm-infinite", "streaming", "dca"];

    /// The methods with the options that each takes, for messages.
    pub const SPELLINGS: &str = "self-extend:group=G,window=W, rerope:window=W, lm-infinite:window=W,sinks=S, \
                                 streaming:window=W,sinks=S or dca:chunk=C,local=W";

    fn numbers(self) -> Vec<(&'static str, usize)> {
        match self {
            Self::SelfExtend { group, window } => vec![("window", window), ("group", group)],
            Self::ReRope { window } => vec![("window", window)],
            Self::LmInfinite { window, sinks } | Self::Streaming { window, sinks } => {
                vec![("window", window), ("sinks", sinks)]
            }
            Self::Dca { chunk, local } => vec![("chunk", chunk), ("local", local)],
        }
    }

    /// That the sizes make sense.
    ///
    /// # Errors
    ///
    /// A sentence with the size and its value.
    pub fn checked(self) -> Result<Self, Failure> {
        for (field, value) in self.numbers() {
            // StreamingLLM without sinks is the plain window that its paper compares with.
            if value == 0 && field != "sinks" {
                return Err(Failure::config(format!("{self}: {field} must be at least 1, got 0")));
            }
            if value > 1 << 40 {
                return Err(Failure::config(format!("{self}: {field} of {value} is out of range")));
            }
        }
        match self {
            Self::Dca { chunk, local } if local > chunk => {
                Err(Failure::config(format!("{self}: local must be at most chunk, got {local}")))
            }
            _ => Ok(self),
        }
    }

    /// A number that differs between methods and sizes.
    pub fn fingerprint(self) -> u64 {
        let text = self.to_string();
        // FNV-1a (Fowler, Noll, Vo 1991).
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    /// Mixed values `[batch, heads, length, head_dim]` of un-rotated queries `[batch, heads, length, head_dim]`, the first
    /// of which stands at `offset`, over un-rotated keys and values `[batch, key_heads, offset + length, head_dim]`.
    ///
    /// # Errors
    ///
    /// When the backend has no log-sum-exp for a part, or fails.
    pub fn attend(
        self,
        backend: Backend,
        plan: &PlanTensors,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        offset: i64,
    ) -> Result<Tensor, Failure> {
        let (length, total) = (q.size()[2], k.size()[2]);
        let mut joined: Option<Joined> = None;
        for part in self.parts(offset, length, total) {
            let (rows, keys) = (part.queries.end - part.queries.start, part.keys.end - part.keys.start);
            let part_q = plan.rotated_at(&q.narrow(2, part.queries.start, rows), &part.query_positions);
            let part_k = plan.rotated_at(&k.narrow(2, part.keys.start, keys), &part.key_positions);
            let part_v = v.narrow(2, part.keys.start, keys);
            let problem = problem(plan, &part_q, &part_k, part.mask)?;
            let attended = backend.attend(&problem, &part_q, &part_k, &part_v)?;
            joined.get_or_insert_with(|| Joined::empty(q)).add(part.queries.start, &attended.output, &attended.lse);
        }
        // A query always sees itself, so there is a part.
        Ok(joined.map_or_else(|| q.zeros_like(), |joined| joined.output.to_kind(q.kind())))
    }

    /// The parts that queries at `offset .. offset + length` have over `total` keys.
    fn parts(self, offset: i64, length: i64, total: i64) -> Vec<Part> {
        let queries: Vec<i64> = (offset..offset + length).collect();
        let all = |positions: Vec<i64>, keys: Range<i64>, key_positions: Vec<i64>, mask: Mask| Part {
            queries: 0..length,
            query_positions: positions,
            keys,
            key_positions,
            mask,
        };
        let near = |window: usize| {
            let first = (offset - window as i64 + 1).max(0);
            let mask = Mask::Window { size: window, sinks: 0, offset: offset - first };
            all(queries.clone(), first..total, (first..total).collect(), mask)
        };
        let last = offset + length - 1;
        // Keys at a distance of at least the window: causal, as if queries stood that much earlier.
        let far = |window: usize, keys: i64, query: &dyn Fn(i64) -> i64, key: &dyn Fn(i64) -> i64| {
            let mask = Mask::Causal { offset: offset - window as i64 };
            let positions = queries.iter().map(|&m| query(m)).collect();
            all(positions, 0..keys, (0..keys).map(key).collect(), mask)
        };
        let beyond = |window: usize| (last - window as i64 + 1).clamp(0, total);
        match self {
            Self::SelfExtend { group, window } => {
                let (g, w) = (group as i64, window as i64);
                let grouped = far(window, beyond(window), &|m| (m / g + w - w / g).min(m), &|n| n / g);
                whole(vec![near(window), grouped])
            }
            Self::ReRope { window } => {
                let edge = far(window, beyond(window), &|m| m.min(window as i64), &|_| 0);
                whole(vec![near(window), edge])
            }
            Self::LmInfinite { window, sinks } => {
                let seen = beyond(window).min(sinks as i64);
                whole(vec![near(window), far(window, seen, &|m| m.min(window as i64), &|_| 0)])
            }
            Self::Streaming { window, sinks } => {
                let (seen, cached) = (beyond(window).min(sinks as i64), (sinks + window) as i64 - 1);
                whole(vec![near(window), far(window, seen, &|m| m.min(cached), &|n| n)])
            }
            Self::Dca { chunk, local } => whole(chunked(chunk as i64, local as i64, offset, length, total)),
        }
    }
}

/// Without parts that hold no pair.
fn whole(parts: Vec<Part>) -> Vec<Part> {
    parts.into_iter().filter(|part| !part.keys.is_empty() && !part.queries.is_empty()).collect()
}

/// DCA: one part inside chunks; for each chunk one with the chunk before, and one with all before that.
fn chunked(chunk: i64, local: i64, offset: i64, length: i64, total: i64) -> Vec<Part> {
    let first = offset / chunk * chunk;
    let within = |range: Range<i64>| range.map(|place| place % chunk).collect::<Vec<_>>();
    let starts = (first..total).step_by(chunk as usize).map(|start| (start - first) as usize).collect();
    let inside = match DocumentStarts::new(vec![starts]) {
        Ok(starts) => Mask::Documents { starts, offset: offset - first },
        // Never: starts rise from 0.
        Err(_) => Mask::Causal { offset: offset - first },
    };
    let mut parts = vec![Part {
        queries: 0..length,
        query_positions: within(offset..offset + length),
        keys: first..total,
        key_positions: within(first..total),
        mask: inside,
    }];
    for start in (first.max(chunk)..total).step_by(chunk as usize) {
        let places = start.max(offset)..(start + chunk).min(offset + length);
        let queries = places.start - offset..places.end - offset;
        let edge = chunk + local - 1;
        let before = |positions: Vec<i64>, keys: Range<i64>| Part {
            queries: queries.clone(),
            query_positions: positions,
            key_positions: within(keys.clone()),
            keys,
            mask: Mask::Full,
        };
        let next = places.clone().map(|place| (chunk + place % chunk).min(edge)).collect();
        parts.push(before(next, start - chunk..start));
        parts.push(before(places.map(|_| edge).collect(), 0..start - chunk));
    }
    parts
}

fn problem(plan: &PlanTensors, q: &Tensor, k: &Tensor, mask: Mask) -> Result<AttnProblem, AttnError> {
    let (query, key) = (q.size(), k.size());
    let size = |n: i64| n as usize;
    let shape = AttnShape {
        batch: size(query[0]),
        query_heads: size(query[1]),
        key_heads: size(key[1]),
        query_len: size(query[2]),
        key_len: size(key[2]),
        head_dim: size(query[3]),
    };
    // Sequences of a batch share one list of document starts.
    let mask = match mask {
        Mask::Documents { starts, offset } if shape.batch > 1 => {
            let rows = vec![starts.row(0).to_vec(); shape.batch];
            Mask::Documents { starts: DocumentStarts::new(rows).map_err(attention::ProblemError::from)?, offset }
        }
        other => other,
    };
    Ok(AttnProblem::new(shape)?.with_scale(plan.score_scale(shape.head_dim))?.with_mask(mask)?)
}

/// Softmax averages of disjoint sets of keys, joined (Milakov and Gimelshein 2018, section 3.1).
struct Joined {
    output: Tensor, // [batch, heads, length, head_dim], float32
    lse: Tensor,    // [batch, heads, length], float32
}

impl Joined {
    fn empty(q: &Tensor) -> Self {
        let size = q.size();
        let options = (Kind::Float, q.device());
        Self { output: Tensor::zeros(&size, options), lse: Tensor::full(&size[..3], f64::NEG_INFINITY, options) }
    }

    /// Adds what rows from `start` on found in further keys.
    fn add(&mut self, start: i64, output: &Tensor, lse: &Tensor) {
        let rows = lse.size()[2];
        let (mut sum, mut held) = (self.output.narrow(2, start, rows), self.lse.narrow(2, start, rows));
        let lse = lse.to_kind(Kind::Float);
        let both = held.logaddexp(&lse);
        // Nothing joined with nothing is nothing, not a number over zero.
        let share = |part: &Tensor| (part - &both).exp().nan_to_num(0.0, None, None).unsqueeze(-1);
        let mixed = &sum * share(&held) + output.to_kind(Kind::Float) * share(&lse);
        sum.copy_(&mixed);
        held.copy_(&both);
    }
}

impl fmt::Display for Extrapolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SelfExtend { group, window } => write!(f, "self-extend:group={group},window={window}"),
            Self::ReRope { window } => write!(f, "rerope:window={window}"),
            Self::LmInfinite { window, sinks } => write!(f, "lm-infinite:window={window},sinks={sinks}"),
            Self::Streaming { window, sinks } => write!(f, "streaming:window={window},sinks={sinks}"),
            Self::Dca { chunk, local } => write!(f, "dca:chunk={chunk},local={local}"),
        }
    }
}

impl FromStr for Extrapolation {
    type Err = Failure;

    /// Reads what [`fmt::Display`] writes, options in any order.
    fn from_str(text: &str) -> Result<Self, Failure> {
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        let mut given: Vec<(&str, usize)> = Vec::new();
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let parsed = option.split_once('=').and_then(|(key, value)| Some((key, value.parse().ok()?)));
            let (key, value) =
                parsed.ok_or_else(|| Failure::config(format!("{text}: {option:?} is not key=tokens")))?;
            if given.iter().any(|(known, _)| *known == key) {
                return Err(Failure::config(format!("{text}: {key} is given twice")));
            }
            given.push((key, value));
        }
        let mut take = |key: &str| {
            let index = given.iter().position(|(known, _)| *known == key);
            index
                .map(|index| given.swap_remove(index).1)
                .ok_or_else(|| Failure::config(format!("{text}: {key} is missing; methods are {}", Self::SPELLINGS)))
        };
        let method = match name {
            "self-extend" => Self::SelfExtend { group: take("group")?, window: take("window")? },
            "rerope" => Self::ReRope { window: take("window")? },
            "lm-infinite" => Self::LmInfinite { window: take("window")?, sinks: take("sinks")? },
            "streaming" => Self::Streaming { window: take("window")?, sinks: take("sinks")? },
            "dca" => Self::Dca { chunk: take("chunk")?, local: take("local")? },
            _ => return Err(Failure::config(format!("{name:?} is no method: methods are {}", Self::SPELLINGS))),
        };
        match given.first() {
            Some((key, _)) => Err(Failure::config(format!("{text}: {name} has no option {key}"))),
            None => method.checked(),
        }
    }
}

#[cfg(test)]
#[path = "extrapolation_tests.rs"]
mod tests;
