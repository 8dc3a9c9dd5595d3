//! Optimizer arithmetic on whole lists of tensors, one call each: AdamW's step, the norm of all gradients. And the same
//! step on state of fewer bits ([`adamw_low`]), rounded by random bits that are counted, not drawn ([`Draws`]).

use std::ffi::c_char;

use tch::Tensor;
use torch_sys::C_tensor;

use crate::message;

mod blockwise;
pub mod low;
mod random;
mod rounding;

pub use blockwise::Codebook;
pub use low::{LowMoments, LowPart, Quantised, adamw_low};
pub use random::{Draws, Use};
pub use rounding::stochastic_bf16;

/// Why a call on a list of tensors was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptimError {
    /// Every parameter has one gradient, mean and square.
    #[error("{parameters} parameters came with {given} {what}")]
    Count {
        /// Name of the other list.
        what: &'static str,
        /// Length of the list of parameters.
        parameters: usize,
        /// Length of the other list.
        given: usize,
    },
    /// Bias correction divides by zero before the first step.
    #[error("AdamW's steps are counted from 1, got 0")]
    StepZero,
    /// In libtorch's words, or in ours where a tensor does not match its parameter: nothing was changed then.
    #[error("{0}")]
    Refused(String),
}

/// Parameters that are updated alike: lists of equal length; place `i` of each belongs together.
///
/// All are contiguous, of one floating-point type and on one device, and have the shape of their parameter.
#[derive(Debug, Clone, Copy)]
pub struct AdamWGroup<'a> {
    /// What is moved.
    pub parameters: &'a [&'a Tensor],
    /// Overwritten with their scaled values where [`AdamWStep::gradient_scale`] is not 1.
    pub gradients: &'a [&'a Tensor],
    /// Running means of the gradients.
    pub means: &'a [&'a Tensor],
    /// Running means of their squares.
    pub squares: &'a [&'a Tensor],
}

/// Numbers of one step of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// This step's number, counted from 1, for bias correction. Rounded to float32, where it has converged long before.
    pub step: u64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the mean, 0 to 1.
    pub beta1: f64,
    /// Decay of the mean square, 0 to 1.
    pub beta2: f64,
    /// Decoupled decay: parameters are first multiplied by `1 - learning_rate * weight_decay`.
    pub weight_decay: f64,
    /// Added to the root of the corrected mean square.
    pub epsilon: f64,
    /// Gradients are multiplied by this first, through its float32 inverse; 1 leaves them untouched.
    pub gradient_scale: f64,
}

/// Laid out as `bowline_adamw_numbers` in `shim/optim.cpp`.
#[repr(C)]
struct Numbers {
    step: f64,
    learning_rate: f64,
    beta1: f64,
    beta2: f64,
    weight_decay: f64,
    epsilon: f64,
    gradient_divisor: f64,
}

impl From<&AdamWStep> for Numbers {
    fn from(step: &AdamWStep) -> Self {
        Self {
            step: step.step as f64,
            learning_rate: step.learning_rate,
            beta1: step.beta1,
            beta2: step.beta2,
            weight_decay: step.weight_decay,
            epsilon: step.epsilon,
            // As the kernel reads it; a scale too small for float32 becomes a division by infinity, hence zeros.
            gradient_divisor: f64::from((1.0 / step.gradient_scale) as f32),
        }
    }
}

// Defined in `shim/optim.cpp`. Tensors are pointers to libtorch's own handles, which is what tch holds; none is kept.
unsafe extern "C" {
    fn bowline_fused_adamw(
        count: usize,
        parameters: *const *const C_tensor,
        gradients: *const *const C_tensor,
        means: *const *const C_tensor,
        squares: *const *const C_tensor,
        numbers: *const Numbers,
    ) -> *mut c_char;
    fn bowline_global_norm(count: usize, tensors: *const *const C_tensor, norm: *mut f64) -> *mut c_char;
    fn bowline_changed(count: usize, tensors: *const *const C_tensor) -> *mut c_char;
}

/// One step of AdamW (Loshchilov and Hutter 2019, algorithm 2) on a whole group, by libtorch's fused kernels.
///
/// Nothing is recorded for gradients.
///
/// # Errors
///
/// When the lists do not match, the step is 0, or libtorch has no such kernel or no memory.
pub fn fused_adamw(group: &AdamWGroup<'_>, step: &AdamWStep) -> Result<(), OptimError> {
    let parameters = group.parameters.len();
    for (what, list) in [("gradients", group.gradients), ("means", group.means), ("squares", group.squares)] {
        if list.len() != parameters {
            return Err(OptimError::Count { what, parameters, given: list.len() });
        }
    }
    if step.step == 0 {
        return Err(OptimError::StepZero);
    }
    if parameters == 0 {
        return Ok(());
    }
    let [of_parameters, of_gradients, of_means, of_squares] =
        [group.parameters, group.gradients, group.means, group.squares].map(handles);
    // SAFETY: four lists of `parameters` live tensors each, and numbers that outlive the call.
    taken(unsafe {
        bowline_fused_adamw(
            parameters,
            of_parameters.as_ptr(),
            of_gradients.as_ptr(),
            of_means.as_ptr(),
            of_squares.as_ptr(),
            &Numbers::from(step),
        )
    })
}

/// Euclidean norm of all numbers of all `tensors`, which are on one device; 0 for none.
///
/// # Errors
///
/// When a tensor is undefined, not of floating point, or on another device than the first.
pub fn global_norm(tensors: &[&Tensor]) -> Result<f64, OptimError> {
    let mut norm = 0.0;
    if tensors.is_empty() {
        return Ok(norm);
    }
    // SAFETY: a list of live tensors with its length, and a number to write to.
    taken(unsafe { bowline_global_norm(tensors.len(), handles(tensors).as_ptr(), &raw mut norm) })?;
    Ok(norm)
}

/// Says that tensors were written to without libtorch: a backward pass that has kept their former numbers is refused then,
/// as after a change in place by libtorch itself.
pub(crate) fn changed(tensors: &[&Tensor]) -> Result<(), OptimError> {
    // SAFETY: a list of live tensors with its length.
    taken(unsafe { bowline_changed(tensors.len(), handles(tensors).as_ptr()) })
}

fn handles(tensors: &[&Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(|tensor| tensor.as_ptr()).collect()
}

/// The shim's answer.
fn taken(answer: *mut c_char) -> Result<(), OptimError> {
    message::taken(answer).map_or(Ok(()), |text| Err(OptimError::Refused(text)))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    const STEP: AdamWStep = AdamWStep {
        step: 3,
        learning_rate: 0.01,
        beta1: 0.9,
        beta2: 0.95,
        weight_decay: 0.1,
        epsilon: 1e-8,
        gradient_scale: 0.25,
    };

    /// Parameter, gradient, mean and square, each of one value.
    fn tensors(shape: &[i64], kind: Kind) -> [Tensor; 4] {
        [2.0, 0.8, 0.3, 0.5].map(|value| Tensor::full(shape, value, (kind, Device::Cpu)))
    }

    fn step_on([parameter, gradient, mean, square]: &[Tensor; 4], step: &AdamWStep) -> Result<(), OptimError> {
        let group = AdamWGroup { parameters: &[parameter], gradients: &[gradient], means: &[mean], squares: &[square] };
        fused_adamw(&group, step)
    }

    #[test]
    fn a_step_is_the_papers_with_the_gradient_multiplied_by_its_scale() {
        let given = tensors(&[3, 7], Kind::Double);
        step_on(&given, &STEP).unwrap();
        let gradient: f64 = 0.8 * 0.25;
        let mean = 0.9 * 0.3 + 0.1 * gradient;
        let square = 0.95 * 0.5 + 0.05 * gradient * gradient;
        let corrected = (mean / (1.0 - 0.9_f64.powi(3)), square / (1.0 - 0.95_f64.powi(3)));
        let parameter = 2.0 * (1.0 - 0.01 * 0.1) - 0.01 * corrected.0 / (corrected.1.sqrt() + 1e-8);
        for (tensor, expected) in given.iter().zip([parameter, gradient, mean, square]) {
            let off = (tensor - expected).abs().max().double_value(&[]);
            assert!(off < 1e-15, "{off} from {expected}");
        }
    }

    #[test]
    fn a_step_moves_leaves_that_want_gradients_and_records_nothing() {
        let [parameter, gradient, mean, square] = tensors(&[5], Kind::Float);
        let parameter = parameter.set_requires_grad(true);
        step_on(&[parameter.shallow_clone(), gradient, mean, square], &STEP).unwrap();
        assert!(parameter.is_leaf() && parameter.double_value(&[0]) < 2.0);
    }

    #[test]
    fn a_scale_of_zero_is_a_gradient_of_zero() {
        let given = tensors(&[9], Kind::Float);
        step_on(&given, &AdamWStep { gradient_scale: 0.0, ..STEP }).unwrap();
        assert_eq!(given[1].abs().max().double_value(&[]), 0.0);
        assert!((given[2].double_value(&[0]) - 0.27).abs() < 1e-6);
    }

    #[test]
    fn what_the_kernel_would_misread_is_refused_before_anything_moves() {
        let refused = |change: fn(&mut [Tensor; 4]), words: &str| {
            let mut given = tensors(&[4, 6], Kind::Float);
            change(&mut given);
            let message = step_on(&given, &STEP).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
            assert_eq!(given[0].double_value(&[0, 0]), 2.0);
        };
        refused(|given| given[1] = given[1].narrow(0, 0, 3), "gradient 0 is Float[3, 6]");
        refused(|given| given[1] = given[1].view([6, 4]).tr(), "gradient 0 of shape [4, 6] is not contiguous");
        refused(|given| given[2] = given[2].to_kind(Kind::Double), "mean 0 is Double[4, 6]");
        refused(|given| given[3] = Tensor::new(), "square 0 is undefined");
    }

    #[test]
    fn moments_of_another_type_than_their_parameter_are_refused() {
        let [_, _, mean, square] = tensors(&[4], Kind::Float);
        let [parameter, gradient, ..] = tensors(&[4], Kind::BFloat16);
        let message = step_on(&[parameter, gradient, mean, square], &STEP).unwrap_err().to_string();
        assert!(message.contains("its parameter BFloat16"), "{message}");
    }

    #[test]
    fn lists_of_unequal_length_and_step_zero_are_refused_and_no_parameter_is_no_work() {
        let [parameter, ..] = tensors(&[2], Kind::Float);
        let group = AdamWGroup { parameters: &[&parameter], gradients: &[], means: &[], squares: &[] };
        let expected = OptimError::Count { what: "gradients", parameters: 1, given: 0 };
        assert_eq!(fused_adamw(&group, &STEP), Err(expected));
        let nothing = AdamWGroup { parameters: &[], ..group };
        assert_eq!(fused_adamw(&nothing, &STEP), Ok(()));
        assert_eq!(fused_adamw(&nothing, &AdamWStep { step: 0, ..STEP }), Err(OptimError::StepZero));
    }

    #[test]
    fn the_global_norm_is_that_of_all_numbers_together() {
        let (twos, ones) =
            (Tensor::full([3, 4], 2.0, (Kind::Float, Device::Cpu)), Tensor::ones([52], (Kind::Float, Device::Cpu)));
        assert!((global_norm(&[&twos, &ones]).unwrap() - 10.0).abs() < 1e-6);
        assert_eq!(global_norm(&[]), Ok(0.0));
        assert!(global_norm(&[&(ones * f64::NAN), &twos]).unwrap().is_nan());
        assert!(global_norm(&[&Tensor::new()]).is_err());
    }

    #[test]
    fn the_norm_of_many_numbers_is_not_rounded_on_the_way() {
        let long = Tensor::full([3_000_000], 0.1, (Kind::Float, Device::Cpu));
        let exact = f64::from(0.1_f32) * 3e6_f64.sqrt();
        let off = (global_norm(&[&long]).unwrap() / exact - 1.0).abs();
        assert!(off < 1e-6, "relative error {off}");
        // Between two bfloat16 values: 257 ones.
        let brief = Tensor::ones([257 * 257], (Kind::BFloat16, Device::Cpu));
        assert!((global_norm(&[&brief]).unwrap() - 257.0).abs() < 1e-3);
    }
}
