//! The ways in which libtorch alone can answer a workload: what a user without our kernels would write.
//!
//! Biases and masks are built before the clock starts.

use attention::workload::Workload;
use attention::{AttnError, AttnProblem, LibTorch};
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
    Biased(Option<Tensor>),
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
    ) -> Result<Vec<Self>, AttnError> {
        let shape = problem.shape();
        let bias = || LibTorch.dense_bias(problem, device, kind).map(Way::Biased);
        let apart = || {
            let ends = Workload::starts(shape.key_len).into_iter().chain([shape.key_len]);
            Way::Apart(ends.map(|place| place as i64).collect())
        };
        let ways = match workload {
            Workload::Causal => vec![("is_causal", Way::Causal)],
            Workload::Alibi => vec![("dense bias", bias()?)],
            Workload::Window | Workload::WideWindow => vec![("dense mask", bias()?)],
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
            Way::Biased(bias) => attend(q, k, v, bias.as_ref(), false),
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
            Way::Biased(Some(bias)) => bias.numel() as u64 * bias.kind().elt_size_in_bytes() as u64,
            Way::Biased(None) | Way::Causal | Way::Apart(_) => 0,
        }
    }
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
