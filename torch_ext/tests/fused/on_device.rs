//! Every fused kernel on a device. What passed becomes entries of the manifest `kernels.json`.
//!
//! Without a device nothing is run, and the count of what was skipped is printed. With `BOWLINE_VERIFIED` set the entries are
//! written to the file that it names; `BOWLINE_DATE` is the day that they carry.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};
use torch_ext::cuda::{self, TableKernel, source_hash};
use torch_ext::fused::kernel::{Element, Kernel, every_kernel};
use torch_ext::fused::norm::Norm;
use torch_ext::fused::{OnDevice, Use, launched};

use crate::adamw;
use crate::cases::{Case, Operation, table};

/// How often each kernel passed and failed, by name.
type Tally = BTreeMap<String, (usize, usize)>;

/// Cases of the size that many blocks are needed for.
fn large() -> Vec<Case> {
    let norm = |norm, residual| Operation::Norm { norm, residual, bias: false };
    let sizes = [
        (norm(Norm::Rms, true), 3000, 4096),
        (norm(Norm::Layer, false), 3000, 2560),
        (Operation::SwiGlu { halves: true }, 300, 11_008),
        (Operation::CrossEntropy { apart: 0, weights: true, gradient: Some(0.5) }, 300, 32_001),
    ];
    let of = |(operation, rows, columns)| Case { operation, element: Element::Bf16, rows, columns };
    sizes.into_iter().map(of).collect()
}

fn count(tally: &mut Tally, kernels: &[Kernel], outcome: &Result<(), String>) {
    for kernel in kernels {
        let (passed, failed) = tally.entry(kernel.name()).or_default();
        *(if outcome.is_ok() { passed } else { failed }) += 1;
    }
}

/// Entries of the manifest for the kernels that never failed.
fn entries(tally: &Tally, device: &cuda::Device) -> Vec<serde_json::Value> {
    let date = std::env::var("BOWLINE_DATE").unwrap_or_else(|_| "undated".to_owned());
    let passed =
        |kernel: &Kernel| tally.get(&kernel.name()).is_some_and(|(passed, failed)| *passed > 0 && *failed == 0);
    let entry = |kernel: &Kernel| {
        serde_json::json!({
            "kernel": kernel.name(),
            "arch": device.arch().to_string(),
            "device": device.name(),
            "date": date,
            "source": source_hash(kernel),
        })
    };
    every_kernel().iter().filter(|kernel| passed(kernel)).map(entry).collect()
}

#[test]
fn every_kernel_passes_on_a_device() {
    if !cuda::state().is_available() {
        let count = table().len() + large().len() + adamw::steps().len();
        println!("{count} cases of {} kernels skipped: {}", every_kernel().len(), cuda::state());
        return;
    }
    let on = Device::Cuda(0);
    let machine = OnDevice::of(&Tensor::zeros([1], (Kind::Float, on)), &[], Use::Asked).unwrap();
    let device = cuda::Device::get(0).unwrap();
    let (mut tally, mut refused) = (Tally::new(), Vec::new());
    for case in table().into_iter().chain(large()) {
        let outcome = case.judged(&machine, on).map(drop);
        count(&mut tally, &case.kernels(), &outcome);
        refused.extend(outcome.err().map(|reason| format!("{}: {reason}", case.describe())));
    }
    for step in adamw::steps() {
        let outcome = step.judged(&machine, on);
        count(&mut tally, &[step.kernel()], &outcome);
        refused.extend(outcome.err().map(|reason| format!("{step:?}: {reason}")));
    }
    for (name, (passed, failed)) in &tally {
        println!("{name}: {passed} passed, {failed} failed");
    }
    if let Some(file) = std::env::var_os("BOWLINE_VERIFIED") {
        let text = serde_json::to_string_pretty(&entries(&tally, device)).unwrap();
        std::fs::write(file, text + "\n").unwrap();
    }
    assert!(refused.is_empty(), "{} on {}:\n{}", device.name(), device.arch(), refused.join("\n"));
    assert_eq!(launched(0).len(), every_kernel().len(), "every kernel was run");
}

#[test]
fn a_kernel_that_failed_once_gets_no_entry() {
    let kernels = every_kernel();
    let mut tally = Tally::new();
    count(&mut tally, &kernels[..2], &Ok(()));
    count(&mut tally, &kernels[1..2], &Err("off".to_owned()));
    assert_eq!(tally[&kernels[0].name()], (1, 0));
    assert_eq!(tally[&kernels[1].name()], (1, 1));
}
