//! What a backend is, and how to find one by name.
//!
//! A backend that cannot take a problem says so with [`Unsupported`]; nothing falls back by itself. A new backend is one
//! type that implements [`AttentionBackend`] and one line in [`REGISTRY`].

use std::fmt;
use std::str::FromStr;

#[cfg(feature = "torch")]
use crate::error::Feature;
use crate::error::{AttnError, DType, Unsupported};
use crate::problem::AttnProblem;
use crate::tiled::Scratch;
#[cfg(feature = "torch")]
use tch::{Device, Tensor};

/// Something that computes attention.
pub trait AttentionBackend: Sync {
    /// The name it goes by in options, logs and reports.
    fn name(&self) -> &'static str;

    /// Whether it takes a problem in an element type.
    ///
    /// # Errors
    ///
    /// [`Unsupported`], naming what it lacks.
    fn supports(&self, problem: &AttnProblem, dtype: DType) -> Result<(), Unsupported>;

    /// Whether it takes tensors on a device; every device by default.
    #[cfg(feature = "torch")]
    fn runs_on(&self, device: Device) -> bool {
        let _ = device;
        true
    }

    /// Whether [`AttentionBackend::attend`] and [`AttentionBackend::backward`] answer a problem that it supports on a device, so
    /// that a caller may keep output and log-sum-exp itself; false by default.
    #[cfg(feature = "torch")]
    fn has_backward(&self, problem: &AttnProblem, device: Device, dtype: DType) -> bool {
        let _ = (problem, device, dtype);
        false
    }

    /// Memory beside inputs and outputs that `threads` threads take for a problem; none where it is not known.
    fn scratch_bytes(&self, problem: &AttnProblem, dtype: DType, threads: usize) -> Option<Scratch> {
        let _ = (problem, dtype, threads);
        None
    }

    /// The output `[batch, query_heads, query_len, head_dim]` in the type and on the device of `q`, for tensors that
    /// [`Backend::forward`] has checked against the problem. Differentiable where gradients are tracked and an input
    /// asks for one.
    ///
    /// # Errors
    ///
    /// [`AttnError::Torch`] when libtorch fails; [`AttnError::Unsupported`] when gradients are asked of a backend that
    /// has none.
    #[cfg(feature = "torch")]
    fn forward(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, AttnError>;

    /// Output and log-sum-exp for tensors that [`Backend::attend`] has checked; nothing is recorded for gradients.
    ///
    /// # Errors
    ///
    /// [`AttnError::Unsupported`] with [`Feature::LogSumExp`] by default; else as [`AttentionBackend::forward`].
    #[cfg(feature = "torch")]
    fn attend(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Attended, AttnError> {
        let _ = (problem, q, k, v);
        Err(Unsupported { backend: self.name(), feature: Feature::LogSumExp }.into())
    }

    /// Gradients of `sum(output * grad_output)` for tensors that [`Backend::backward`] has checked; nothing is recorded.
    ///
    /// # Errors
    ///
    /// [`AttnError::Unsupported`] with [`Feature::Gradients`] by default; else as [`AttentionBackend::forward`].
    #[cfg(feature = "torch")]
    fn backward(
        &self,
        problem: &AttnProblem,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        attended: &Attended,
        grad_output: &Tensor,
    ) -> Result<Gradients, AttnError> {
        let _ = (problem, q, k, v, attended, grad_output);
        Err(Unsupported { backend: self.name(), feature: Feature::Gradients }.into())
    }
}

/// Output and log-sum-exp of one problem.
#[cfg(feature = "torch")]
#[derive(Debug)]
pub struct Attended {
    /// `[batch, query_heads, query_len, head_dim]`, in the type of q.
    pub output: Tensor,
    /// `[batch, query_heads, query_len]`, in nats; `-inf` where a query sees nothing. float32; float64 for float64 inputs.
    pub lse: Tensor,
}

/// Derivatives by q, k and v, in their shapes and types.
#[cfg(feature = "torch")]
#[derive(Debug)]
pub struct Gradients {
    /// By q, `[batch, query_heads, query_len, head_dim]`.
    pub dq: Tensor,
    /// By k, `[batch, key_heads, key_len, head_dim]`.
    pub dk: Tensor,
    /// By v, `[batch, key_heads, key_len, head_dim]`.
    pub dv: Tensor,
}

/// Every backend of this build, fastest first.
static REGISTRY: &[&dyn AttentionBackend] = &[
    #[cfg(feature = "torch")]
    &crate::cuda::Cuda::ANY,
    #[cfg(feature = "torch")]
    &crate::cuda::Cuda::HOPPER,
    #[cfg(feature = "torch")]
    &crate::tiled::Tiled,
    #[cfg(feature = "torch")]
    &crate::libtorch::LibTorch,
    &Reference,
];

/// The f64 reference as a backend: takes every problem, slowly.
struct Reference;

impl AttentionBackend for Reference {
    fn name(&self) -> &'static str {
        crate::reference::NAME
    }

    fn supports(&self, _problem: &AttnProblem, _dtype: DType) -> Result<(), Unsupported> {
        Ok(())
    }

    #[cfg(feature = "torch")]
    fn has_backward(&self, _problem: &AttnProblem, _device: Device, _dtype: DType) -> bool {
        true
    }

    #[cfg(feature = "torch")]
    fn forward(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, AttnError> {
        crate::autograd::differentiable(&Self, problem, q, k, v)
    }

    #[cfg(feature = "torch")]
    fn attend(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Attended, AttnError> {
        crate::tensors::reference_attend(problem, q, k, v)
    }

    #[cfg(feature = "torch")]
    fn backward(
        &self,
        problem: &AttnProblem,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _attended: &Attended,
        grad_output: &Tensor,
    ) -> Result<Gradients, AttnError> {
        crate::tensors::reference_backward(problem, q, k, v, grad_output)
    }
}

/// A backend, chosen. Free to copy.
#[derive(Clone, Copy)]
pub struct Backend(&'static dyn AttentionBackend);

impl Backend {
    /// One that may be of no name.
    #[cfg(feature = "torch")]
    pub(crate) fn of(backend: &'static dyn AttentionBackend) -> Self {
        Self(backend)
    }

    /// The backend of this name; `auto` is [`Backend::auto`], and `hopper-unordered`, which no list has, is `hopper` with
    /// gradients that are not the same bits every time.
    ///
    /// # Errors
    ///
    /// [`AttnError::UnknownBackend`], which lists the names that this build has.
    pub fn from_name(name: &str) -> Result<Self, AttnError> {
        #[cfg(feature = "torch")]
        if name == crate::choice::AUTO {
            return Ok(Self::auto());
        }
        #[cfg(feature = "torch")]
        if name == crate::cuda::UNORDERED_NAME {
            return Ok(Self(&crate::cuda::Cuda::UNORDERED));
        }
        let found = Self::all().find(|backend| backend.name() == name);
        found.ok_or_else(|| AttnError::UnknownBackend { name: name.to_owned(), known: Self::names() })
    }

    /// Every backend of this build, fastest first.
    pub fn all() -> impl Iterator<Item = Self> {
        REGISTRY.iter().map(|&backend| Self(backend))
    }

    /// The names of [`Backend::all`].
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        Self::all().map(|backend| backend.name()).collect()
    }

    /// The name it was found by.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// Whether it takes a problem in an element type.
    ///
    /// # Errors
    ///
    /// [`Unsupported`], naming what it lacks.
    pub fn supports(&self, problem: &AttnProblem, dtype: DType) -> Result<(), Unsupported> {
        self.0.supports(problem, dtype)
    }

    /// Whether [`Backend::attend`] and [`Backend::backward`] answer a problem that it supports on a device, so that a caller may
    /// keep output and log-sum-exp itself.
    #[cfg(feature = "torch")]
    #[must_use]
    pub fn has_backward(&self, problem: &AttnProblem, device: Device, dtype: DType) -> bool {
        self.0.has_backward(problem, device, dtype)
    }

    /// Memory beside inputs and outputs that `threads` threads take for a problem; none where it is not known.
    #[must_use]
    pub fn scratch_bytes(&self, problem: &AttnProblem, dtype: DType, threads: usize) -> Option<Scratch> {
        self.0.scratch_bytes(problem, dtype, threads)
    }

    /// The output, `[batch, query_heads, query_len, head_dim]`, in the type and on the device of `q`.
    ///
    /// q is `[batch, query_heads, query_len, head_dim]`, k and v are `[batch, key_heads, key_len, head_dim]`; all three in
    /// one type on one device, of any strides. Differentiable, once, where gradients are tracked.
    ///
    /// # Errors
    ///
    /// [`AttnError::Dims`], [`AttnError::Kinds`], [`AttnError::Devices`] and [`AttnError::NotAFloat`] when the tensors do
    /// not fit the problem; [`AttnError::Unsupported`] when the backend declines; [`AttnError::Torch`] when libtorch fails.
    #[cfg(feature = "torch")]
    pub fn forward(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, AttnError> {
        self.check(problem, q, k, v)?;
        self.0.forward(problem, q, k, v)
    }

    /// Whether it takes tensors on a device.
    #[cfg(feature = "torch")]
    #[must_use]
    pub fn runs_on(&self, device: Device) -> bool {
        self.0.runs_on(device)
    }

    /// That the tensors fit the problem, and both the backend.
    #[cfg(feature = "torch")]
    fn check(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(), AttnError> {
        let dtype = crate::tensors::check(problem, q, k, v)?;
        if !self.runs_on(q.device()) {
            let device = format!("{:?}", q.device()).to_lowercase();
            return Err(Unsupported { backend: self.name(), feature: Feature::Device(device) }.into());
        }
        Ok(self.supports(problem, dtype)?)
    }

    /// Output and log-sum-exp of tensors as [`Backend::forward`] takes them; nothing is recorded for gradients.
    ///
    /// # Errors
    ///
    /// As [`Backend::forward`]; [`AttnError::Unsupported`] with [`Feature::LogSumExp`] when the backend keeps it to itself.
    #[cfg(feature = "torch")]
    pub fn attend(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Attended, AttnError> {
        self.check(problem, q, k, v)?;
        tch::no_grad(|| self.0.attend(problem, q, k, v))
    }

    /// Gradients of `sum(output * grad_output)` by q, k and v; `attended` is what [`Backend::attend`] gave for them and
    /// `grad_output` has the shape, type and device of its output. Nothing is recorded for gradients of gradients.
    ///
    /// # Errors
    ///
    /// As [`Backend::forward`]; [`AttnError::Unsupported`] with [`Feature::Gradients`] when the backend has none.
    #[cfg(feature = "torch")]
    pub fn backward(
        &self,
        problem: &AttnProblem,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        attended: &Attended,
        grad_output: &Tensor,
    ) -> Result<Gradients, AttnError> {
        self.check(problem, q, k, v)?;
        crate::tensors::check_attended(problem, q, attended, grad_output)?;
        tch::no_grad(|| self.0.backward(problem, q, k, v, attended, grad_output))
    }
}

impl FromStr for Backend {
    type Err = AttnError;

    fn from_str(name: &str) -> Result<Self, AttnError> {
        Self::from_name(name)
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Backend").field(&self.name()).finish()
    }
}

impl PartialEq for Backend {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_backend() {
        for name in Backend::names() {
            assert_eq!(Backend::from_name(name).unwrap().name(), name);
        }
        assert!(Backend::names().contains(&"reference"));
    }

    #[cfg(feature = "torch")]
    #[test]
    fn gradients_in_any_order_are_had_by_name_alone() {
        let name = "hopper-unordered";
        assert_eq!(Backend::from_name(name).unwrap().name(), name);
        assert!(!Backend::names().contains(&name));
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let message = Backend::from_name("flash").unwrap_err().to_string();
        assert!(message.contains("\"flash\"") && message.contains("reference"), "{message}");
    }
}
