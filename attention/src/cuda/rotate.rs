//! Rotary position embedding of a tensor in place (Su et al. 2021, equation 15), and back, which is its gradient.

use tch::{Device, Kind, Tensor};
use torch_ext::cuda::{self, Arch, CudaError, Launch, TableKernel};

use super::backend::{MOST_BLOCKS, address, is_readable};
use super::kernels::rotation;
use super::params::{MAX_LENGTH, Params, Strides};
use super::ready::{manifest, ready};
use crate::error::{AttnError, DType};
use crate::tensors::dtype_of;

/// Pairs of channels that a thread turns.
const PAIRS_OF_A_THREAD: i64 = 8;

/// Why a rotation in place on CUDA did not take place.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// `x` is on no CUDA device, or the angles are elsewhere.
    #[error("rotation in place on CUDA takes tensors on one CUDA device; {tensor} is on {found:?}")]
    Device {
        /// `x` or `angles`.
        tensor: &'static str,
        /// Where it is.
        found: Device,
    },
    /// An element type without a kernel.
    #[error("rotation in place on CUDA takes float32, bfloat16 or float16 and float32 angles; {tensor} is {found:?}")]
    Kind {
        /// `x` or `angles`.
        tensor: &'static str,
        /// Its type.
        found: Kind,
    },
    /// Shapes that do not belong together.
    #[error(
        "rotation in place takes x [batch, heads, length, head_dim] and angles [length, pairs, 2] with 2 * pairs at most \
         head_dim; x is {x:?} and angles {angles:?}"
    )]
    Dims {
        /// Shape of `x`.
        x: Vec<i64>,
        /// Shape of the angles.
        angles: Vec<i64>,
    },
    /// The kernel turns pairs by eights.
    #[error("rotation in place on CUDA takes pairs in multiples of {PAIRS_OF_A_THREAD}, not {pairs}")]
    Pairs {
        /// Pairs of channels.
        pairs: i64,
    },
    /// Elements that the kernel cannot write where they lie, or angles that are not in one piece.
    #[error(
        "rotation in place on CUDA takes rows in one piece that begin at multiples of 16 bytes and share no element, and \
         contiguous angles; {tensor} has strides {strides:?}"
    )]
    Layout {
        /// `x` or `angles`.
        tensor: &'static str,
        /// Its strides.
        strides: Vec<i64>,
    },
    /// More than the kernel counts.
    #[error("rotation in place on CUDA does not take as many sequences, heads or positions as {dims:?}")]
    Size {
        /// Shape of `x`.
        dims: Vec<i64>,
    },
    /// The kernel could not be compiled or started.
    #[error("the CUDA kernel could not rotate {dims:?}: {source}")]
    Cuda {
        /// Shape of `x`.
        dims: Vec<i64>,
        /// What stood in the way.
        source: CudaError,
    },
}

/// Rotates `x` `[batch, heads, length, head_dim]` where it lies, channel `c < pairs` with channel `c + pairs`, computed in
/// float32 and rounded once; later channels stay. `angles` `[length, pairs, 2]` has cosine and sine of each position, times
/// the attention factor if there is one, in float32. `inverse` turns the other way. The graph is told nothing.
///
/// The work is put on libtorch's current stream.
///
/// # Errors
///
/// [`AttnError::Rotation`], for tensors that the kernel does not take before anything is written.
pub fn rotate(x: &mut Tensor, angles: &Tensor, inverse: bool) -> Result<(), AttnError> {
    let Device::Cuda(ordinal) = x.device() else {
        return Err(RotateError::Device { tensor: "x", found: x.device() }.into());
    };
    let params = rotation_params(x, angles, inverse)?;
    if x.numel() == 0 || params.pairs == 0 {
        return Ok(());
    }
    let failed = |source| RotateError::Cuda { dims: x.size(), source };
    let unknown = || RotateError::Kind { tensor: "x", found: x.kind() };
    let spec = dtype_of(x.kind()).and_then(rotation).ok_or_else(unknown)?.spec;
    let device = cuda::Device::get(ordinal).map_err(failed)?;
    let (kernel, code) = ready(device, spec).map_err(failed)?.ok_or_else(unknown)?;
    let launch = Launch { grid: kernel.grid(&params), block: [kernel.threads(), 1, 1], shared_bytes: 0 };
    // SAFETY: the function takes `Params`, whose layout a test compares with the text of the kernels. Its addresses are of
    // tensors on this device of the shapes, types and strides that it is told, checked above, and allocated on the current
    // stream, so that one which goes out of scope is not used again before what is on the stream has run.
    unsafe { code.launch(&launch, &params) }.map_err(failed)?;
    Ok(())
}

/// What the kernel is told to rotate `x` by `angles`, as [`rotate`] takes them, wherever they both are; an error where it
/// cannot.
///
/// # Errors
///
/// Every [`RotateError`] but [`RotateError::Cuda`].
pub fn rotation_params(x: &Tensor, angles: &Tensor, inverse: bool) -> Result<Params, RotateError> {
    if dtype_of(x.kind()).and_then(rotation).is_none() {
        return Err(RotateError::Kind { tensor: "x", found: x.kind() });
    }
    if angles.kind() != Kind::Float {
        return Err(RotateError::Kind { tensor: "angles", found: angles.kind() });
    }
    if angles.device() != x.device() {
        return Err(RotateError::Device { tensor: "angles", found: angles.device() });
    }
    let ([batch, heads, length, head_dim], pairs) = sizes(x, angles)?;
    let strides = written(x)?;
    if !angles.is_contiguous() || angles.is_neg() {
        return Err(RotateError::Layout { tensor: "angles", strides: angles.stride() });
    }
    let within = |n: i64, most: usize| {
        let small = i32::try_from(n).ok().filter(|_| n.unsigned_abs() <= most as u64);
        small.ok_or_else(|| RotateError::Size { dims: x.size() })
    };
    // Threads of a head are counted in 32 bits.
    within(length.saturating_mul(pairs / PAIRS_OF_A_THREAD), MAX_LENGTH)?;
    Ok(Params {
        q: address(x),
        q_strides: strides,
        angles: address(angles),
        batch: within(batch, MOST_BLOCKS)?,
        query_heads: within(heads, MOST_BLOCKS)?,
        query_len: within(length, MAX_LENGTH)?,
        head_dim: within(head_dim, MAX_LENGTH)?,
        pairs: within(pairs, MAX_LENGTH)?,
        inverse: i32::from(inverse),
        ..Params::default()
    })
}

/// The dimensions of `x`, and pairs.
fn sizes(x: &Tensor, angles: &Tensor) -> Result<([i64; 4], i64), RotateError> {
    let wrong = || RotateError::Dims { x: x.size(), angles: angles.size() };
    let dims: [i64; 4] = x.size().try_into().map_err(|_| wrong())?;
    let &[positions, pairs, 2] = &angles.size()[..] else { return Err(wrong()) };
    if positions != dims[2] || 2 * pairs > dims[3] {
        return Err(wrong());
    }
    if pairs % PAIRS_OF_A_THREAD != 0 {
        return Err(RotateError::Pairs { pairs });
    }
    Ok((dims, pairs))
}

/// The steps of a tensor of four dimensions that the kernel can write where it lies.
fn written(x: &Tensor) -> Result<Strides, RotateError> {
    match x.stride()[..] {
        [batch, head, row, _] if is_readable(x) && is_disjoint(&x.size(), &x.stride()) => {
            Ok(Strides { batch, head, row })
        }
        _ => Err(RotateError::Layout { tensor: "x", strides: x.stride() }),
    }
}

/// Whether the rotation of a type passed its cases on a device of this architecture, in the text that this build has. Only
/// then may it be chosen without being asked for.
#[must_use]
pub fn rotation_verified(dtype: DType, arch: Arch) -> bool {
    rotation(dtype).is_some_and(|kernel| manifest().holds(&kernel.name(), arch))
}

/// Whether no two places of a tensor are one element: each step is at least as long as all that smaller steps reach.
fn is_disjoint(dims: &[i64], strides: &[i64]) -> bool {
    let mut steps: Vec<(i64, i64)> =
        strides.iter().copied().zip(dims.iter().copied()).filter(|&(_, dim)| dim > 1).collect();
    steps.sort_unstable();
    let mut reach = 1;
    steps.into_iter().all(|(stride, dim)| {
        let apart = stride >= reach;
        reach = stride.saturating_mul(dim - 1).saturating_add(reach);
        apart
    })
}

#[cfg(test)]
#[path = "rotate_tests.rs"]
mod tests;
