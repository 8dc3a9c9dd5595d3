//! What can go wrong between a checked problem and its answer.

use std::fmt;

use crate::problem::ProblemError;

/// Element types that a backend may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE double.
    F64,
    /// IEEE single.
    F32,
    /// bfloat16.
    BF16,
    /// IEEE half.
    F16,
}

impl DType {
    /// Largest relative error of rounding to this type: half a unit in the last place.
    #[must_use]
    pub fn unit_roundoff(self) -> f64 {
        let bits = match self {
            Self::F64 => 53,
            Self::F32 => 24,
            Self::BF16 => 8,
            Self::F16 => 11,
        };
        0.5_f64.powi(bits)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F64 => "float64",
            Self::F32 => "float32",
            Self::BF16 => "bfloat16",
            Self::F16 => "float16",
        })
    }
}

/// A backend's refusal of a problem: who, and for want of what. Not a failure: another backend may take it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("attention backend {backend} does not do {feature}")]
pub struct Unsupported {
    /// The backend that declines.
    pub backend: &'static str,
    /// What the problem has and the backend lacks.
    pub feature: Feature,
}

/// What a problem may have that a backend may lack.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Feature {
    /// An element type.
    DType(DType),
    /// A head size.
    HeadDim(usize),
    /// A kind of mask, by [`crate::Mask::name`].
    Mask(&'static str),
    /// ALiBi.
    Alibi,
    /// A soft cap.
    SoftCap,
    /// Gradients: an input asks for one.
    Gradients,
    /// The log-sum-exp of each row beside the output.
    LogSumExp,
    /// Tensors on a kind of device, by its name.
    Device(String),
    /// Anything else, in words that complete "does not do".
    Other(String),
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DType(dtype) => write!(f, "{dtype}"),
            Self::HeadDim(head_dim) => write!(f, "head size {head_dim}"),
            Self::Mask(name) => write!(f, "the {name} mask"),
            Self::Alibi => f.write_str("ALiBi"),
            Self::SoftCap => f.write_str("a soft cap"),
            Self::Gradients => f.write_str("gradients: run it without gradient tracking, or choose another backend"),
            Self::LogSumExp => f.write_str("the log-sum-exp of this problem"),
            Self::Device(device) => write!(f, "tensors on {device}"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

/// Why attention was not computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttnError {
    /// The problem itself is wrong.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// The backend declines.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// No backend has this name.
    #[error("there is no attention backend {name:?}; this build has {}", known.join(", "))]
    UnknownBackend {
        /// The name asked for.
        name: String,
        /// The names that would do.
        known: Vec<&'static str>,
    },
    /// A tensor's shape is not the problem's.
    #[error("{tensor} has shape {found:?}, the attention problem says {expected:?}")]
    Dims {
        /// `q`, `k`, `v`, `output`, `lse` or `grad_output`.
        tensor: &'static str,
        /// By the problem, as [batch, heads, len, head_dim]; `lse` has no head_dim.
        expected: Vec<usize>,
        /// What came.
        found: Vec<i64>,
    },
    /// q, k and v differ in type, or what goes with them has not the type that follows from theirs.
    #[cfg(feature = "torch")]
    #[error("{tensor} is {found:?} where q is {expected:?}: q, k and v must agree")]
    Kinds {
        /// `k`, `v`, `output` or `grad_output`.
        tensor: &'static str,
        /// Type of q.
        expected: tch::Kind,
        /// What came.
        found: tch::Kind,
    },
    /// q, k and v differ in device.
    #[cfg(feature = "torch")]
    #[error("{tensor} is on {found:?} where q is on {expected:?}: q, k and v must agree")]
    Devices {
        /// Any tensor but q.
        tensor: &'static str,
        /// Device of q.
        expected: tch::Device,
        /// What came.
        found: tch::Device,
    },
    /// The log-sum-exp has the type of the sums behind it.
    #[cfg(feature = "torch")]
    #[error("lse is {found:?} where q calls for {expected:?}")]
    LseKind {
        /// float64 for float64 inputs, else float32.
        expected: tch::Kind,
        /// What came.
        found: tch::Kind,
    },
    /// A backend's own kernels failed.
    #[error("attention backend {backend} failed for {shape}: {reason}")]
    Kernel {
        /// The backend.
        backend: &'static str,
        /// The problem's sizes.
        shape: crate::AttnShape,
        /// In its words.
        reason: String,
    },
    /// An element type that attention has no name for.
    #[cfg(feature = "torch")]
    #[error("attention works on float64, float32, bfloat16 and float16 tensors, got {kind:?}")]
    NotAFloat {
        /// Type of q.
        kind: tch::Kind,
    },
    /// libtorch's graph could not take the backend's gradients.
    #[cfg(feature = "torch")]
    #[error(transparent)]
    Autograd(#[from] torch_ext::autograd::AutogradError),
    /// A CUDA kernel of ours could not be compiled or started.
    #[cfg(feature = "torch")]
    #[error("CUDA kernels could not compute attention for {shape}: {source}")]
    Cuda {
        /// The problem's sizes.
        shape: crate::AttnShape,
        /// What stood in the way.
        source: torch_ext::cuda::CudaError,
    },
    /// A rotation in place on CUDA did not take place.
    #[cfg(feature = "torch")]
    #[error(transparent)]
    Rotation(#[from] crate::cuda::RotateError),
    /// libtorch refused or failed (out of memory, for one).
    #[cfg(feature = "torch")]
    #[error("libtorch could not compute attention for {shape}: {source}")]
    Torch {
        /// The problem's sizes.
        shape: crate::AttnShape,
        /// In libtorch's words.
        source: tch::TchError,
    },
}
