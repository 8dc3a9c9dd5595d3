//! The table of cases that every backend runs.
//!
//! Lengths are awkward on purpose: one query, unequal lengths, no multiple of any tile, more queries than keys (so that
//! rows are blind). Inputs are standard normal, since a flat softmax hides wrong scales; queries times four sharpen it.

use attention::{Alibi, AttnProblem, AttnShape, DType, DocumentStarts, Mask};
use ndarray::Array4;

use super::pairwise;
use super::plain::Rounding;
use super::random::Random;

const BATCHES: [usize; 2] = [1, 2];
const HEADS: [(usize, usize); 3] = [(4, 4), (8, 2), (12, 1)];
const HEAD_DIMS: [usize; 4] = [32, 64, 80, 128];
const LENGTHS: [(usize, usize); 9] =
    [(1, 1), (1, 257), (17, 17), (64, 128), (113, 203), (239, 1), (255, 256), (257, 255), (513, 1025)];
const MASKS: [MaskKind; 4] = [MaskKind::Full, MaskKind::Causal, MaskKind::Window, MaskKind::Documents];
const ALIBI: [bool; 2] = [false, true];
/// The second is the square of YaRN's attention factor at 8 times the context.
const SCALE_FACTORS: [f64; 2] = [1.0, 1.459];
const QUERY_FACTORS: [f64; 2] = [1.0, 4.0];
const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MaskKind {
    Full,
    Causal,
    Window,
    Documents,
}

/// One row of the table.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// Its number in the table, and the seed of its inputs.
    pub(crate) number: usize,
    pub(crate) problem: AttnProblem,
    pub(crate) dtype: DType,
    /// Factor on the queries.
    pub(crate) sharpness: f64,
}

/// Values that the element type of the case can hold.
pub(crate) struct Inputs {
    pub(crate) q: Array4<f64>,
    pub(crate) k: Array4<f64>,
    pub(crate) v: Array4<f64>,
    pub(crate) grad_output: Array4<f64>,
}

impl Case {
    pub(crate) fn inputs(&self) -> Inputs {
        let mut random = Random::new(self.number as u64);
        let round = |array: Array4<f64>| array.mapv(|x| f64::from(Rounding(self.dtype).round(x as f32)));
        let shape = self.problem.shape();
        Inputs {
            q: round(random.normal_array(shape.query_dims()) * self.sharpness),
            k: round(random.normal_array(shape.key_dims())),
            v: round(random.normal_array(shape.key_dims())),
            grad_output: round(random.normal_array(shape.query_dims())),
        }
    }

    /// Multiplications of one forward pass over everything, visible or not.
    pub(crate) fn work(&self) -> usize {
        let AttnShape { batch, query_heads, query_len, key_len, head_dim, .. } = *self.problem.shape();
        2 * batch * query_heads * query_len * key_len * head_dim
    }

    /// What tells it from the others, for messages.
    pub(crate) fn describe(&self) -> String {
        let Self { number, problem, dtype, sharpness } = self;
        let (alibi, cap) = (problem.alibi().is_some(), problem.soft_cap());
        let (shape, mask, scale) = (problem.shape(), problem.mask().name(), problem.scale());
        format!("case {number}: {shape}, {mask}, alibi {alibi}, cap {cap:?}, scale {scale:.4}, q x{sharpness}, {dtype}")
    }
}

/// Every case: the pairwise rows, then some that the factors leave out.
pub(crate) fn table() -> Vec<Case> {
    let counts = [9, 4, 4, 3, 3, 2, 2, 2, 2];
    let rows = pairwise::rows(&counts, |row| {
        let ((queries, keys), (heads, _)) = (LENGTHS[row[0]], HEADS[row[3]]);
        (BATCHES[row[5]] * heads * queries * keys * HEAD_DIMS[row[2]]) as f64 / 3e7
    });
    let mut cases: Vec<Case> = rows.iter().enumerate().map(|(number, row)| case_of(number, row)).collect();
    for (index, extra) in extras().into_iter().enumerate() {
        let (problem, sharpness) = extra;
        let number = cases.len();
        cases.push(Case { number, problem, dtype: DTYPES[index % DTYPES.len()], sharpness });
    }
    cases
}

fn case_of(number: usize, row: &[usize]) -> Case {
    let [length, mask, head_dim, heads, dtype, batch, alibi, scale, query] = row else {
        panic!("a row has nine factors: {row:?}")
    };
    let ((query_len, key_len), (query_heads, key_heads)) = (LENGTHS[*length], HEADS[*heads]);
    let head_dim = HEAD_DIMS[*head_dim];
    let shape = AttnShape { batch: BATCHES[*batch], query_heads, key_heads, query_len, key_len, head_dim };
    let mut problem = problem(shape, MASKS[*mask], number);
    problem = problem.clone().with_scale(problem.scale() * SCALE_FACTORS[*scale]).expect("a positive scale");
    if ALIBI[*alibi] {
        problem = with_alibi(problem);
    }
    Case { number, problem, dtype: DTYPES[*dtype], sharpness: QUERY_FACTORS[*query] }
}

/// Head counts that closed forms of the slopes get wrong, soft caps under every mask, queries in mid-sequence.
fn extras() -> Vec<(AttnProblem, f64)> {
    let shape = |query_heads, key_heads, query_len, key_len| AttnShape {
        batch: 2,
        query_heads,
        key_heads,
        query_len,
        key_len,
        head_dim: 64,
    };
    let capped = |kind, number| problem(shape(8, 2, 67, 131), kind, number).with_soft_cap(5.0).expect("a cap");
    let middle = Mask::Causal { offset: 40 };
    vec![
        (with_alibi(problem(shape(40, 8, 37, 101), MaskKind::Causal, 0)), 4.0),
        (with_alibi(problem(shape(1, 1, 101, 101), MaskKind::Causal, 0)), 1.0),
        (capped(MaskKind::Full, 0), 1.0),
        (capped(MaskKind::Causal, 1), 4.0),
        (with_alibi(capped(MaskKind::Window, 2)), 4.0),
        (with_alibi(capped(MaskKind::Documents, 3)), 4.0),
        (AttnProblem::new(shape(4, 2, 50, 131)).and_then(|p| p.with_mask(middle)).expect("in range"), 4.0),
        (problem(shape(4, 4, 300, 300), MaskKind::Causal, 0), 4.0),
        (problem(shape(4, 1, 300, 300), MaskKind::Documents, 0), 1.0),
    ]
}

/// With a mask of a kind that fits the sizes; `number` varies sinks and documents.
fn problem(shape: AttnShape, kind: MaskKind, number: usize) -> AttnProblem {
    let offset = shape.causal_offset();
    let mask = match kind {
        MaskKind::Full => Mask::Full,
        MaskKind::Causal => Mask::Causal { offset },
        MaskKind::Window => {
            Mask::Window { size: 1 + shape.key_len / 3, sinks: 3 * usize::from(!number.is_multiple_of(3)), offset }
        }
        MaskKind::Documents => {
            let rows = (0..shape.batch).map(|row| documents(shape.key_len, row + number)).collect();
            Mask::Documents { starts: DocumentStarts::new(rows).expect("rising from 0"), offset }
        }
    };
    AttnProblem::new(shape).and_then(|problem| problem.with_mask(mask)).expect("a problem of the table")
}

/// Starts of up to four documents, other ones for each `variant`.
fn documents(key_len: usize, variant: usize) -> Vec<usize> {
    let cuts = [key_len * (1 + variant % 3) / 7, key_len / 2 + variant % 5, key_len.saturating_sub(2)];
    let mut starts = vec![0];
    for cut in cuts {
        if cut > starts[starts.len() - 1] && cut < key_len {
            starts.push(cut);
        }
    }
    starts
}

fn with_alibi(problem: AttnProblem) -> AttnProblem {
    let slopes = slopes(problem.shape().query_heads);
    problem.with_alibi(Alibi::new(&slopes).expect("positive slopes")).expect("a slope for each head")
}

/// Press et al. 2022, section 3, for any head count.
fn slopes(heads: usize) -> Vec<f64> {
    let geometric = |count: usize| (1..=count).map(move |h| (-8.0 * h as f64 / count as f64).exp2());
    let below = 1 << heads.ilog2();
    geometric(below).chain(geometric(2 * below).step_by(2)).take(heads).collect()
}

#[test]
fn the_table_holds_what_it_must() {
    let table = table();
    let has = |what: &dyn Fn(&Case) -> bool| table.iter().any(what);
    for (queries, keys) in LENGTHS {
        let of = |case: &Case| (case.problem.shape().query_len, case.problem.shape().key_len);
        for mask in ["full", "causal", "window", "documents"] {
            assert!(has(&|case| of(case) == (queries, keys) && case.problem.mask().name() == mask));
        }
    }
    assert!(has(&|case| case.problem.mask().varies_by_row()));
    assert!(has(&|case| case.problem.is_blind(0, 0)));
    assert!(table.iter().all(|case| case.inputs().q.iter().all(|x| x.is_finite())));
    println!(
        "{} cases, {:.1} G multiplications",
        table.len(),
        table.iter().map(Case::work).sum::<usize>() as f64 / 1e9
    );
}
