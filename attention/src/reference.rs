//! The reference: what every backend is judged against.
//!
//! Double precision, nested loops, every option, no early exit: hidden pairs are computed like the others and then given
//! no weight. The equations are those of [`AttnProblem`]; the gradients follow from them (Dao et al. 2022, appendix B.2):
//!
//! ```text
//! D_i   = do_i . o_i                   dP_ij = do_i . v_j
//! dS_ij = P_ij (dP_ij - D_i) bend_ij   bend  = 1 - tanh^2, or 1 without a cap
//! dq_i  = scale sum_j dS_ij k_j        dk_j  = scale sum_i dS_ij q_i        dv_j = sum_i P_ij do_i
//! ```
//!
//! Sums of dk and dv run over all query heads that share the key head.

use ndarray::{Array3, Array4, ArrayView1, ArrayView2, ArrayView4, s};

use crate::error::AttnError;
use crate::problem::AttnProblem;
use crate::shape::{AttnShape, signed};

/// Name of the reference among the backends.
pub const NAME: &str = "reference";

/// The answer to a problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// Weighted values, `[batch, query_heads, query_len, head_dim]`; zero where a query sees nothing.
    pub output: Array4<f64>,
    /// Log-sum-exp of each row's scores, `[batch, query_heads, query_len]`, in nats; `-inf` where a query sees nothing.
    pub log_sum_exp: Array3<f64>,
}

/// Derivatives of a scalar by each input, in the inputs' shapes.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    /// By q, `[batch, query_heads, query_len, head_dim]`.
    pub q: Array4<f64>,
    /// By k, `[batch, key_heads, key_len, head_dim]`.
    pub k: Array4<f64>,
    /// By v, `[batch, key_heads, key_len, head_dim]`.
    pub v: Array4<f64>,
}

/// Output and log-sum-exp.
///
/// # Errors
///
/// [`AttnError::Dims`] when an array's shape is not the problem's.
pub fn forward(
    problem: &AttnProblem,
    q: ArrayView4<'_, f64>,
    k: ArrayView4<'_, f64>,
    v: ArrayView4<'_, f64>,
) -> Result<Forward, AttnError> {
    check_inputs(problem.shape(), q, k, v)?;
    let mut answer = Forward {
        output: Array4::zeros(problem.shape().query_dims()),
        log_sum_exp: Array3::zeros((q.dim().0, q.dim().1, q.dim().2)),
    };
    for place in places(problem.shape()) {
        let Place { batch, head, key_head, query } = place;
        let row = Row::new(problem, place, q.slice(s![batch, head, query, ..]), k.slice(s![batch, key_head, .., ..]));
        let mut output = answer.output.slice_mut(s![batch, head, query, ..]);
        for (key, &weight) in row.weights.iter().enumerate() {
            output.scaled_add(weight, &v.slice(s![batch, key_head, key, ..]));
        }
        answer.log_sum_exp[(batch, head, query)] = row.log_sum_exp;
    }
    Ok(answer)
}

/// Gradients of `sum(output * grad_output)` by q, k and v.
///
/// # Errors
///
/// [`AttnError::Dims`] when an array's shape is not the problem's.
pub fn backward(
    problem: &AttnProblem,
    q: ArrayView4<'_, f64>,
    k: ArrayView4<'_, f64>,
    v: ArrayView4<'_, f64>,
    grad_output: ArrayView4<'_, f64>,
) -> Result<Gradients, AttnError> {
    let shape = problem.shape();
    check_inputs(shape, q, k, v)?;
    check_dims("grad_output", grad_output, shape.query_dims())?;
    let key_zeros = || Array4::<f64>::zeros(shape.key_dims());
    let mut grads = Gradients { q: Array4::zeros(shape.query_dims()), k: key_zeros(), v: key_zeros() };
    for place in places(shape) {
        let Place { batch, head, key_head, query } = place;
        let (q_i, do_i) = (q.slice(s![batch, head, query, ..]), grad_output.slice(s![batch, head, query, ..]));
        let (keys, values) = (k.slice(s![batch, key_head, .., ..]), v.slice(s![batch, key_head, .., ..]));
        let row = Row::new(problem, place, q_i, keys);
        let d_weights: Vec<f64> = values.rows().into_iter().map(|v_j| do_i.dot(&v_j)).collect();
        let d_i: f64 = row.weights.iter().zip(&d_weights).map(|(weight, d_weight)| weight * d_weight).sum();
        for (key, (&weight, d_weight)) in row.weights.iter().zip(&d_weights).enumerate() {
            let d_score = weight * (d_weight - d_i) * row.bends[key] * problem.scale();
            grads.q.slice_mut(s![batch, head, query, ..]).scaled_add(d_score, &keys.row(key));
            grads.k.slice_mut(s![batch, key_head, key, ..]).scaled_add(d_score, &q_i);
            grads.v.slice_mut(s![batch, key_head, key, ..]).scaled_add(weight, &do_i);
        }
    }
    Ok(grads)
}

/// Softmax weights of every query over its keys, `[batch, query_heads, query_len, key_len]`: for looking at attention.
///
/// # Errors
///
/// [`AttnError::Dims`] when an array's shape is not the problem's.
pub fn weights(
    problem: &AttnProblem,
    q: ArrayView4<'_, f64>,
    k: ArrayView4<'_, f64>,
) -> Result<Array4<f64>, AttnError> {
    let shape = problem.shape();
    check_inputs(shape, q, k, k)?;
    let mut all = Array4::zeros([shape.batch, shape.query_heads, shape.query_len, shape.key_len]);
    for place in places(shape) {
        let Place { batch, head, key_head, query } = place;
        let row = Row::new(problem, place, q.slice(s![batch, head, query, ..]), k.slice(s![batch, key_head, .., ..]));
        all.slice_mut(s![batch, head, query, ..]).assign(&ArrayView1::from(&row.weights));
    }
    Ok(all)
}

/// Where a row of scores belongs.
#[derive(Clone, Copy)]
struct Place {
    batch: usize,
    head: usize,
    key_head: usize,
    query: usize,
}

/// Every row of a problem.
fn places(shape: &AttnShape) -> impl Iterator<Item = Place> + use<> {
    let shape = *shape;
    (0..shape.batch).flat_map(move |batch| {
        (0..shape.query_heads).flat_map(move |head| {
            let key_head = shape.key_head_of(head);
            (0..shape.query_len).map(move |query| Place { batch, head, key_head, query })
        })
    })
}

/// One query against every key.
struct Row {
    /// Softmax of the scores, `[key_len]`.
    weights: Vec<f64>,
    /// Derivative of each score by its uncapped value, `[key_len]`.
    bends: Vec<f64>,
    log_sum_exp: f64,
}

impl Row {
    /// `q_i` is `[head_dim]`, `keys` is `[key_len, head_dim]`.
    fn new(problem: &AttnProblem, place: Place, q_i: ArrayView1<'_, f64>, keys: ArrayView2<'_, f64>) -> Self {
        let mask = problem.mask().row(place.batch);
        let position = signed(place.query) + problem.query_offset();
        let raw: Vec<f64> = keys.rows().into_iter().map(|k_j| problem.scale() * q_i.dot(&k_j)).collect();
        let (mut scores, bends): (Vec<f64>, Vec<f64>) = raw.into_iter().map(|s| capped(s, problem.soft_cap())).unzip();
        if let Some(alibi) = problem.alibi() {
            scores.iter_mut().enumerate().for_each(|(key, s)| *s += alibi.bias(place.head, position, key));
        }
        let visible: Vec<bool> = (0..scores.len()).map(|key| mask.visible(place.query, key)).collect();
        let (weights, log_sum_exp) = softmax(&scores, &visible);
        Self { weights, bends, log_sum_exp }
    }
}

/// A score under the cap, and its derivative by the score.
fn capped(score: f64, soft_cap: Option<f64>) -> (f64, f64) {
    let Some(cap) = soft_cap else { return (score, 1.0) };
    let bent = (score / cap).tanh();
    (cap * bent, 1.0 - bent * bent)
}

/// Softmax over the visible scores and its log-sum-exp. NaN among them spreads to the whole row.
fn softmax(scores: &[f64], visible: &[bool]) -> (Vec<f64>, f64) {
    // Whether a row is blind is for the mask to say: a maximum of -inf could also come from NaN or -inf scores.
    if !visible.contains(&true) {
        return (vec![0.0; scores.len()], f64::NEG_INFINITY);
    }
    let seen = || scores.iter().zip(visible).filter(|(_, visible)| **visible).map(|(score, _)| *score);
    let largest = seen().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = seen().map(|score| (score - largest).exp()).sum();
    let weight = |(&score, &visible): (&f64, &bool)| if visible { (score - largest).exp() / sum } else { 0.0 };
    (scores.iter().zip(visible).map(weight).collect(), largest + sum.ln())
}

/// q, k and v against the problem.
fn check_inputs(
    shape: &AttnShape,
    q: ArrayView4<'_, f64>,
    k: ArrayView4<'_, f64>,
    v: ArrayView4<'_, f64>,
) -> Result<(), AttnError> {
    check_dims("q", q, shape.query_dims())?;
    check_dims("k", k, shape.key_dims())?;
    check_dims("v", v, shape.key_dims())
}

fn check_dims(tensor: &'static str, array: ArrayView4<'_, f64>, expected: [usize; 4]) -> Result<(), AttnError> {
    if array.shape() == expected {
        return Ok(());
    }
    Err(AttnError::Dims {
        tensor,
        expected: expected.to_vec(),
        found: array.shape().iter().map(|&n| signed(n)).collect(),
    })
}

#[cfg(test)]
#[path = "reference_tests.rs"]
mod tests;
