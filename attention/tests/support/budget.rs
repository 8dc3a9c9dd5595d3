//! The judgement: at most twice the error of plain attention in the same precision, plus the output's own rounding.
//!
//! Gradients by q and k are differences. Where they cancel to nothing, plain arithmetic may hit zero by luck; their floor
//! therefore knows the size of what cancels, at float32 rounding whatever the element type.

use attention::{AttnProblem, DType};
use ndarray::{Array4, Axis};

use super::cases::Inputs;

/// An accepted answer: its error, and what it might have been.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accepted {
    /// Largest difference from the reference.
    pub(crate) error: f64,
    /// The multiple of the plain error.
    pub(crate) allowed_by_plain: f64,
    /// Rounding of the largest reference element, and of what cancels.
    pub(crate) floor: f64,
}

impl Accepted {
    /// Part of the budget that was used.
    pub(crate) fn used(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { self.error / (self.allowed_by_plain + self.floor) }
    }

    /// Which of the two bounds the budget mainly is.
    pub(crate) fn bound(&self) -> &'static str {
        if self.allowed_by_plain >= self.floor { "plain" } else { "floor" }
    }
}

/// What an answer may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Multiple of the plain error.
    pub(crate) times_plain: f64,
    /// Size of the terms whose rounding to float32 is left in it, in the unit of the answer.
    pub(crate) cancelling: f64,
}

impl Budget {
    /// The rule.
    pub(crate) const RULE: Self = Self { times_plain: 2.0, cancelling: 0.0 };

    /// The one exception: a float32 backward that rebuilds the softmax from the stored log-sum-exp. Where scores are sharp,
    /// that number is large and the rounding of it comes back as an error of every probability, which plain attention,
    /// with its own maximum at hand, does not have: libtorch's on the CPU was seen at 4.5 times the plain error (forwards
    /// keep the rule, and so do 16-bit gradients). Processors differ; hence some room.
    #[cfg(feature = "torch")]
    pub(crate) fn backward(dtype: DType, cancelling: f64) -> Self {
        Self { times_plain: if dtype == DType::F32 { 8.0 } else { Self::RULE.times_plain }, cancelling }
    }
}

/// Judges `got` by the reference `exact` and the plain answer `plain`. Written so that NaN anywhere is a refusal.
pub(crate) fn judge(
    dtype: DType,
    budget: Budget,
    exact: &Array4<f64>,
    plain: &Array4<f64>,
    got: &Array4<f64>,
) -> Result<Accepted, String> {
    if got.dim() != exact.dim() {
        return Err(format!("shape {:?} instead of {:?}", got.dim(), exact.dim()));
    }
    if let Some((index, value)) = got.indexed_iter().find(|(_, value)| !value.is_finite()) {
        return Err(format!("{value} at {index:?}"));
    }
    let (worst, error) = largest_difference(exact, got);
    let (_, plain_error) = largest_difference(exact, plain);
    let largest = exact.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let floor = 2.0 * (dtype.unit_roundoff() * largest + DType::F32.unit_roundoff() * budget.cancelling);
    let accepted = Accepted { error, allowed_by_plain: budget.times_plain * plain_error, floor };
    if accepted.used() <= 1.0 {
        return Ok(accepted);
    }
    let (wanted, found, limit) = (exact[worst], got[worst], accepted.allowed_by_plain + accepted.floor);
    let bound = accepted.bound();
    Err(format!("{dtype} at {worst:?}: {found} instead of {wanted}, off by {error:.3e}, allowed {limit:.3e} ({bound})"))
}

/// Judges a log-sum-exp `[batch, query_heads, query_len, 1]`, which is float32 whatever the type of the inputs; returns
/// the part of its bound that was used.
///
/// The bound is in units of float32 roundoff: 16 for the sum behind a score (its worst case, one for each of `head_dim`
/// terms, is never near) times the largest `scale |q_i| |k_j|`, 4 for each later operation on scores, biases and the answer,
/// and 64 for the sum of exponentials. Rows that see nothing have `-inf`, exactly.
pub(crate) fn judge_lse(
    problem: &AttnProblem,
    inputs: &Inputs,
    exact: &Array4<f64>,
    got: &Array4<f64>,
) -> Result<f64, String> {
    judge_lse_within(0.0, problem, inputs, exact, got)
}

/// The same with something more to spend: libtorch's kernel on the CPU takes exponentials of fewer bits for 16-bit inputs,
/// whose outputs cannot tell.
pub(crate) fn judge_lse_within(
    extra: f64,
    problem: &AttnProblem,
    inputs: &Inputs,
    exact: &Array4<f64>,
    got: &Array4<f64>,
) -> Result<f64, String> {
    if got.dim() != exact.dim() {
        return Err(format!("log-sum-exp of shape {:?} instead of {:?}", got.dim(), exact.dim()));
    }
    let most = |array: &Array4<f64>| array.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let longest = |array: &Array4<f64>| most(&(array * array).sum_axis(Axis(3)).insert_axis(Axis(3))).sqrt();
    let raw = problem.scale() * longest(&inputs.q) * longest(&inputs.k);
    let shape = problem.shape();
    let distance = (shape.query_len as f64 + problem.query_offset().unsigned_abs() as f64).max(shape.key_len as f64);
    let slope = problem.alibi().map_or(0.0, |alibi| alibi.slopes().iter().copied().fold(0.0, f64::max));
    let largest = most(&exact.mapv(|x| if x.is_finite() { x } else { 0.0 }));
    let allowed = extra + DType::F32.unit_roundoff() * (16.0 * raw + 4.0 * (slope * distance + largest) + 64.0);
    let mut used: f64 = 0.0;
    for ((index, &wanted), &found) in exact.indexed_iter().zip(got) {
        let error = if wanted == found { 0.0 } else { (wanted - found).abs() };
        // NaN is within no bound.
        let within = error <= allowed;
        if !within {
            return Err(format!("log-sum-exp at {index:?}: {found} instead of {wanted}, allowed {allowed:.3e}"));
        }
        used = used.max(error / allowed);
    }
    Ok(used)
}

/// Where two finite arrays differ most, and by how much.
fn largest_difference(a: &Array4<f64>, b: &Array4<f64>) -> ((usize, usize, usize, usize), f64) {
    let differences = a.indexed_iter().zip(b).map(|((index, x), y)| (index, (x - y).abs()));
    differences.max_by(|x, y| x.1.total_cmp(&y.1)).expect("tensors of a problem are not empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(values: [f64; 2]) -> Array4<f64> {
        Array4::from_shape_vec([1, 1, 1, 2], values.to_vec()).unwrap()
    }

    #[test]
    fn twice_the_plain_error_is_accepted_and_more_is_not() {
        let (exact, plain) = (array([1.0, 0.5]), array([1.01, 0.5]));
        assert!(judge(DType::F32, Budget::RULE, &exact, &plain, &array([1.0, 0.52])).is_ok());
        let refusal = judge(DType::F32, Budget::RULE, &exact, &plain, &array([1.0, 0.521])).unwrap_err();
        assert!(refusal.contains("(0, 0, 0, 1)") && refusal.contains("plain"), "{refusal}");
    }

    #[test]
    fn the_floor_is_the_rounding_of_the_type() {
        let exact = array([1.0, 0.5]);
        let near = array([1.0 + 1e-3, 0.5]);
        assert!(judge(DType::BF16, Budget::RULE, &exact, &exact, &near).is_ok());
        assert!(judge(DType::F32, Budget::RULE, &exact, &exact, &near).is_err());
    }

    #[test]
    fn nan_and_infinity_are_refused_whatever_the_budget() {
        let (exact, plain) = (array([1.0, 0.5]), array([9.0, 9.0]));
        for bad in [f64::NAN, f64::INFINITY] {
            assert!(judge(DType::F32, Budget::RULE, &exact, &plain, &array([bad, 0.5])).is_err());
            assert!(judge(DType::F32, Budget::RULE, &exact, &plain, &array([0.5, bad])).is_err());
        }
    }
}
