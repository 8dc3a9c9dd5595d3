//! Architectures of NVIDIA's chips, as compilers name them, and which code runs on which device.

use std::fmt;
use std::str::FromStr;

/// What machine code is made for: `sm_80`, `sm_89`, `sm_90a`.
///
/// Code runs on devices of the same major number and an equal or higher minor one; a name that ends in `a` stands for
/// every instruction of one chip, and its code runs on no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arch {
    major: u32,
    minor: u32,
    specific: bool,
}

/// The two numbers by which a device tells what it can do: 9 and 0 for an H100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Capability {
    /// The generation.
    pub major: u32,
    /// The chip within it.
    pub minor: u32,
}

/// A text that names no architecture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no CUDA architecture: expected sm_80, sm_89, sm_90a or the like")]
pub struct ArchError {
    /// What came.
    pub text: String,
}

impl Arch {
    /// A100 and, by compatibility, other chips of the same generation.
    pub const SM_80: Self = Self { major: 8, minor: 0, specific: false };
    /// L4, L40, RTX 4090.
    pub const SM_89: Self = Self { major: 8, minor: 9, specific: false };
    /// H100 and H200, with the instructions that later chips do not have.
    pub const SM_90A: Self = Self { major: 9, minor: 0, specific: true };
    /// Those that every kernel is compiled for and checked.
    pub const CHECKED: [Self; 3] = [Self::SM_80, Self::SM_89, Self::SM_90A];

    /// What to compile for a device: the nearest of [`Arch::CHECKED`] whose code it runs, else exactly its own numbers.
    /// None for generations before 8, which lack the instructions that the kernels stand on.
    #[must_use]
    pub fn for_device(capability: Capability) -> Option<Self> {
        let Capability { major, minor } = capability;
        let checked = Self::CHECKED.into_iter().rev().find(|arch| arch.runs_on(capability));
        checked.or((major >= 8).then_some(Self { major, minor, specific: false }))
    }

    /// Whether code for this architecture runs on a device.
    #[must_use]
    pub fn runs_on(self, device: Capability) -> bool {
        let enough = if self.specific { device.minor == self.minor } else { device.minor >= self.minor };
        device.major == self.major && enough
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}{}", self.major, self.minor, if self.specific { "a" } else { "" })
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Arch {
    type Err = ArchError;

    fn from_str(text: &str) -> Result<Self, ArchError> {
        let wrong = || ArchError { text: text.to_owned() };
        let name = text.strip_prefix("sm_").ok_or_else(wrong)?;
        let digits = name.strip_suffix('a').unwrap_or(name);
        if digits.len() < 2 || digits.starts_with('0') || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        // The last digit is the chip, whatever stands before it the generation.
        let number: u32 = digits.parse().map_err(|_| wrong())?;
        Ok(Self { major: number / 10, minor: number % 10, specific: digits.len() < name.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arch(major: u32, minor: u32) -> Option<String> {
        Arch::for_device(Capability { major, minor }).map(|arch| arch.to_string())
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["sm_80", "sm_89", "sm_90a", "sm_90", "sm_100a", "sm_121"] {
            assert_eq!(name.parse::<Arch>().unwrap().to_string(), name);
        }
        assert_eq!("sm_90a".parse(), Ok(Arch::SM_90A));
        assert_ne!("sm_90".parse(), Ok(Arch::SM_90A));
    }

    #[test]
    fn what_names_nothing_is_refused_with_its_text() {
        for text in ["", "sm_", "sm_9", "sm_a", "sm_90b", "sm_9O", "compute_90", "sm_090", "sm_99999999999", "90a"] {
            assert_eq!(text.parse::<Arch>(), Err(ArchError { text: text.to_owned() }));
        }
    }

    #[test]
    fn a_device_gets_code_that_it_runs() {
        assert_eq!(arch(7, 5), None);
        for (minor, expected) in [(0, "sm_80"), (6, "sm_80"), (7, "sm_80"), (9, "sm_89")] {
            assert_eq!(arch(8, minor).as_deref(), Some(expected));
        }
        assert_eq!(arch(9, 0).as_deref(), Some("sm_90a"));
        assert_eq!(arch(10, 0).as_deref(), Some("sm_100"));
        assert_eq!(arch(12, 0).as_deref(), Some("sm_120"));
        for (major, minor) in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 3), (12, 1)] {
            let device = Capability { major, minor };
            assert!(Arch::for_device(device).unwrap().runs_on(device), "{device}");
        }
    }

    #[test]
    fn neither_an_older_chip_nor_another_generation_runs_it() {
        assert!(!Arch::SM_89.runs_on(Capability { major: 8, minor: 6 }));
        assert!(!Arch::SM_80.runs_on(Capability { major: 9, minor: 0 }));
        assert!(!Arch::SM_90A.runs_on(Capability { major: 9, minor: 1 }));
    }
}
