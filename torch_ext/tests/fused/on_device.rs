//! Every fused kernel on a device. What passed becomes entries of the manifest `kernels.json`.
//!
//! Without a device nothing is run, and the count of what was skipped is printed. With `BOWLINE_VERIFIED` set the entries are
//! written to the file that it names; `BOWLINE_DATE` is the day that they carry.

use tch::{Device, Kind, Tensor};
use torch_ext::cuda::{self, Tally};
use torch_ext::fused::kernel::{Element, every_kernel};
use torch_ext::fused::norm::Norm;
use torch_ext::fused::{OnDevice, Use, launched};

use crate::adamw;
use crate::cases::{Case, Operation, table};

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
    let mut tally = Tally::default();
    for case in table().into_iter().chain(large()) {
        tally.count(&case.kernels(), case.judged(&machine, on).map(drop), || case.describe());
    }
    for step in adamw::steps() {
        tally.count(&[step.kernel()], step.judged(&machine, on), || format!("{step:?}"));
    }
    print!("{}", tally.page());
    if let Some(file) = std::env::var_os("BOWLINE_VERIFIED") {
        let date = std::env::var("BOWLINE_DATE").unwrap_or_else(|_| "undated".to_owned());
        let entries = tally.entries(&every_kernel(), (device.name(), device.arch()), &date);
        std::fs::write(file, serde_json::to_string_pretty(&entries).unwrap() + "\n").unwrap();
    }
    let refused = tally.refused();
    assert!(refused.is_empty(), "{} on {}:\n{}", device.name(), device.arch(), refused.join("\n"));
    assert_eq!(launched(0).len(), every_kernel().len(), "every kernel was run");
}
