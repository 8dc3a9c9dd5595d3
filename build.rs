//! Lets this package's own binaries and tests find libtorch at run time with no environment variable set.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // torch-sys exports the folder it linked against to its direct dependents. Old-style tags (DT_RPATH) are searched
    // for the libraries that libtorch itself needs, too, which DT_RUNPATH would not do.
    if let Ok(folder) = env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
