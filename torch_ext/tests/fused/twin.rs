//! A machine that runs the kernels' own text on the CPU, lane by lane, over the memory of CPU tensors.

use std::path::Path;
use std::slice;

use tch::{Device, Tensor};
use testkit::twin;
use torch_ext::cuda::TableKernel;
use torch_ext::fused::kernel::Kernel;
use torch_ext::fused::{FusedError, Machine, Parameters};

/// A change of kernel text: in which file what becomes what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mutation {
    pub(crate) file: &'static str,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
}

/// The machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Twin {
    pub(crate) mutation: Option<Mutation>,
    /// Decides in which order warps and lanes run.
    pub(crate) seed: u32,
}

impl Twin {
    pub(crate) const PLAIN: Self = Self { mutation: None, seed: 1 };
}

impl Machine for Twin {
    fn multiprocessors(&self) -> u32 {
        1
    }

    unsafe fn launch<P: Parameters>(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        params: &P,
        tensors: &[&Tensor],
    ) -> Result<(), FusedError> {
        let parts: Vec<(&str, String)> = kernel.parts()[1..].iter().map(|part| self.changed(*part)).collect();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("twin");
        let program = twin::compile(&folder, &parts, kernel.entry(), &kernel.options());
        let before: Vec<Vec<u8>> = tensors.iter().map(|tensor| extent(tensor).to_vec()).collect();
        let mut buffers = before.clone();
        let params = numbered(params, tensors);
        let launch = twin::Launch {
            grid,
            threads: kernel.threads(),
            shared_bytes: kernel.shared_bytes(),
            seed: self.seed,
            at_once: 1,
            params: &params,
            pointers: P::POINTERS,
            buffers: &mut buffers,
        };
        let broken = |rule| FusedError::Broken { operation: kernel.operation(), reason: rule };
        program.run(launch).map_err(broken)?;
        for ((tensor, buffer), before) in tensors.iter().zip(buffers).zip(before) {
            // Tensors may lie over each other: halves of one, or one that is read and written under two names.
            if buffer != before {
                extent(tensor).copy_from_slice(&buffer);
            }
        }
        Ok(())
    }
}

impl Twin {
    fn changed(&self, (file, text): (&'static str, &'static str)) -> (&'static str, String) {
        match self.mutation {
            Some(mutation) if mutation.file == file => {
                assert!(text.contains(mutation.from), "{file} has changed: {:?} is not in it", mutation.from);
                (file, text.replace(mutation.from, mutation.to))
            }
            _ => (file, text.to_owned()),
        }
    }
}

/// Parameters with numbers of buffers, from 1 on, in place of addresses.
fn numbered<P: Parameters>(params: &P, tensors: &[&Tensor]) -> Vec<u8> {
    let mut bytes = params.bytes().to_vec();
    for field in bytes.chunks_mut(8).take(P::POINTERS as usize) {
        let address = u64::from_ne_bytes(field.try_into().unwrap());
        if address != 0 {
            let place = tensors.iter().position(|tensor| tensor.data_ptr() as u64 == address);
            let number = place.expect("every address is that of a tensor that came along") as u64 + 1;
            field.copy_from_slice(&number.to_ne_bytes());
        }
    }
    bytes
}

/// All memory between the first and the last element of a tensor.
#[allow(clippy::mut_from_ref)]
fn extent(tensor: &Tensor) -> &mut [u8] {
    assert_eq!(tensor.device(), Device::Cpu);
    if tensor.numel() == 0 {
        return &mut [];
    }
    let last: i64 = tensor.size().iter().zip(tensor.stride()).map(|(size, stride)| (size - 1) * stride).sum();
    let bytes = usize::try_from(last + 1).unwrap() * tensor.kind().elt_size_in_bytes();
    // SAFETY: live memory of the tensor; one slice of it is used at a time, and nothing else runs on these tensors.
    unsafe { slice::from_raw_parts_mut(tensor.data_ptr().cast(), bytes) }
}
