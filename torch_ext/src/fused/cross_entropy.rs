//! Cross-entropy of rows of logits in place: losses, and the gradient where the logits were.
//!
//! For whoever computes logits a chunk of rows at a time: a chunk's logits become the gradient by them in the pass that finds
//! its losses, and the two products that need it follow while it is in the cache.

use tch::{Kind, Tensor};

use super::FusedError;
use super::kernel::{Element, Kernel, Pass, Spec};
use super::machine::{Machine, OnDevice, Parameters, Use};
use super::tensors::{address, address_of, blocks, dense, element, empty, is_aligned, unfit};

const OPERATION: &str = "cross_entropy";

/// What is asked of rows of logits.
#[derive(Debug, Clone, Copy)]
pub struct Targets<'a> {
    /// `[rows]`, int64: the column that should be likely.
    pub columns: &'a Tensor,
    /// Rows with this target count for nothing, and rows of weight zero.
    pub ignored: i64,
    /// `[rows]`, float32: weights of the rows in the gradient.
    pub weights: Option<&'a Tensor>,
    /// Factor on every gradient; none leaves the logits alone.
    pub gradient: Option<f64>,
}

/// As `Params` in `cross_entropy_params.cuh`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Params {
    logits: u64,
    targets: u64,
    weights: u64,
    losses: u64,
    rows: i64,
    stride: i64,
    ignored: i64,
    scale: f32,
    columns: i32,
    gradient: i32,
    padding: i32,
}

// SAFETY: laid out as the text has it, without holes: 4 addresses, three numbers of 64 bits and four of 32.
unsafe impl Parameters for Params {
    const POINTERS: u32 = 4;
}

/// The kernel.
#[must_use]
pub fn kernel(element: Element) -> Kernel {
    Kernel::of(Spec { pass: Pass::CrossEntropy, element, group: 0 })
}

/// Losses of rows `[rows]` in nats, float32 and not weighted, of `logits` `[rows, columns]`, which become the gradient by
/// themselves of the weighted sum of losses times the factor. A target that is no column gives a loss of NaN.
///
/// By the kernel where there is one for the device and `wish` allows it, by libtorch's operations otherwise. The graph is
/// told nothing.
///
/// # Errors
///
/// When tensors do not belong together; what libtorch or the device says.
pub fn in_place(logits: &mut Tensor, targets: &Targets<'_>, wish: Use) -> Result<Tensor, FusedError> {
    match where_used(logits, wish) {
        Some(machine) => by_kernel(&machine, logits, targets),
        None => plain(logits, targets),
    }
}

/// The device of logits, where the kernel takes them and may be used.
#[must_use]
pub fn where_used(logits: &Tensor, wish: Use) -> Option<OnDevice> {
    OnDevice::of(logits, &[&kernel(Element::of(logits.kind())?)], wish).filter(|_| is_readable(logits))
}

/// The same by the kernel on `machine`. Rows may be part of longer ones, of which the rest is left alone.
///
/// # Errors
///
/// When tensors do not belong together, or logits cannot be written where they lie; what the machine says.
pub fn by_kernel<M: Machine>(machine: &M, logits: &mut Tensor, targets: &Targets<'_>) -> Result<Tensor, FusedError> {
    let element = element(OPERATION, logits)?;
    let [rows, columns] = check(logits, targets)?;
    if !is_readable(logits) {
        return unfit(OPERATION, format!("in place takes rows in one piece, not strides {:?}", logits.stride()));
    }
    let narrow = |n: i64| i32::try_from(n).or_else(|_| unfit(OPERATION, format!("does not take {n} columns")));
    let columns_of = dense(targets.columns)?;
    let weights = targets.weights.map(dense).transpose()?;
    let losses = empty(&[rows], Kind::Float, logits)?;
    let logits_alone = logits.detach();
    let params = Params {
        logits: address(&logits_alone),
        targets: address(&columns_of),
        weights: address_of(weights.as_ref()),
        losses: address(&losses),
        rows,
        stride: if rows == 1 { columns } else { logits.stride()[0] },
        ignored: targets.ignored,
        scale: targets.gradient.unwrap_or(0.0) as f32,
        columns: narrow(columns)?,
        gradient: i32::from(targets.gradient.is_some()),
        padding: 0,
    };
    let grid = blocks(OPERATION, rows)?;
    if grid > 0 && columns > 0 {
        let tensors: Vec<&Tensor> = [&logits_alone, &columns_of, &losses].into_iter().chain(weights.as_ref()).collect();
        // SAFETY: the kernel takes `Params`. Logits reach as far as `rows` rows of `stride` numbers, of which `columns` are
        // touched; the others are dense and of as many numbers as there are rows.
        unsafe { machine.launch(&kernel(element), [grid, 1, 1], &params, &tensors) }?;
    }
    Ok(losses)
}

/// The same by libtorch's operations, for any floating-point type; takes float32 copies of the logits.
///
/// # Errors
///
/// When tensors do not belong together; what libtorch says.
pub fn plain(logits: &mut Tensor, targets: &Targets<'_>) -> Result<Tensor, FusedError> {
    let [rows, columns] = check(logits, targets)?;
    tch::no_grad(|| {
        let wide = if logits.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let mut counted = targets.columns.f_ne(targets.ignored)?;
        if let Some(weights) = targets.weights {
            counted = counted.f_logical_and(&weights.f_ne(0.0)?)?;
        }
        let inside = targets.columns.f_ge(0)?.f_logical_and(&targets.columns.f_lt(columns)?)?;
        let places = targets.columns.f_clamp(0, (columns - 1).max(0))?.f_unsqueeze(1)?; // [rows, 1]
        let logs = logits.f_detach()?.f_log_softmax(1, wide)?;
        let nan = Tensor::f_full([rows], f64::NAN, (wide, logits.device()))?;
        let losses = logs.f_gather(1, &places, false)?.f_squeeze_dim(1)?.f_neg()?;
        let losses = losses.f_where_self(&inside, &nan)?.f_where_self(&counted, &nan.f_zeros_like()?)?;
        if let Some(scale) = targets.gradient {
            let ones = nan.f_ones_like()?;
            let weights = match targets.weights {
                Some(weights) => weights.f_to_kind(wide)?.f_mul_scalar(scale)?,
                None => ones.f_mul_scalar(scale)?,
            };
            let weights = weights.f_where_self(&inside, &nan)?.f_where_self(&counted, &nan.f_zeros_like()?)?;
            let mut gradient = logs.f_exp()?;
            let _ = gradient.f_scatter_add_(1, &places, &ones.f_neg()?.f_unsqueeze(1)?)?;
            let _ = gradient.f_mul_(&weights.f_unsqueeze(1)?)?;
            // Zero times infinity would be no number where a row does not count.
            let _ = gradient.f_masked_fill_(&counted.f_logical_not()?.f_unsqueeze(1)?, 0.0)?;
            logits.f_copy_(&gradient)?;
        }
        Ok(losses.f_to_kind(Kind::Float)?)
    })
}

/// Whether rows are in one piece each, beside each other.
fn is_readable(logits: &Tensor) -> bool {
    match (&logits.size()[..], &logits.stride()[..]) {
        (&[rows, columns], &[row, column]) => {
            (column == 1 || columns == 1) && (row >= columns || rows == 1) && is_aligned(logits)
        }
        _ => false,
    }
}

/// Rows and columns of tensors that belong together.
fn check(logits: &Tensor, targets: &Targets<'_>) -> Result<[i64; 2], FusedError> {
    let &[rows, columns] = &logits.size()[..] else {
        return unfit(OPERATION, format!("takes logits [rows, columns], not {:?}", logits.size()));
    };
    let beside = |name: &str, tensor: &Tensor, kind: Kind| {
        if tensor.size() == [rows] && tensor.kind() == kind && tensor.device() == logits.device() {
            return Ok(());
        }
        let (found, of) = (tensor.kind(), tensor.size());
        let reason = format!("takes {name} {kind:?}[{rows}] beside logits of {rows} rows, not {found:?}{of:?}");
        unfit(OPERATION, reason)
    };
    beside("targets", targets.columns, Kind::Int64)?;
    targets.weights.map_or(Ok(()), |weights| beside("weights", weights, Kind::Float))?;
    Ok([rows, columns])
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn the_structure_has_no_holes() {
        assert_eq!(size_of::<Params>(), 4 * 8 + 3 * 8 + 4 * 4);
    }

    #[test]
    fn two_logits_by_hand() {
        // softmax(ln 3, 0) = (3/4, 1/4).
        let mut logits = Tensor::from_slice(&[3_f64.ln(), 0.0, 3_f64.ln(), 0.0, 7.0, 7.0, 1.0, 2.0]).view([4, 2]);
        let (columns, weights) =
            (Tensor::from_slice(&[0_i64, 1, -100, 5]), Tensor::from_slice(&[1_f32, 2.0, 1.0, 1.0]));
        let targets = Targets { columns: &columns, ignored: -100, weights: Some(&weights), gradient: Some(0.5) };
        let losses = in_place(&mut logits, &targets, Use::Verified).unwrap();
        let found = Vec::<f32>::try_from(losses).unwrap();
        assert!((found[0] - (4.0_f32 / 3.0).ln()).abs() < 1e-6 && (found[1] - 4_f32.ln()).abs() < 1e-6);
        assert!(found[2] == 0.0 && found[3].is_nan());
        let gradient = Vec::<f64>::try_from(logits.view(-1)).unwrap();
        for (found, expected) in gradient.iter().zip([-0.125, 0.125, 0.75, -0.75, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{gradient:?}");
        }
        assert!(gradient[6].is_nan());
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let zeros = |shape: &[i64], kind| Tensor::zeros(shape, (kind, Device::Cpu));
        let refused = |mut logits: Tensor, columns: Tensor| {
            let targets = Targets { columns: &columns, ignored: -100, weights: None, gradient: None };
            in_place(&mut logits, &targets, Use::Verified).unwrap_err().to_string()
        };
        let message = refused(zeros(&[2, 3], Kind::Float), zeros(&[3], Kind::Int64));
        assert_eq!(message, "cross_entropy takes targets Int64[2] beside logits of 2 rows, not Int64[3]");
        assert!(refused(zeros(&[2, 3], Kind::Float), zeros(&[2], Kind::Int)).contains("not Int[2]"));
        assert!(refused(zeros(&[2, 3, 4], Kind::Float), zeros(&[2], Kind::Int64)).contains("[2, 3, 4]"));
    }
}
