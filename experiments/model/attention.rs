//! Which attention backend a model runs on, in words.

use attention::{AttnProblem, AttnShape, Backend, Choice, LibTorch, LibTorchKernel, Mask, dtype_of};
use tch::{Device, Kind, Tensor};
use torch_ext::fused::Use;

use super::llama::Llama;
use crate::error::Failure;
use crate::runtime::device::device_name;

/// The value of the key `backend` of recipes and studies when none is given.
pub fn auto() -> String {
    attention::AUTO.to_owned()
}

/// Whether a key `backend` leaves the choice open.
pub fn is_auto(name: &str) -> bool {
    name == attention::AUTO
}

/// The backend of a name, or `auto`, for a device. On CUDA the name stands for the fused kernels of this process as well: `cuda`
/// and `hopper` ask for all of them, `auto` leaves it at those that were verified, any other name has libtorch do their work.
///
/// # Errors
///
/// When there is none of that name, or it does not run on the device.
pub fn backend_on(device: Device, name: &str) -> Result<Backend, Failure> {
    let backend = Backend::from_name(name)?;
    if backend.runs_on(device) {
        if device.is_cuda() {
            fused_kernels(name).set_for_process();
        }
        return Ok(backend);
    }
    let others: Vec<&str> = Backend::all().filter(|other| other.runs_on(device)).map(|other| other.name()).collect();
    let (device, others) = (device_name(device), others.join(", "));
    Err(Failure::config(format!("attention backend {name} does not run on {device}; there are {others}")))
}

/// Which fused kernels go with a backend's name.
fn fused_kernels(name: &str) -> Use {
    match name {
        "cuda" | "hopper" | "hopper-unordered" => Use::Asked,
        name if is_auto(name) => Use::Verified,
        _ => Use::Never,
    }
}

impl Llama {
    /// The backend that answers causal attention over `length` tokens, and why; none where that is no problem at all.
    pub fn attention_choice(&self, length: usize) -> Option<Choice> {
        let (problem, device, kind) = self.typical(length)?;
        Some(self.backend.answering(device, &problem, dtype_of(kind)?))
    }

    /// The backend for a report's provenance: its name, or `auto` with the one that answers at `length` tokens.
    pub fn backend_record(&self, length: usize) -> String {
        match self.attention_choice(length).filter(|_| is_auto(self.backend.name())) {
            Some(choice) => format!("{}: {} at {length} tokens", attention::AUTO, choice.backend.name()),
            None => self.backend.name().to_owned(),
        }
    }

    /// One line for a log: `attention: tiled for sequences of 512 tokens, because ..`.
    pub fn attention_account(&self, length: usize) -> String {
        let Some(Choice { backend, reason }) = self.attention_choice(length) else {
            return format!("attention: {}\n", self.backend.name());
        };
        let kernel = self.typical(length).and_then(|(problem, device, kind)| libtorch_kernel(&problem, device, kind));
        let name = match kernel.filter(|_| backend.name() == "libtorch") {
            Some(kernel) => format!("libtorch ({kernel})"),
            None => backend.name().to_owned(),
        };
        format!("attention: {name} for sequences of {length} tokens, because {reason}\n")
    }

    fn typical(&self, length: usize) -> Option<(AttnProblem, Device, Kind)> {
        let shape = AttnShape {
            batch: 1,
            query_heads: self.config.heads,
            key_heads: self.config.key_heads,
            query_len: length,
            key_len: length,
            head_dim: self.config.head_dim,
        };
        let problem = AttnProblem::new(shape).and_then(|problem| problem.with_mask(Mask::causal(&shape))).ok()?;
        Some((problem, self.embedding.device(), self.embedding.kind()))
    }
}

/// The kernel that libtorch would choose for a problem; none where it cannot be asked.
pub fn libtorch_kernel(problem: &AttnProblem, device: Device, kind: Kind) -> Option<LibTorchKernel> {
    let tensor = |dims: [usize; 4]| Tensor::f_empty(dims.map(|n| n as i64), (kind, device)).ok();
    let shape = problem.shape();
    let (q, k) = (tensor(shape.query_dims())?, tensor(shape.key_dims())?);
    LibTorch.kernel(problem, &q, &k, &k).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LoadOptions, ModelFolder};

    fn bundled(backend: Backend) -> ModelFolder {
        let precision = rope_scaling::Precision::HubCompatible;
        let options = LoadOptions { device: Device::Cpu, kind: Some(Kind::Float), backend, precision };
        ModelFolder::load(crate::hub::BUNDLED, options).unwrap()
    }

    #[test]
    fn a_backends_name_stands_for_the_fused_kernels() {
        let wishes = ["cuda", "hopper-unordered", "auto", "libtorch"].map(fused_kernels);
        assert_eq!(wishes, [Use::Asked, Use::Asked, Use::Verified, Use::Never]);
    }

    #[test]
    fn a_log_says_which_backend_runs_and_why() {
        let named = bundled(Backend::from_name("libtorch").unwrap()).llama.attention_account(512);
        assert_eq!(
            named,
            "attention: libtorch (flash) for sequences of 512 tokens, because it was asked for by name\n"
        );
        let model = bundled(Backend::auto());
        let choice = model.llama.attention_choice(512).unwrap();
        let account = model.llama.attention_account(512);
        assert!(account.contains(choice.backend.name()) && account.contains(&*choice.reason), "{account}");
        let recorded = model.llama.backend_record(512);
        assert_eq!(recorded, format!("auto: {} at 512 tokens", choice.backend.name()));
        let named = bundled(Backend::from_name("libtorch").unwrap());
        assert_eq!(named.llama.backend_record(512), "libtorch");
    }
}
