//! `bowline kernels`: the CUDA kernels, compiled and judged on a machine without a GPU.

use serde_json::Value;

use super::support::program::{Ran, Running, bowline, command};

/// Runs `bowline kernels ARGS`, or says why the test is skipped: a machine set up from an own libtorch and without network
/// may have no compiler.
fn checked(dir: &std::path::Path, args: &[&str]) -> Option<Ran> {
    let ran = bowline(dir, ["kernels", "check"].iter().chain(args));
    if ran.code == Some(2) && ran.err.contains("NVRTC, CUDA's run-time compiler, was not found") {
        println!("skipped: {}", ran.err);
        return None;
    }
    Some(ran)
}

fn rows(ran: &Ran) -> Vec<Value> {
    ran.json().as_array().unwrap().clone()
}

#[test]
fn a_checked_kernel_is_a_row_with_every_column() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--only", "forward_bf16_64_plain", "--arch", "sm_80,sm_90a", "--json"];
    let Some(ran) = checked(dir.path(), &args) else { return };
    let rows = rows(&ran.expect(0));
    let archs: Vec<&str> = rows.iter().map(|row| row["arch"].as_str().unwrap()).collect();
    assert_eq!(archs, ["sm_80", "sm_90a"]);
    for row in rows {
        let columns: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        let expected =
            ["name", "arch", "registers", "shared_bytes", "spill_bytes", "advisories", "lacking", "compile_seconds"];
        assert_eq!(columns, expected);
        assert!(row["registers"].as_u64().unwrap() > 0 && row["shared_bytes"].as_u64().unwrap() > 0, "{row}");
        assert_eq!((row["spill_bytes"].as_u64(), &row["advisories"]), (Some(0), &Value::Array(Vec::new())), "{row}");
        assert!(row["compile_seconds"].as_f64().unwrap() > 0.0, "{row}");
    }
}

#[test]
fn kernels_for_one_chip_are_checked_for_it_alone_and_have_its_instructions() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--only", "keys_hopper_bf16_64_plain", "--json"];
    let Some(ran) = checked(dir.path(), &args) else { return };
    let rows = rows(&ran.expect(0));
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(
        (&rows[0]["arch"], &rows[0]["lacking"]),
        (&Value::from("sm_90a"), &Value::Array(Vec::new())),
        "{rows:?}"
    );
    let Some(ran) = checked(dir.path(), &["--only", "hopper", "--arch", "sm_80"]) else { return };
    assert!(ran.expect(2).err.contains("sm_80"));
}

#[test]
fn a_kernel_that_does_not_compile_is_told_and_ends_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let Some(ran) = checked(dir.path(), &["--only", "prepare_bf16_64", "--arch", "sm_123", "--json"]) else { return };
    let ran = ran.expect(1);
    assert!(ran.err.contains("1 of 1 compiled kernels are at fault"), "{ran}");
    let rows = rows(&ran);
    assert!(rows[0]["error"].as_str().unwrap().contains("sm_123") && rows[0]["registers"].is_null(), "{ran}");
}

#[test]
fn without_a_compiler_there_is_a_sentence_with_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("libnvrtc.so.13");
    for text in [None, Some("no library")] {
        if let Some(text) = text {
            std::fs::write(&place, text).unwrap();
        }
        let mut child = command(dir.path(), ["kernels", "check"]);
        child.env("BOWLINE_NVRTC", &place);
        let ran = Running::start(child).finished().expect(2);
        assert!(ran.out.is_empty() && ran.err.contains("libnvrtc.so.13"), "{ran}");
        assert_eq!(ran.err.lines().count(), 1, "{ran}");
    }
}

#[test]
fn unknown_names_end_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let ran = bowline(dir.path(), ["kernels", "check", "--arch", "hopper"]).expect(2);
    assert!(ran.err.contains("\"hopper\" names no CUDA architecture"), "{ran}");
    let Some(ran) = checked(dir.path(), &["--only", "nothing"]) else { return };
    assert!(ran.expect(2).err.contains("--only nothing"));
}

#[test]
fn the_list_names_every_kernel_once_with_its_hash() {
    let dir = tempfile::tempdir().unwrap();
    let list = bowline(dir.path(), ["kernels", "list", "--json"]).expect(0);
    let mut seen = std::collections::HashSet::new();
    for row in rows(&list) {
        assert!(seen.insert(row["name"].as_str().unwrap().to_owned()), "{row}");
        assert_eq!(row["source"].as_str().unwrap().len(), 64, "{row}");
        assert!(row["verified"].is_array(), "{row}");
    }
    let page = bowline(dir.path(), ["kernels", "list"]).expect(0);
    assert_eq!(page.out.lines().count(), seen.len());
}

#[test]
fn doctor_says_which_compiler_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let found = bowline(dir.path(), ["doctor", "--json"]).expect(0).json();
    let nvrtc = &found["nvrtc"];
    assert!(nvrtc["available"].is_boolean() && !nvrtc["explanation"].as_str().unwrap().is_empty(), "{nvrtc}");
    let mut child = command(dir.path(), ["doctor"]);
    child.env("BOWLINE_NVRTC", "/no/such/place");
    let page = Running::start(child).finished().expect(0);
    assert!(page.out.lines().any(|line| line.starts_with("nvrtc") && line.contains("/no/such/place")), "{page}");
}

#[test]
fn fused_kernels_are_in_the_table_and_measured_where_there_is_a_device() {
    let dir = tempfile::tempdir().unwrap();
    let list = bowline(dir.path(), ["kernels", "list"]).expect(0);
    assert!(
        ["rms_norm_bf16_4096", "swiglu_backward_f16", "cross_entropy_f32", "adamw_int8_bf16_16"]
            .iter()
            .all(|it| list.out.contains(it))
    );
    let mut small = vec!["--tokens", "4", "--hidden", "128", "--inner", "48", "--vocab", "33", "--parameters", "300"];
    small.extend(["--repeats", "1", "--json"]);
    let run = |more: &[&str]| bowline(dir.path(), ["bench", "kernels"].iter().chain(&small).chain(more));
    if !torch_ext::cuda::state().is_available() {
        let ran = run(&[]).expect(2);
        assert!(ran.err.contains("there is no CUDA device") && ran.err.contains("--device cpu"), "{ran}");
    }
    // No kernel runs on the CPU, so that none is below the bar.
    let rows = rows(&run(&["--device", "cpu", "--bar", "0.85"]).expect(0));
    assert!(rows.iter().all(|row| row["by"] != "kernel" && row["share_of_copy"].as_f64().unwrap() > 0.0));
    assert!(rows.iter().any(|row| row["operation"] == "rms_norm_of_sum_backward"));
    assert!(rows.iter().any(|row| row["operation"] == "adamw_int8" && row["by"] == "cpu"));
    assert!(run(&["--device", "cpu", "--only", "nothing"]).expect(2).err.contains("--only nothing"));
}
