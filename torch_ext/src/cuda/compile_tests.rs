use std::fs;

use super::*;

const TEXT: &str = r#"
#include "factor.cuh"
extern "C" __global__ void scaled(float* values) { values[threadIdx.x] *= FACTOR * STEP; }
"#;

const SOURCE: KernelSource<'static> = KernelSource {
    name: "scaled.cu",
    text: TEXT,
    headers: &[("factor.cuh", "#define FACTOR 2.0f\n")],
    options: &["-DSTEP=3"],
};

/// The compiler, or a note that the test did nothing for want of one.
fn nvrtc() -> Option<&'static Nvrtc> {
    Nvrtc::get().inspect_err(|error| println!("skipped: {error}")).ok()
}

fn hash_of(source: KernelSource<'_>) -> String {
    source.hash().to_hex().to_string()
}

#[test]
fn text_headers_and_options_change_the_hash_and_the_name_does_not() {
    let same = KernelSource { name: "other.cu", ..SOURCE };
    assert_eq!(hash_of(same), hash_of(SOURCE));
    let changed = [
        KernelSource { text: "", ..SOURCE },
        KernelSource { headers: &[], ..SOURCE },
        KernelSource { headers: &[("factor.cuh", "#define FACTOR 2.5f\n")], ..SOURCE },
        KernelSource { headers: &[("factor.h", "#define FACTOR 2.0f\n")], ..SOURCE },
        KernelSource { options: &["-DSTEP=4"], ..SOURCE },
        KernelSource { options: &["-DSTEP=3", "-DSTEP=3"], ..SOURCE },
        // The same bytes, cut elsewhere.
        KernelSource { headers: &[("factor.cuh#", "define FACTOR 2.0f\n")], ..SOURCE },
        KernelSource { options: &["-DSTEP", "=3"], ..SOURCE },
    ];
    let mut hashes: Vec<String> = changed.into_iter().chain([SOURCE]).map(hash_of).collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), changed.len() + 1);
}

#[test]
fn architecture_compiler_and_common_options_change_the_key() {
    let key = |compiler: &str, arch, options: &[&str]| {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        SOURCE.key(compiler, arch, &options)
    };
    let first = key("nvrtc 13.0", Arch::SM_80, &["-v"]);
    assert_eq!(first, key("nvrtc 13.0", Arch::SM_80, &["-v"]));
    assert_ne!(first, key("nvrtc 13.1", Arch::SM_80, &["-v"]));
    assert_ne!(first, key("nvrtc 13.0", Arch::SM_89, &["-v"]));
    assert_ne!(first, key("nvrtc 13.0", Arch::SM_80, &["-w"]));
}

#[test]
fn a_zero_byte_is_refused_before_the_compiler_sees_it() {
    let Some(nvrtc) = nvrtc() else { return };
    let wrong = [
        KernelSource { text: "a\0b", ..SOURCE },
        KernelSource { options: &["-D\0"], ..SOURCE },
        KernelSource { headers: &[("a\0", "")], ..SOURCE },
    ];
    for source in wrong {
        assert!(matches!(source.compiled_by(nvrtc, Arch::SM_80), Err(CudaError::ZeroByte { .. })));
    }
}

#[test]
fn a_kernel_compiles_for_every_checked_architecture_with_a_report() {
    let Some(nvrtc) = nvrtc() else { return };
    for arch in Arch::CHECKED {
        let compiled = SOURCE.compiled_by(nvrtc, arch).unwrap();
        let report = compiled.report();
        assert_eq!(report.functions.len(), 1, "{}", compiled.log);
        let function = &report.functions[0];
        assert_eq!((function.name.as_str(), function.spill_bytes), ("scaled", 0));
        assert!(function.registers > 0 && compiled.took > Some(Duration::ZERO), "{}", compiled.log);
    }
}

#[test]
fn a_kernel_that_indexes_an_array_at_run_time_is_seen_to_leave_its_registers() {
    let Some(nvrtc) = nvrtc() else { return };
    let text = r#"extern "C" __global__ void picks(float* x, int at) {
        float kept[64];
        for (int i = 0; i < 64; ++i) kept[(i * at) % 64] = x[i];
        x[0] = kept[at % 64];
    }"#;
    let source = KernelSource { name: "picks.cu", text, headers: &[], options: &[] };
    assert!(source.compiled_by(nvrtc, Arch::SM_80).unwrap().report().functions[0].spill_bytes > 0);
}

#[test]
fn a_wrong_source_fails_with_its_name_and_line() {
    let Some(nvrtc) = nvrtc() else { return };
    let source = KernelSource { text: "\n\nint wrong = ;", ..SOURCE };
    let message = source.compiled_by(nvrtc, Arch::SM_80).unwrap_err().to_string();
    assert!(message.contains("scaled.cu(3)") && message.contains("sm_80"), "{message}");
    let absent = KernelSource { headers: &[], ..SOURCE };
    let message = absent.compiled_by(nvrtc, Arch::SM_80).unwrap_err().to_string();
    assert!(message.contains("factor.cuh"), "{message}");
    let unknown = "sm_123".parse().unwrap();
    assert!(matches!(SOURCE.compiled_by(nvrtc, unknown), Err(CudaError::Compile { .. })));
}

#[test]
fn the_second_time_it_comes_from_the_cache_and_a_damaged_entry_is_made_again() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::in_folder(folder.path());
    let made = |source: KernelSource<'_>, arch| source.compiled_with(nvrtc, arch, Some(&cache)).unwrap();
    let first = made(SOURCE, Arch::SM_80);
    assert!(first.took.is_some());
    let again = made(SOURCE, Arch::SM_80);
    assert_eq!((again.took, &again.cubin, &again.log), (None, &first.cubin, &first.log));
    // Anything that changes the code misses.
    assert!(made(SOURCE, Arch::SM_89).took.is_some());
    assert!(made(KernelSource { options: &["-DSTEP=4"], ..SOURCE }, Arch::SM_80).took.is_some());
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let repaired = made(SOURCE, Arch::SM_80);
    assert!(repaired.took.is_some());
    assert_eq!(repaired.cubin, first.cubin);
    assert!(made(SOURCE, Arch::SM_80).took.is_none());
}
