//! Compiles the C++ in `shim/`, and lets this package's own binaries and tests find libtorch at run time with no
//! environment variable set.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // torch-sys exports the folder it linked against to its direct dependents. Old-style tags (DT_RPATH) are searched
    // for the libraries that libtorch itself needs, too, which DT_RUNPATH would not do.
    if let Ok(folder) = env::var("DEP_TCH_LIBTORCH_LIB") {
        compile_shim(Path::new(&folder));
        println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}

/// Compiles against the headers that lie beside libtorch's folder `lib`.
fn compile_shim(lib: &Path) {
    let include = lib.with_file_name("include");
    let sources = ["autograd", "context", "cuda", "memory", "optim", "transfer"].map(|name| format!("shim/{name}.cpp"));
    println!("cargo:rerun-if-changed=shim/common.h");
    sources.iter().for_each(|file| println!("cargo:rerun-if-changed={file}"));
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        // libtorch's headers do not compile without warnings, and their debug information is most of the object.
        .warnings(false)
        .debug(false)
        .opt_level(3)
        .includes([include.join("torch/csrc/api/include"), include])
        .files(sources)
        .compile("bowline_shim");
}
