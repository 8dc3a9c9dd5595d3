//! libtorch's own attention (`scaled_dot_product_attention`), differentiable by its autograd.
//!
//! | problem | what libtorch is asked for |
//! |---|---|
//! | everything visible, among them one query over a cache | attention without a mask |
//! | causal, as many queries as keys | its causal path |
//! | any other mask, ALiBi | attention with a dense bias of `query_len x key_len` |
//! | soft cap | matrix products and a softmax of our own, in float32 |
//!
//! Dense biases stay float32 on the CPU, whatever the type of q. libtorch's CUDA kernels want the type of q instead: there
//! a bfloat16 model gets ALiBi rounded to bfloat16, which is coarse beyond some hundred positions.

use std::fmt;

use tch::{Device, Kind, TchError, Tensor};

use crate::backend::{Attended, AttentionBackend};
use crate::dense::Dense;
use crate::error::{AttnError, DType, Feature, Unsupported};
use crate::mask::{Mask, Tile};
use crate::problem::AttnProblem;
use crate::shape::signed;

/// The backend `libtorch`.
#[derive(Debug, Clone, Copy)]
pub struct LibTorch;

/// Which of libtorch's kernels answers a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LibTorchKernel {
    /// Matrix products and a softmax; holds all scores at once.
    Math,
    /// Tiled.
    Flash,
    /// Tiled, with a bias on CUDA.
    Efficient,
    /// cuDNN's.
    CuDnn,
    /// Our matrix products for what it lacks (soft cap).
    Products,
    /// A number that these bindings do not know.
    Other(i64),
}

/// How a problem is put to libtorch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Unmasked,
    Causal,
    Biased,
    Products,
}

impl Way {
    fn of(problem: &AttnProblem) -> Self {
        let shape = problem.shape();
        if problem.soft_cap().is_some() {
            return Self::Products;
        }
        match problem.mask() {
            _ if problem.alibi().is_some() => Self::Biased,
            _ if problem.visibility() == Tile::All => Self::Unmasked,
            // libtorch's causal path has no offset; kernels disagree about unequal lengths, so those go by the bias.
            Mask::Causal { offset: 0 } if shape.query_len == shape.key_len => Self::Causal,
            _ => Self::Biased,
        }
    }
}

impl AttentionBackend for LibTorch {
    fn name(&self) -> &'static str {
        "libtorch"
    }

    fn supports(&self, _problem: &AttnProblem, _dtype: DType) -> Result<(), Unsupported> {
        Ok(())
    }

    fn forward(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, AttnError> {
        let answer = match Way::of(problem) {
            Way::Products => by_products(problem, q, k, v).map(|attended| attended.output),
            way => Asked::new(problem, way, q).and_then(|asked| asked.forward(problem, q, k, v)),
        };
        answer.map_err(|source| AttnError::Torch { shape: *problem.shape(), source })
    }

    fn attend(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Attended, AttnError> {
        let (way, kernel) = (Way::of(problem), self.kernel(problem, q, k, v)?);
        let attended = match kernel {
            LibTorchKernel::Products => by_products(problem, q, k, v),
            LibTorchKernel::Flash if q.device() == Device::Cpu => {
                Asked::new(problem, way, q).and_then(|asked| asked.attend(problem, q, k, v))
            }
            _ => return Err(Unsupported { backend: self.name(), feature: Feature::LogSumExp }.into()),
        };
        attended.map_err(|source| AttnError::Torch { shape: *problem.shape(), source })
    }
}

impl fmt::Display for LibTorchKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Math => f.write_str("matrix products and a softmax"),
            Self::Flash => f.write_str("flash"),
            Self::Efficient => f.write_str("memory-efficient"),
            Self::CuDnn => f.write_str("cuDNN"),
            Self::Products => f.write_str("matrix products and a softmax, with a soft cap"),
            Self::Other(number) => write!(f, "number {number}"),
        }
    }
}

impl LibTorch {
    /// Mask and ALiBi of a problem as libtorch takes them: added to the scores, `[batch or 1, query_heads or 1, query_len,
    /// key_len]` in `kind`, `-inf` where hidden; none where every pair is visible and unbiased.
    ///
    /// # Errors
    ///
    /// [`AttnError::Torch`] when it cannot be held.
    pub fn dense_bias(&self, problem: &AttnProblem, device: Device, kind: Kind) -> Result<Option<Tensor>, AttnError> {
        let dense = Dense::of(problem, device, kind);
        dense.map(|dense| dense.bias).map_err(|source| AttnError::Torch { shape: *problem.shape(), source })
    }

    /// Which kernel [`Backend::forward`](crate::Backend::forward) would run for these tensors.
    ///
    /// # Errors
    ///
    /// As [`Backend::forward`](crate::Backend::forward).
    pub fn kernel(
        &self,
        problem: &AttnProblem,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<LibTorchKernel, AttnError> {
        crate::tensors::check(problem, q, k, v)?;
        let way = Way::of(problem);
        if way == Way::Products {
            return Ok(LibTorchKernel::Products);
        }
        let choice = Asked::new(problem, way, q).and_then(|asked| asked.choice(problem, q, k, v));
        match choice.map_err(|source| AttnError::Torch { shape: *problem.shape(), source })? {
            0 => Ok(LibTorchKernel::Math),
            1 => Ok(LibTorchKernel::Flash),
            2 => Ok(LibTorchKernel::Efficient),
            3 => Ok(LibTorchKernel::CuDnn),
            other => Ok(LibTorchKernel::Other(other)),
        }
    }
}

/// What is put to libtorch beside q, k and v.
struct Asked {
    dense: Dense,
    is_causal: bool,
    enable_gqa: bool,
}

impl Asked {
    fn new(problem: &AttnProblem, way: Way, q: &Tensor) -> Result<Self, TchError> {
        let dense = match way {
            Way::Biased => Dense::of(problem, q.device(), bias_kind(problem, q))?,
            Way::Unmasked | Way::Causal | Way::Products => Dense { bias: None, sighted: None },
        };
        Ok(Self { dense, is_causal: way == Way::Causal, enable_gqa: problem.shape().group() > 1 })
    }

    fn forward(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, TchError> {
        let (bias, scale) = (self.dense.bias.as_ref(), problem.scale());
        let output =
            Tensor::f_scaled_dot_product_attention(q, k, v, bias, 0.0, self.is_causal, scale, self.enable_gqa)?;
        blanked(output, self.dense.sighted.as_ref())
    }

    /// By the tiled kernel of the CPU, which also tells the log-sum-exp.
    fn attend(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Attended, TchError> {
        let (bias, scale) = (self.dense.bias.as_ref(), problem.scale());
        let (output, lse) =
            Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, self.is_causal, bias, scale)?;
        let sighted = self.dense.sighted.as_ref();
        Ok(Attended { output: blanked(output, sighted)?, lse: blind(lse, sighted)? })
    }

    fn choice(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<i64, TchError> {
        let (bias, scale) = (self.dense.bias.as_ref(), problem.scale());
        Tensor::f_internal_fused_sdp_choice(q, k, v, bias, 0.0, self.is_causal, scale, self.enable_gqa)
    }
}

/// The type in which a bias is handed over.
fn bias_kind(problem: &AttnProblem, q: &Tensor) -> Kind {
    // A mask alone is 0 and -inf, exact in any type; ALiBi is not.
    match (problem.alibi(), q.device(), q.kind()) {
        (Some(_), Device::Cpu, Kind::BFloat16 | Kind::Half) => Kind::Float,
        (_, _, kind) => kind,
    }
}

/// Zero, with a zero gradient, where a query sees nothing.
fn blanked(output: Tensor, sighted: Option<&Tensor>) -> Result<Tensor, TchError> {
    match sighted {
        Some(sighted) => output.f_where_self(sighted, &output.f_zeros_like()?),
        None => Ok(output),
    }
}

/// `-inf` where a query sees nothing, in a log-sum-exp `[batch, query_heads, query_len]`.
fn blind(lse: Tensor, sighted: Option<&Tensor>) -> Result<Tensor, TchError> {
    match sighted {
        Some(sighted) => lse.f_masked_fill(&sighted.f_squeeze_dim(3)?.f_logical_not()?, f64::NEG_INFINITY),
        None => Ok(lse),
    }
}

/// The equations of [`AttnProblem`] one by one, in float32 at least; holds all scores at once.
fn by_products(problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Attended, TchError> {
    let work = if q.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let dense = Dense::of(problem, q.device(), work)?;
    let group = signed(problem.shape().group());
    let shared = |t: &Tensor| t.f_to_kind(work)?.f_repeat_interleave_self_int(group, 1, None);
    let (k_all, v_all) = (shared(k)?, shared(v)?); // [batch, query_heads, key_len, head_dim]
    let scores = q.f_to_kind(work)?.f_matmul(&k_all.f_transpose(2, 3)?)?.f_mul_scalar(problem.scale())?;
    let scores = match problem.soft_cap() {
        Some(cap) => scores.f_div_scalar(cap)?.f_tanh()?.f_mul_scalar(cap)?,
        None => scores,
    };
    let scores = match &dense.bias {
        Some(bias) => scores.f_add(bias)?,
        None => scores,
    };
    let output = scores.f_softmax(-1, work)?.f_matmul(&v_all)?; // [batch, query_heads, query_len, head_dim]
    let sighted = dense.sighted.as_ref();
    let lse = tch::no_grad(|| blind(scores.f_logsumexp([-1], false)?, sighted))?;
    Ok(Attended { output: blanked(output, sighted)?.f_to_kind(q.kind())?, lse })
}
