//! Kernels of the table made ready for a device, and which of them were verified: `kernels.json`, beside the crate's own
//! manifest, lists those that passed the case table.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use torch_ext::cuda::{Arch, CudaError, Device, Kernel as Code, Manifest, Ready};

use super::backend::kernels_of;
use super::kernels::{Generation, Kernel, Spec, hopper_table, kernel, others, table};
use crate::error::DType;
use crate::problem::AttnProblem;

/// The file, as it was when this was built.
const TEXT: &str = include_str!("../../kernels.json");

/// Those that were made ready.
static READY: Ready<Spec, Kernel> = Ready::new();

/// The kernel of a spec with its code on a device; none if the table has none.
pub(super) fn ready(device: &Device, spec: Spec) -> Result<Option<(Kernel, Code)>, CudaError> {
    READY.get(device, spec, manifest(), || kernel(spec))
}

/// Every kernel of this crate: those of attention problems in any element type, and rotation.
#[must_use]
pub fn every_kernel() -> Vec<Kernel> {
    table().into_iter().chain(others()).chain(hopper_table()).collect()
}

/// Names of the kernels that this process has put on a device.
#[must_use]
pub fn launched(device: usize) -> BTreeSet<String> {
    READY.names(device)
}

/// The manifest of this build.
pub fn manifest() -> &'static Manifest {
    static READ: OnceLock<Manifest> = OnceLock::new();
    // A test reads the file; should it be wrong nevertheless, no kernel counts as verified.
    READ.get_or_init(|| Manifest::parse(TEXT, &every_kernel()).unwrap_or_default())
}

/// Whether every kernel that a problem needs, forward and backward, passed the case table on a device of this
/// architecture, in the text that this build has, in one generation or the other. Only then may `cuda` be chosen without being
/// asked for.
#[must_use]
pub fn verified(problem: &AttnProblem, dtype: DType, arch: Arch) -> bool {
    [Generation::First, Generation::Second].into_iter().any(|generation| verified_of(generation, problem, dtype, arch))
}

/// The same of one generation; `cuda` takes the second where it is.
#[must_use]
pub fn verified_of(generation: Generation, problem: &AttnProblem, dtype: DType, arch: Arch) -> bool {
    // Most builds have nothing to look up kernels for.
    !manifest().is_empty()
        && kernels_of(generation, problem, dtype).is_some_and(|kernels| manifest().verifies(&kernels, arch))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use torch_ext::cuda::{TableKernel, source_hash};

    use super::*;
    use crate::AttnShape;

    #[test]
    fn the_file_of_this_build_is_read_and_names_kernels_of_the_table() {
        let read = Manifest::parse(TEXT, &every_kernel()).unwrap();
        assert_eq!(&read, manifest());
        let names: HashSet<String> = every_kernel().iter().map(Kernel::name).collect();
        for entry in read.entries() {
            assert!(names.contains(&entry.kernel), "{entry:?}");
        }
    }

    #[test]
    fn the_hash_of_every_kernel_is_its_own() {
        let hashes: HashSet<String> = every_kernel().iter().map(|kernel| source_hash(kernel)).collect();
        assert_eq!(hashes.len(), every_kernel().len());
    }

    #[test]
    fn what_no_kernel_is_made_for_is_never_verified() {
        let shape = AttnShape { batch: 1, query_heads: 1, key_heads: 1, query_len: 8, key_len: 8, head_dim: 64 };
        let problem = AttnProblem::new(shape).unwrap();
        assert!(!verified(&problem, DType::F64, Arch::SM_90A));
        assert!(!verified(&problem, DType::BF16, "sm_123".parse().unwrap()));
    }
}
