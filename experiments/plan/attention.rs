//! What attention's answer leaves behind, which depends on who gives it.

use attention::{AttnProblem, AttnShape, Backend, Mask, cuda::verified, dtype_of};
use tch::{Device, Kind};

use super::card::Card;
use crate::model::ModelConfig;

/// Whether the backend that a run will have takes output and log-sum-exp alone for its way back. One that is differentiated
/// by libtorch, as libtorch's own kernels are, keeps queries, keys and values as well.
pub(super) fn goes_back_alone(backend: &str, config: &ModelConfig, length: usize, kind: Kind, card: &Card) -> bool {
    let (Some(problem), Some(dtype)) = (causal(config, length), dtype_of(kind)) else { return false };
    match (backend, card.arch) {
        ("cuda", Some(_)) => true,
        // Asking a device would need one: what is verified on its architecture is chosen.
        (attention::AUTO, Some(arch)) => verified(&problem, dtype, arch),
        (_, Some(_)) => false,
        (name, None) => Backend::from_name(name).is_ok_and(|it| it.has_backward(&problem, Device::Cpu, dtype)),
    }
}

fn causal(config: &ModelConfig, length: usize) -> Option<AttnProblem> {
    let shape = AttnShape {
        batch: 1,
        query_heads: config.heads,
        key_heads: config.key_heads,
        query_len: length,
        key_len: length,
        head_dim: config.head_dim,
    };
    AttnProblem::new(shape).and_then(|problem| problem.with_mask(Mask::causal(&shape))).ok()
}
