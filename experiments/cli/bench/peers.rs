//! The ways in which libtorch alone can answer a workload: what a user without our kernels would write.
//!
//! Biases and masks are built before the clock starts.

use attention::AttnProblem;
use attention::workload::Workload;
use tch::{Device, Kind, TchError, Tensor};

/// One way.
pub(super) struct Peer {
    /// Its name in results.
    pub(super) name: &'static str,
    way: Way,
    scale: f64,
}

enum Way {
    /// `is_causal`.
    Causal,
    /// A dense additive bias, `[1, 1 or heads, length, length]`.
    Biased(Tensor),
    /// `is_causal` for each document by itself: starts, and the end of the last.
    Apart(Vec<i64>),
}

impl Peer {
    /// Every way that libtorch has for a workload of equal query and key lengths.
    ///
    /// # Errors
    ///
    /// When libtorch cannot hold the bias.
    pub(super) fn of(
        workload: Workload,
        problem: &AttnProblem,
        device: Device,
        kind: Kind,
    ) -> Result<Vec<Self>, TchError> {
        let shape = problem.shape();
        let bias = || dense_bias(problem, device, kind).map(Way::Biased);
        let apart = || {
            let ends = Workload::starts(shape.key_len).into_iter().chain([shape.key_len]);
            Way::Apart(ends.map(|place| place as i64).collect())
        };
        let ways = match workload {
            Workload::Causal => vec![("is_causal", Way::Causal)],
            Workload::Alibi => vec![("dense bias", bias()?)],
            Workload::Window => vec![("dense mask", bias()?)],
            Workload::Documents => vec![("dense mask", bias()?), ("per document", apart())],
        };
        Ok(ways.into_iter().map(|(name, way)| Self { name, way, scale: problem.scale() }).collect())
    }

    /// The output.
    ///
    /// # Errors
    ///
    /// When libtorch fails.
    pub(super) fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, TchError> {
        let attend = |q: &Tensor, k: &Tensor, v: &Tensor, bias: Option<&Tensor>, causal: bool| {
            Tensor::f_scaled_dot_product_attention(q, k, v, bias, 0.0, causal, self.scale, false)
        };
        match &self.way {
            Way::Causal => attend(q, k, v, None, true),
            Way::Biased(bias) => attend(q, k, v, Some(bias), false),
            Way::Apart(ends) => {
                let one = |pair: &[i64]| {
                    let part = |tensor: &Tensor| tensor.f_narrow(2, pair[0], pair[1] - pair[0]);
                    attend(&part(q)?, &part(k)?, &part(v)?, None, true)
                };
                let parts = ends.windows(2).map(one).collect::<Result<Vec<_>, _>>()?;
                Tensor::f_cat(&parts, 2)
            }
        }
    }

    /// Bytes that the way needs beside inputs and outputs and that are known: its bias. What libtorch takes inside is not.
    pub(super) fn scratch_bytes(&self) -> u64 {
        match &self.way {
            Way::Biased(bias) => bias.numel() as u64 * bias.kind().elt_size_in_bytes() as u64,
            Way::Causal | Way::Apart(_) => 0,
        }
    }
}

/// ALiBi where there is one, minus infinity where hidden.
fn dense_bias(problem: &AttnProblem, device: Device, kind: Kind) -> Result<Tensor, TchError> {
    let length = problem.shape().key_len as i64;
    let places = Tensor::f_arange(length, (Kind::Float, device))?;
    let ahead = places.f_unsqueeze(0)?.f_sub(&places.f_unsqueeze(1)?)?;
    let mut hidden = ahead.f_gt(0.0)?;
    match problem.mask().row(0) {
        attention::RowMask::Window { size, .. } => hidden = hidden.f_logical_or(&ahead.f_le(-(size as f64))?)?,
        attention::RowMask::Documents { starts, .. } => {
            let starts: Vec<f32> = starts.iter().map(|&start| start as f32).collect();
            let document =
                Tensor::f_bucketize(&places, &Tensor::f_from_slice(&starts)?.f_to_device(device)?, false, true)?;
            hidden = hidden.f_logical_or(&document.f_unsqueeze(0)?.f_ne_tensor(&document.f_unsqueeze(1)?)?)?;
        }
        _ => {}
    }
    let base = match problem.alibi() {
        None => ahead.f_zeros_like()?,
        Some(alibi) => {
            let slopes: Vec<f32> = alibi.slopes().iter().map(|&slope| slope as f32).collect();
            let slopes = Tensor::f_from_slice(&slopes)?.f_to_device(device)?.f_view([-1, 1, 1])?;
            ahead.f_neg()?.f_abs()?.f_neg()?.f_mul(&slopes)?
        }
    };
    let heads = if problem.alibi().is_some() { problem.shape().query_heads as i64 } else { 1 };
    base.f_masked_fill(&hidden, f64::NEG_INFINITY)?.f_view([1, heads, length, length])?.f_to_kind(kind)
}

#[cfg(test)]
mod tests {
    use attention::{AttnShape, Backend};

    use super::*;

    #[test]
    fn every_way_of_libtorch_answers_the_workload_that_it_is_measured_on() {
        let shape = AttnShape { batch: 1, query_heads: 3, key_heads: 3, query_len: 1100, key_len: 1100, head_dim: 8 };
        let tensor = || Tensor::randn([1, 3, 1100, 8], (Kind::Float, Device::Cpu));
        let (q, k, v) = (tensor(), tensor(), tensor());
        for workload in Workload::ALL {
            let problem = workload.problem(shape).unwrap();
            let exact = Backend::from_name("reference").unwrap().forward(&problem, &q, &k, &v).unwrap();
            for peer in Peer::of(workload, &problem, Device::Cpu, Kind::Float).unwrap() {
                let off = (peer.forward(&q, &k, &v).unwrap() - &exact).abs().max().double_value(&[]);
                assert!(off < 1e-5, "{workload} by {}: off by {off}", peer.name);
            }
        }
    }
}
