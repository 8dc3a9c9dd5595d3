//! Which kernels have proved themselves: `kernels.json`, beside the crate's manifest, lists those that passed the case
//! table on a device. An entry holds for one architecture and one text; a changed kernel is unproved again.

use std::collections::HashSet;
use std::sync::OnceLock;

use serde_json::Value;
use torch_ext::cuda::{Arch, KernelSource};

use super::backend::kernels_of;
use super::kernels::Kernel;
use super::ready::{every_kernel, source_hash};
use crate::error::DType;
use crate::problem::AttnProblem;

/// The file, as it was when this was built.
const TEXT: &str = include_str!("../../kernels.json");

/// One kernel that passed on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its name in the table.
    pub kernel: String,
    /// What it was compiled for.
    pub arch: Arch,
    /// The device's name.
    pub device: String,
    /// The day, as `2026-11-25`.
    pub date: String,
    /// Hash of its text and options then.
    pub source: String,
}

/// Why a text is no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is not JSON.
    #[error("the manifest of kernels is not JSON: {reason}")]
    NotJson {
        /// The parser's words.
        reason: String,
    },
    /// An entry lacks a field or has one that cannot be read.
    #[error("entry {entry} of the manifest of kernels: `{field}` is missing or wrong")]
    Field {
        /// Its place, from 0.
        entry: usize,
        /// The field.
        field: &'static str,
    },
}

/// A list of verified kernels, of which those count whose text is as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Verified>,
    holding: HashSet<(String, Arch)>,
}

impl Manifest {
    /// Reads a list of entries.
    ///
    /// # Errors
    ///
    /// [`ManifestError`], naming entry and field.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let not_json = |error: serde_json::Error| ManifestError::NotJson { reason: error.to_string() };
        let values: Vec<Value> = serde_json::from_str(text).map_err(not_json)?;
        let entries = values.iter().enumerate().map(|(at, value)| entry(at, value)).collect::<Result<Vec<_>, _>>()?;
        let hashes = current_hashes(&entries);
        let holds = |entry: &&Verified| hashes.contains(&(entry.kernel.clone(), entry.source.clone()));
        let holding = entries.iter().filter(holds).map(|entry| (entry.kernel.clone(), entry.arch)).collect();
        Ok(Self { entries, holding })
    }

    /// Every entry, those of texts that have changed since included.
    #[must_use]
    pub fn entries(&self) -> &[Verified] {
        &self.entries
    }

    /// Whether the kernel of this name, as it is now, passed on a device of this architecture.
    #[must_use]
    pub fn holds(&self, kernel: &str, arch: Arch) -> bool {
        self.holding.contains(&(kernel.to_owned(), arch))
    }
}

/// The manifest of this build.
pub fn manifest() -> &'static Manifest {
    static READ: OnceLock<Manifest> = OnceLock::new();
    // A test reads the file; should it be wrong nevertheless, no kernel counts as verified.
    READ.get_or_init(|| Manifest::parse(TEXT).unwrap_or(Manifest { entries: Vec::new(), holding: HashSet::new() }))
}

/// Whether every kernel that a problem needs, forward and backward, passed the case table on a device of this
/// architecture, in the text that this build has. Only then may it be chosen without being asked for.
#[must_use]
pub fn verified(problem: &AttnProblem, dtype: DType, arch: Arch) -> bool {
    // Most builds and machines have none, and then nothing needs to be looked up.
    !manifest().holding.is_empty()
        && kernels_of(problem, dtype)
            .is_some_and(|kernels| kernels.iter().all(|kernel| manifest().holds(&kernel.name(), arch)))
}

/// Calls `work` with a kernel's source as the compiler takes it.
pub(super) fn source_of<T>(kernel: &Kernel, work: impl FnOnce(&KernelSource<'_>) -> T) -> T {
    let (name, text, options) = (kernel.name(), kernel.source(), kernel.options());
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    work(&KernelSource { name: &name, text: &text, headers: &[], options: &options })
}

/// Name and hash of the kernels that the entries speak of.
fn current_hashes(entries: &[Verified]) -> HashSet<(String, String)> {
    let named: HashSet<&str> = entries.iter().map(|entry| entry.kernel.as_str()).collect();
    let hashed = |kernel: &Kernel| (kernel.name(), source_hash(kernel));
    every_kernel().iter().filter(|kernel| named.contains(kernel.name().as_str())).map(hashed).collect()
}

fn entry(at: usize, value: &Value) -> Result<Verified, ManifestError> {
    let text = |field: &'static str| match value[field].as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(ManifestError::Field { entry: at, field }),
    };
    let arch = text("arch")?.parse().map_err(|_| ManifestError::Field { entry: at, field: "arch" })?;
    Ok(Verified {
        kernel: text("kernel")?,
        arch,
        device: text("device")?,
        date: text("date")?,
        source: text("source")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AttnShape;

    fn one(kernel: &str, arch: &str, source: &str) -> String {
        format!(
            r#"[{{"kernel": "{kernel}", "arch": "{arch}", "device": "NVIDIA H100", "date": "2026-11-25", "source": "{source}"}}]"#
        )
    }

    fn some_kernel() -> Kernel {
        every_kernel().swap_remove(0)
    }

    #[test]
    fn the_file_of_this_build_is_read_and_names_kernels_of_the_every_kernel() {
        let read = Manifest::parse(TEXT).unwrap();
        assert_eq!(&read, manifest());
        let names: HashSet<String> = every_kernel().iter().map(Kernel::name).collect();
        for entry in read.entries() {
            assert!(names.contains(&entry.kernel), "{entry:?}");
        }
    }

    #[test]
    fn an_entry_holds_for_its_architecture_and_its_text_alone() {
        let kernel = some_kernel();
        let read = Manifest::parse(&one(&kernel.name(), "sm_90a", &source_hash(&kernel))).unwrap();
        assert!(read.holds(&kernel.name(), Arch::SM_90A));
        assert!(!read.holds(&kernel.name(), Arch::SM_80));
        assert!(!read.holds("another", Arch::SM_90A));
        let changed = Manifest::parse(&one(&kernel.name(), "sm_90a", "0123")).unwrap();
        assert!(!changed.holds(&kernel.name(), Arch::SM_90A));
        assert_eq!(changed.entries().len(), 1);
    }

    #[test]
    fn the_hash_of_every_kernel_is_its_own() {
        let hashes: HashSet<String> = every_kernel().iter().map(source_hash).collect();
        assert_eq!(hashes.len(), every_kernel().len());
    }

    #[test]
    fn a_wrong_entry_is_named_by_place_and_field() {
        assert!(matches!(Manifest::parse("{"), Err(ManifestError::NotJson { .. })));
        let field = |text: &str| Manifest::parse(text).unwrap_err();
        assert_eq!(field(&one("a", "sm_9", "0")), ManifestError::Field { entry: 0, field: "arch" });
        assert_eq!(field(&one("a", "sm_90a", "")), ManifestError::Field { entry: 0, field: "source" });
        assert_eq!(field("[{}]"), ManifestError::Field { entry: 0, field: "arch" });
    }

    #[test]
    fn what_no_kernel_is_made_for_is_never_verified() {
        let shape = AttnShape { batch: 1, query_heads: 1, key_heads: 1, query_len: 8, key_len: 8, head_dim: 64 };
        let problem = AttnProblem::new(shape).unwrap();
        assert!(!verified(&problem, DType::F64, Arch::SM_90A));
        assert!(!verified(&problem, DType::BF16, "sm_123".parse().unwrap()));
    }
}
