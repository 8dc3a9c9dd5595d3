//! Steps of AdamW (Loshchilov and Hutter 2019, algorithm 2) by kernels: each number that is kept is read once and written
//! once.
//!
//! [`low()`] leaves the very bits that [`crate::optim::adamw_low`] leaves on the CPU: the same operations in the same order,
//! each rounded, the same random bits and the same maps. [`mixed`] moves float32 weights by the same operations and writes
//! them, rounded, where the model reads them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, TchError, Tensor};

use super::FusedError;
use super::kernel::{self, Element, Kernel, Pass, Spec};
use super::machine::{Machine, OnDevice, Parameters, Use};
use super::tensors::{address, blocks, is_aligned, unfit};
use crate::optim::low::{self, BLOCK, Numbers};
use crate::optim::{AdamWStep, Codebook, Draws, LowMoments, LowPart, changed};

const OPERATION: &str = "adamw";

/// A parameter of 16 bits, or a part of one, and what belongs to it. All are contiguous and on one device.
#[derive(Debug, Clone, Copy)]
pub struct MixedPart<'a> {
    /// What is moved, float32.
    pub master: &'a Tensor,
    /// bfloat16 or float16: becomes `master`, rounded to nearest.
    pub parameter: &'a Tensor,
    /// Float32, or in the parameter's type. Not changed.
    pub gradient: &'a Tensor,
    /// Running mean of the gradient, float32.
    pub mean: &'a Tensor,
    /// Running mean of its square, float32.
    pub square: &'a Tensor,
}

/// As `Params` in `adamw_params.cuh`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Params {
    weights: u64,
    copy: u64,
    gradients: u64,
    means: u64,
    squares: u64,
    mean_scales: u64,
    square_scales: u64,
    values: u64,
    middles: u64,
    count: i64,
    first: i64,
    seed: u64,
    step: u32,
    parameter: u32,
    scale: f32,
    beta1: f32,
    take1: f32,
    beta2: f32,
    take2: f32,
    keep: f32,
    rate: f32,
    root: f32,
    epsilon: f32,
    padding: i32,
}

// SAFETY: laid out as the text has it, without holes: 9 addresses, three numbers of 64 bits and twelve of 32.
unsafe impl Parameters for Params {
    const POINTERS: u32 = 9;
}

impl From<&Numbers> for Params {
    fn from(n: &Numbers) -> Self {
        let Numbers { scale, beta1, take1, beta2, take2, keep, rate, root, epsilon } = *n;
        Self { scale, beta1, take1, beta2, take2, keep, rate, root, epsilon, ..Self::default() }
    }
}

/// The kernel for a part on state of fewer bits; none if there is none.
#[must_use]
pub fn kernel_of_low(part: &LowPart<'_>) -> Option<Kernel> {
    let moments = match part.moments {
        LowMoments::Bfloat16 { .. } => kernel::Moments::Bf16,
        LowMoments::Int8 { .. } => kernel::Moments::Int8,
    };
    let element = Element::of(part.parameter.kind()).filter(|element| *element != Element::F16)?;
    let single_gradients = match part.gradient.kind() {
        Kind::Float => true,
        Kind::BFloat16 => false,
        _ => return None,
    };
    Some(Kernel::of(Spec { pass: Pass::AdamW { moments, single_gradients }, element, group: 0 }))
}

/// The kernel for a part in mixed precision; none if there is none.
#[must_use]
pub fn kernel_of_mixed(part: &MixedPart<'_>) -> Option<Kernel> {
    let element = Element::of(part.parameter.kind()).filter(|element| *element != Element::F32)?;
    let single_gradients = match part.gradient.kind() {
        Kind::Float => true,
        kind if kind == element.kind() => false,
        _ => return None,
    };
    let pass = Pass::AdamW { moments: kernel::Moments::Mixed, single_gradients };
    Some(Kernel::of(Spec { pass, element, group: 0 }))
}

/// [`low()`] on the part's device where the kernel may be used and takes the part; false: nothing was done.
///
/// # Errors
///
/// What the device says.
pub fn low_where_used(part: &LowPart<'_>, step: &AdamWStep, draws: &Draws, wish: Use) -> Result<bool, FusedError> {
    let machine = kernel_of_low(part).and_then(|kernel| OnDevice::of(part.parameter, &[&kernel], wish));
    machine.map_or(Ok(false), |machine| done(low(&machine, part, step, draws)))
}

/// [`mixed`] on the part's device where the kernel may be used and takes the part; false: nothing was done.
///
/// # Errors
///
/// What the device says.
pub fn mixed_where_used(part: &MixedPart<'_>, step: &AdamWStep, wish: Use) -> Result<bool, FusedError> {
    let machine = kernel_of_mixed(part).and_then(|kernel| OnDevice::of(part.master, &[&kernel], wish));
    machine.map_or(Ok(false), |machine| done(mixed(&machine, part, step)))
}

/// Whether a step took place: tensors that a kernel does not take are left as they were.
fn done(outcome: Result<(), FusedError>) -> Result<bool, FusedError> {
    match outcome {
        Ok(()) => Ok(true),
        Err(FusedError::Unfit { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// [`crate::optim::adamw_low`] by the kernel on `machine`.
///
/// # Errors
///
/// When a tensor does not fit, is not in one piece or begins askew: nothing was changed then; what the machine says.
pub fn low<M: Machine>(machine: &M, part: &LowPart<'_>, step: &AdamWStep, draws: &Draws) -> Result<(), FusedError> {
    low::check(part).or_else(|error| unfit(OPERATION, format!("takes no such part: {error}")))?;
    let Some(kernel) = kernel_of_low(part) else {
        return unfit(OPERATION, "has no kernel for these types");
    };
    let mut params = Params {
        weights: address(part.parameter),
        gradients: address(part.gradient),
        first: i64::try_from(part.first).or_else(|_| unfit(OPERATION, "counts no further than 2^63"))?,
        seed: draws.seed,
        step: draws.step as u32,
        parameter: draws.parameter,
        ..Params::from(&Numbers::from(step))
    };
    let maps;
    let mut tensors = vec![part.parameter, part.gradient];
    match part.moments {
        LowMoments::Bfloat16 { mean, square } => {
            (params.means, params.squares) = (address(mean), address(square));
            tensors.extend([mean, square]);
        }
        LowMoments::Int8 { mean, square } => {
            (params.means, params.squares) = (address(mean.codes), address(square.codes));
            (params.mean_scales, params.square_scales) = (address(mean.scales), address(square.scales));
            maps = maps_on(part.parameter.device())?;
            (params.values, params.middles) = (address(&maps.0), address(&maps.1));
            tensors.extend([mean.codes, mean.scales, square.codes, square.scales, &maps.0, &maps.1]);
        }
    }
    run(machine, &kernel, step, params, &tensors)?;
    Ok(changed(&[part.parameter])?)
}

/// One step in mixed precision by the kernel on `machine`.
///
/// # Errors
///
/// As [`low()`].
pub fn mixed<M: Machine>(machine: &M, part: &MixedPart<'_>, step: &AdamWStep) -> Result<(), FusedError> {
    let MixedPart { master, parameter, gradient, mean, square } = *part;
    let Some(kernel) = kernel_of_mixed(part) else {
        return unfit(OPERATION, "has no kernel for these types");
    };
    for (name, tensor, kind) in [
        ("master", master, Kind::Float),
        ("parameter", parameter, parameter.kind()),
        ("gradient", gradient, gradient.kind()),
        ("mean", mean, Kind::Float),
        ("square", square, Kind::Float),
    ] {
        let fits = tensor.kind() == kind && tensor.numel() == master.numel() && tensor.is_contiguous();
        if !fits || tensor.device() != master.device() {
            let (found, count, expected) = (tensor.kind(), tensor.numel(), master.numel());
            let reason =
                format!("takes a {name} of {expected} numbers of {kind:?} in one piece, not {count} of {found:?}");
            return unfit(OPERATION, reason);
        }
    }
    let params = Params {
        weights: address(master),
        copy: address(parameter),
        gradients: address(gradient),
        means: address(mean),
        squares: address(square),
        ..Params::from(&Numbers::from(step))
    };
    run(machine, &kernel, step, params, &[master, parameter, gradient, mean, square])?;
    Ok(changed(&[master, parameter])?)
}

/// Starts a kernel on tensors of which the first is what is moved.
fn run<M: Machine>(
    machine: &M,
    kernel: &Kernel,
    step: &AdamWStep,
    params: Params,
    tensors: &[&Tensor],
) -> Result<(), FusedError> {
    if step.step == 0 {
        return unfit(OPERATION, "counts its steps from 1");
    }
    let count = tensors[0].numel();
    // Scales and maps, of another count, are read number by number.
    if tensors.iter().any(|tensor| tensor.numel() == count && !is_aligned(tensor)) {
        return unfit(OPERATION, "takes tensors that begin at multiples of 16 bytes");
    }
    if count == 0 {
        return Ok(());
    }
    // A warp has a block at a time; no more of them than the device runs at once, a few times over.
    let enough = count.div_ceil(BLOCK).div_ceil(kernel.warps);
    let grid = enough.min(8 * kernel.resident(machine.multiprocessors()));
    let grid = blocks(OPERATION, i64::try_from(grid).unwrap_or(i64::MAX))?;
    let params = Params { count: i64::try_from(count).unwrap_or(i64::MAX), ..params };
    // SAFETY: the kernel takes `Params`. Its addresses are of the tensors that come along, each in one piece, on one device, and
    // of as many numbers, blocks or values of the maps as was checked.
    unsafe { machine.launch(kernel, [grid, 1, 1], &params, tensors) }
}

/// Values and middles of the signed and the unsigned map, `[512]` each, on a device; sent there once.
fn maps_on(device: Device) -> Result<(Tensor, Tensor), TchError> {
    static SENT: Mutex<Option<HashMap<Place, (Tensor, Tensor)>>> = Mutex::new(None);
    let mut sent = SENT.lock().unwrap_or_else(PoisonError::into_inner);
    let sent = sent.get_or_insert_default();
    let shared = |(values, middles): &(Tensor, Tensor)| (values.shallow_clone(), middles.shallow_clone());
    if let Some(found) = sent.get(&Place::of(device)) {
        return Ok(shared(found));
    }
    let books = [Codebook::signed(), Codebook::unsigned()];
    let values: Vec<f32> = books.iter().flat_map(|book| *book.values()).collect();
    let middles: Vec<f32> =
        books.iter().flat_map(|book| book.middles().iter().copied().chain([f32::INFINITY])).collect();
    let on_device = |numbers: &[f32]| Tensor::f_from_slice(numbers)?.f_to_device(device);
    let both = (on_device(&values)?, on_device(&middles)?);
    let answer = shared(&both);
    sent.insert(Place::of(device), both);
    Ok(answer)
}

/// A device as a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place(Option<usize>);

impl Place {
    fn of(device: Device) -> Self {
        match device {
            Device::Cuda(ordinal) => Self(Some(ordinal)),
            _ => Self(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_no_holes_and_the_maps_are_sent_once() {
        assert_eq!(size_of::<Params>(), 9 * 8 + 3 * 8 + 12 * 4);
        let (values, middles) = maps_on(Device::Cpu).unwrap();
        assert_eq!((values.numel(), middles.numel()), (512, 512));
        assert_eq!(values.data_ptr(), maps_on(Device::Cpu).unwrap().0.data_ptr());
    }
}
