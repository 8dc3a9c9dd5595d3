//! Why a kernel of ours was not compiled or not run.

use std::path::PathBuf;

use super::arch::{Arch, Capability};

/// A kernel that was not compiled, loaded or launched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// NVRTC, the compiler, is in none of the places.
    #[error("NVRTC, CUDA's run-time compiler, was not found; looked for {}", listed(searched))]
    NoNvrtc {
        /// Where it was looked for, in order.
        searched: Vec<PathBuf>,
    },
    /// NVRTC is there and could not be opened.
    #[error("NVRTC was found at {} but could not be opened: {reason}", library.display())]
    NvrtcUnusable {
        /// The file.
        library: PathBuf,
        /// In the loader's words.
        reason: String,
    },
    /// The compiler refused the source.
    #[error("{source_name} does not compile for {arch}: {log}")]
    Compile {
        /// The source's name.
        source_name: String,
        /// What it was compiled for.
        arch: Arch,
        /// The compiler's words, or the name of its error where it left none.
        log: String,
    },
    /// A name, source or option with a zero byte in it, which no C string can hold.
    #[error("{what} has a zero byte in it")]
    ZeroByte {
        /// Which of the texts.
        what: &'static str,
    },
    /// There is no driver, or it does not start.
    #[error("NVIDIA's driver cannot be used: {reason}")]
    NoDriver {
        /// In its own words, or the loader's.
        reason: String,
    },
    /// The device is of a generation that the kernels are not made for.
    #[error("{name} has compute capability {capability}: the kernels are made for 8.0 and later")]
    TooOld {
        /// The device's name.
        name: String,
        /// Its two numbers.
        capability: Capability,
    },
    /// The driver refused a call.
    #[error("the CUDA driver could not {doing}: {reason}")]
    Driver {
        /// What was asked of it.
        doing: String,
        /// In its own words.
        reason: String,
    },
    /// A block asks for more shared memory than the device gives to one.
    #[error("{kernel} needs {needed} bytes of shared memory a block, the device gives at most {most}")]
    SharedMemory {
        /// The function's name.
        kernel: String,
        /// Bytes that a launch would take.
        needed: u32,
        /// Bytes that a block may have.
        most: u32,
    },
    /// libtorch refused to say which stream is current.
    #[error("libtorch does not tell its current CUDA stream: {reason}")]
    Stream {
        /// In libtorch's words.
        reason: String,
    },
}

fn listed(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_searched_for_the_compiler_is_named() {
        let searched = vec!["/a/libnvrtc.so.13".into(), "libnvrtc.so".into()];
        let message = CudaError::NoNvrtc { searched }.to_string();
        assert!(message.ends_with("looked for /a/libnvrtc.so.13, libnvrtc.so"), "{message}");
    }

    #[test]
    fn a_refused_source_is_named_with_its_architecture() {
        let source_name = "forward.cu".to_owned();
        let message = CudaError::Compile { source_name, arch: Arch::SM_80, log: "line 3: no".into() }.to_string();
        assert_eq!(message, "forward.cu does not compile for sm_80: line 3: no");
    }
}
