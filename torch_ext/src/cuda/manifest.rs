//! Which kernels have proved themselves: a manifest lists those that passed their cases on a device. An entry holds for one
//! architecture and one text; a changed kernel is unproved again.

use std::collections::HashSet;

use serde_json::Value;

use super::arch::Arch;
use super::table::{TableKernel, source_hash};

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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    entries: Vec<Verified>,
    holding: HashSet<(String, Arch)>,
}

impl Manifest {
    /// Reads a list of entries for the kernels of a table.
    ///
    /// # Errors
    ///
    /// [`ManifestError`], naming entry and field.
    pub fn parse<T: TableKernel>(text: &str, table: &[T]) -> Result<Self, ManifestError> {
        let not_json = |error: serde_json::Error| ManifestError::NotJson { reason: error.to_string() };
        let values: Vec<Value> = serde_json::from_str(text).map_err(not_json)?;
        let entries = values.iter().enumerate().map(|(at, value)| entry(at, value)).collect::<Result<Vec<_>, _>>()?;
        let hashes = current_hashes(&entries, table);
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

    /// Whether all of these kernels, as they are now, passed on a device of this architecture.
    #[must_use]
    pub fn verifies<'a, T: TableKernel + 'a>(&self, kernels: impl IntoIterator<Item = &'a T>, arch: Arch) -> bool {
        !self.is_empty() && kernels.into_iter().all(|kernel| self.holds(&kernel.name(), arch))
    }

    /// Whether no kernel is verified anywhere, as in most builds: nothing needs to be looked up then.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.holding.is_empty()
    }
}

/// Name and hash of the kernels that the entries speak of.
fn current_hashes<T: TableKernel>(entries: &[Verified], table: &[T]) -> HashSet<(String, String)> {
    let named: HashSet<&str> = entries.iter().map(|entry| entry.kernel.as_str()).collect();
    let hashed = |kernel: &T| (kernel.name(), source_hash(kernel));
    table.iter().filter(|kernel| named.contains(kernel.name().as_str())).map(hashed).collect()
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
pub(super) mod tests {
    use super::super::table::PRIMITIVES;
    use super::*;

    /// A kernel of a table of one.
    pub(in crate::cuda) struct Probe;

    impl TableKernel for Probe {
        fn name(&self) -> String {
            "probe".to_owned()
        }

        fn entry(&self) -> &'static str {
            "probe"
        }

        fn parts(&self) -> Vec<(&'static str, &'static str)> {
            vec![PRIMITIVES, ("probe.cu", "KERNEL(32, 1) probe(int) {}")]
        }

        fn options(&self) -> Vec<String> {
            vec!["-DELEMENT_F16=0".to_owned()]
        }

        fn shared_bytes(&self) -> usize {
            0
        }
    }

    fn one(kernel: &str, arch: &str, source: &str) -> String {
        format!(
            r#"[{{"kernel": "{kernel}", "arch": "{arch}", "device": "NVIDIA H100", "date": "2026-11-25", "source": "{source}"}}]"#
        )
    }

    fn parsed(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse(text, &[Probe])
    }

    #[test]
    fn an_entry_holds_for_its_architecture_and_its_text_alone() {
        let read = parsed(&one("probe", "sm_90a", &source_hash(&Probe))).unwrap();
        assert!(read.holds("probe", Arch::SM_90A) && !read.is_empty());
        assert!(!read.holds("probe", Arch::SM_80));
        assert!(!read.holds("another", Arch::SM_90A));
        assert!(read.verifies(&[Probe], Arch::SM_90A) && !read.verifies(&[Probe], Arch::SM_80));
        let changed = parsed(&one("probe", "sm_90a", "0123")).unwrap();
        assert!(!changed.holds("probe", Arch::SM_90A) && changed.is_empty());
        assert!(!changed.verifies(&[Probe], Arch::SM_90A) && !changed.verifies::<Probe>(&[], Arch::SM_90A));
        assert_eq!(changed.entries().len(), 1);
        let unknown = parsed(&one("another", "sm_90a", &source_hash(&Probe))).unwrap();
        assert!(!unknown.holds("another", Arch::SM_90A));
    }

    #[test]
    fn a_wrong_entry_is_named_by_place_and_field() {
        assert!(matches!(parsed("{"), Err(ManifestError::NotJson { .. })));
        let field = |text: &str| parsed(text).unwrap_err();
        assert_eq!(field(&one("a", "sm_9", "0")), ManifestError::Field { entry: 0, field: "arch" });
        assert_eq!(field(&one("a", "sm_90a", "")), ManifestError::Field { entry: 0, field: "source" });
        assert_eq!(field("[{}]"), ManifestError::Field { entry: 0, field: "arch" });
    }
}
