//! Speed of the kernels that move memory: bytes that cannot be avoided over time, beside a copy measured in the same run.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tch::{Device, Kind, Tensor};
use torch_ext::fused::cross_entropy::{self, Targets};
use torch_ext::fused::norm::{Gradients, Inputs, Norm};
use torch_ext::fused::{FusedError, OnDevice, Use, layer_norm, rms_norm, swiglu, swiglu_on};

use super::super::options::DtypeName;
use super::super::output::{print, print_json, write_json};
use crate::error::{Failure, FailureKind};
use crate::runtime::device::{device, device_name, kind_name};

/// Runs that are timed together, so that waiting for the device counts little.
const TOGETHER: usize = 5;
const EPSILON: f64 = 1e-5;
const HEAD_DIM: i64 = 128;

/// Measures the kernels that move memory.
#[derive(Debug, Args)]
pub(super) struct KernelsBench {
    /// Device: cuda or cuda:N; cpu measures what runs in the kernels' place [default: cuda:0]
    #[arg(long)]
    device: Option<String>,
    /// Only operations whose name has this in it
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Rows [default: 16384, on the CPU 1024]
    #[arg(long)]
    tokens: Option<i64>,
    /// Width of the residual stream
    #[arg(long, default_value_t = 4096)]
    hidden: i64,
    /// Width of the MLP
    #[arg(long, default_value_t = 11_008)]
    inner: i64,
    /// Logits of a row, a quarter of the rows at once
    #[arg(long, default_value_t = 32_000)]
    vocab: i64,
    /// Element type [default: bfloat16, on the CPU float32]
    #[arg(long)]
    dtype: Option<DtypeName>,
    /// Timed repeats, after one that is not
    #[arg(long, default_value_t = 20)]
    repeats: usize,
    /// Smallest share of the copy's speed that a kernel must reach, else this ends with 1
    #[arg(long, value_name = "SHARE")]
    bar: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// File for the rows as JSON
    #[arg(long)]
    out: Option<PathBuf>,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
struct Row {
    operation: &'static str,
    /// `kernel` (ours) or `libtorch`.
    by: &'static str,
    device: String,
    dtype: &'static str,
    /// That cannot be avoided: every input read once, every output written once.
    bytes: f64,
    milliseconds: f64,
    milliseconds_least: f64,
    repeats: usize,
    gigabytes_per_second: f64,
    /// Of the speed of a copy of a tensor, measured in this run.
    share_of_copy: f64,
    /// Time of libtorch's way divided by this time.
    ratio_to_libtorch: Option<f64>,
}

type Run<'a> = Box<dyn Fn() -> Result<(), FusedError> + 'a>;

/// An operation and the ways to do it.
struct Job<'a> {
    operation: &'static str,
    bytes: f64,
    kernel: Option<Run<'a>>,
    libtorch: Run<'a>,
}

/// Sizes of everything.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    tokens: i64,
    hidden: i64,
    inner: i64,
    vocab: i64,
    kind: Kind,
    device: Device,
}

impl KernelsBench {
    /// Measures and prints.
    ///
    /// # Errors
    ///
    /// When there is no such device, an option is wrong, an operation fails, or a kernel is below the bar.
    pub(super) fn run(self) -> Result<(), Failure> {
        let sizes = self.sizes()?;
        let machine = OnDevice::of(&Tensor::zeros([1], (Kind::Float, sizes.device)), &[], Use::Asked);
        let copy = copy_speed(&sizes, self.repeats)?;
        let mut rows = Vec::new();
        let tensors = Tensors::of(&sizes);
        for job in self.jobs(&tensors, machine) {
            for row in self.measured(&job, &sizes, copy)? {
                eprintln!("{}", row.told());
                rows.push(row);
            }
        }
        if rows.is_empty() {
            let text = self.only.unwrap_or_default();
            return Err(Failure::config(format!("--only {text}: no operation has that in its name")));
        }
        if let Some(out) = &self.out {
            write_json(out, &rows)?;
        }
        match self.json {
            true => print_json(&rows)?,
            false => rows.iter().for_each(|row| print(&format!("{}\n", row.told()))),
        }
        self.judged(&rows)
    }

    fn sizes(&self) -> Result<Sizes, Failure> {
        let cuda = torch_ext::cuda::state();
        let device = match &self.device {
            None if !cuda.is_available() => {
                let way = "`--device cpu` measures what runs in the kernels' place";
                return Err(Failure::config(format!("there is no CUDA device to measure kernels on ({cuda}); {way}")));
            }
            name => device(name.as_deref())?,
        };
        let on_cpu = device == Device::Cpu;
        let usual = if on_cpu { DtypeName::Float32 } else { DtypeName::Bfloat16 };
        let tokens = self.tokens.unwrap_or(if on_cpu { 1024 } else { 16_384 });
        let (hidden, inner, vocab) = (self.hidden, self.inner, self.vocab);
        if [tokens, hidden, inner, vocab].into_iter().any(|n| n < 1) || self.repeats == 0 {
            return Err(Failure::config("--tokens, --hidden, --inner, --vocab and --repeats must be at least 1"));
        }
        Ok(Sizes { tokens, hidden, inner, vocab, kind: self.dtype.unwrap_or(usual).kind(), device })
    }

    /// The operations, by kernels where there is a device for them.
    fn jobs<'a>(&self, tensors: &'a Tensors, machine: Option<OnDevice>) -> Vec<Job<'a>> {
        let mut jobs = norms(tensors, machine);
        jobs.extend(swiglus(tensors, machine));
        jobs.push(entropy(tensors, machine));
        jobs.extend(rotation(tensors, machine));
        jobs.retain(|job| self.only.as_ref().is_none_or(|text| job.operation.contains(text)));
        jobs
    }

    fn measured(&self, job: &Job<'_>, sizes: &Sizes, copy: f64) -> Result<Vec<Row>, Failure> {
        let of_libtorch = timed(&job.libtorch, sizes.device, self.repeats)?;
        let of_kernel = job.kernel.as_ref().map(|run| timed(run, sizes.device, self.repeats)).transpose()?;
        let median = |times: &[f64]| times[times.len() / 2];
        let row = |by, times: &Vec<f64>, ratio_to_libtorch| {
            let speed = job.bytes / median(times);
            Row {
                operation: job.operation,
                by,
                device: device_name(sizes.device),
                dtype: kind_name(sizes.kind),
                bytes: job.bytes,
                milliseconds: median(times) * 1e3,
                milliseconds_least: times[0] * 1e3,
                repeats: times.len(),
                gigabytes_per_second: speed / 1e9,
                share_of_copy: speed / copy,
                ratio_to_libtorch,
            }
        };
        let mut rows = vec![row("libtorch", &of_libtorch, None)];
        rows.extend(of_kernel.map(|times| row("kernel", &times, Some(median(&of_libtorch) / median(&times)))));
        Ok(rows)
    }

    fn judged(&self, rows: &[Row]) -> Result<(), Failure> {
        let Some(bar) = self.bar else { return Ok(()) };
        let below: Vec<String> = rows
            .iter()
            .filter(|row| row.by == "kernel" && !(row.share_of_copy >= bar))
            .map(|row| format!("{} {:.1} %", row.operation, 100.0 * row.share_of_copy))
            .collect();
        if below.is_empty() {
            return Ok(());
        }
        let message = format!("below {:.0} % of the copy's speed: {}", 100.0 * bar, below.join(", "));
        Err(Failure::new(FailureKind::Threshold, message))
    }
}

/// Seconds of one run, sorted: each of the mean of some.
fn timed(run: &Run<'_>, device: Device, repeats: usize) -> Result<Vec<f64>, Failure> {
    let together = if device == Device::Cpu { 1 } else { TOGETHER };
    let finish = || {
        if let Device::Cuda(number) = device {
            tch::Cuda::synchronize(number as i64);
        }
    };
    super::timed(1, repeats, || {
        finish();
        for _ in 0..together {
            run().map_err(|error| Failure::data(error.to_string()))?;
        }
        finish();
        Ok(())
    })
    .map(|seconds| seconds.into_iter().map(|seconds| seconds / together as f64).collect())
}

/// Bytes a second of copying a tensor: read once, written once.
fn copy_speed(sizes: &Sizes, repeats: usize) -> Result<f64, Failure> {
    let [from, to] = [(); 2].map(|()| Tensor::ones([sizes.tokens, sizes.inner], (sizes.kind, sizes.device)));
    let run: Run<'_> = Box::new(|| Ok(to.shallow_clone().f_copy_(&from)?));
    let times = timed(&run, sizes.device, repeats)?;
    Ok(2.0 * bytes(&from) / times[times.len() / 2])
}

/// Memory of a tensor's numbers.
fn bytes(tensor: &Tensor) -> f64 {
    (tensor.numel() * tensor.kind().elt_size_in_bytes()) as f64
}

/// What the operations work on.
struct Tensors {
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    grad: Tensor,
    gate: Tensor,
    up: Tensor,
    grad_product: Tensor,
    logits: Tensor,
    targets: Tensor,
}

impl Tensors {
    fn of(sizes: &Sizes) -> Self {
        tch::manual_seed(1);
        let Sizes { tokens, hidden, inner, vocab, kind, device } = *sizes;
        let normal = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, device)).to_kind(kind);
        let rows = (tokens / 4).max(1);
        Self {
            x: normal(&[tokens, hidden]),
            residual: normal(&[tokens, hidden]),
            weight: normal(&[hidden]),
            bias: normal(&[hidden]),
            grad: normal(&[tokens, hidden]),
            gate: normal(&[tokens, inner]),
            up: normal(&[tokens, inner]),
            grad_product: normal(&[tokens, inner]),
            logits: normal(&[rows, vocab]),
            targets: Tensor::arange(rows, (Kind::Int64, device)).remainder(vocab),
        }
    }
}

/// RMSNorm alone and of a sum, LayerNorm, and their gradients.
fn norms(t: &Tensors, machine: Option<OnDevice>) -> Vec<Job<'_>> {
    let stream = bytes(&t.x);
    let cases = [
        ("rms_norm", "rms_norm_backward", Norm::Rms, false),
        ("rms_norm_of_sum", "rms_norm_of_sum_backward", Norm::Rms, true),
        ("layer_norm", "layer_norm_backward", Norm::Layer, false),
    ];
    let mut jobs = Vec::new();
    for (operation, backward, norm, adds) in cases {
        let residual = adds.then_some(&t.residual);
        let bias = (norm == Norm::Layer).then_some(&t.bias);
        let inputs = Inputs { x: &t.x, residual, weight: &t.weight, bias, epsilon: EPSILON };
        let plain = move |x: &Tensor, weight: &Tensor| match norm {
            Norm::Rms => rms_norm(x, residual, weight, EPSILON, Use::Never),
            Norm::Layer => layer_norm(x, residual, weight, bias, EPSILON, Use::Never),
        };
        jobs.push(Job {
            operation,
            bytes: if adds { 4.0 } else { 2.0 } * stream,
            kernel: machine.map(|machine| -> Run<'_> { Box::new(move || norm.forward(&machine, &inputs).map(drop)) }),
            libtorch: Box::new(move || tch::no_grad(|| plain(&t.x, &t.weight).map(drop))),
        });
        let (leaf, leaf_weight) = (t.x.copy().set_requires_grad(true), t.weight.copy().set_requires_grad(true));
        let through = plain(&leaf, &leaf_weight);
        let grad_sum = adds.then_some(&t.grad);
        jobs.push(Job {
            operation: backward,
            bytes: if adds { 4.0 } else { 3.0 } * stream,
            kernel: machine.map(|machine| -> Run<'_> {
                let normed = norm.forward(&machine, &inputs);
                Box::new(move || {
                    let Ok(normed) = &normed else { return norm.forward(&machine, &inputs).map(drop) };
                    let (inputs, kept) = (Inputs { x: &normed.sum, residual: None, ..inputs }, &normed.statistics);
                    norm.backward(&machine, &inputs, Some(kept), Gradients { grad: &t.grad, grad_sum }).map(drop)
                })
            }),
            libtorch: Box::new(move || {
                let Ok(through) = &through else { return plain(&leaf, &leaf_weight).map(drop) };
                // The gradient of the sum of all, which costs making one more tensor of ones.
                let all = through.normed.f_sum(Kind::Float)?;
                Ok(Tensor::f_run_backward(&[all], &[&leaf, &leaf_weight], true, false).map(drop)?)
            }),
        });
    }
    jobs
}

/// SwiGLU and its gradients.
fn swiglus(t: &Tensors, machine: Option<OnDevice>) -> Vec<Job<'_>> {
    let product = bytes(&t.gate);
    let leaves = [&t.gate, &t.up].map(|tensor| tensor.copy().set_requires_grad(true));
    let through = swiglu(&leaves[0], &leaves[1], Use::Never);
    vec![
        Job {
            operation: "swiglu",
            bytes: 3.0 * product,
            kernel: machine
                .map(|machine| -> Run<'_> { Box::new(move || swiglu_on(machine, &t.gate, &t.up).map(drop)) }),
            libtorch: Box::new(|| tch::no_grad(|| swiglu(&t.gate, &t.up, Use::Never).map(drop))),
        },
        Job {
            operation: "swiglu_backward",
            bytes: 5.0 * product,
            kernel: machine.map(|machine| -> Run<'_> {
                let backward = torch_ext::fused::swiglu::backward;
                Box::new(move || backward(&machine, &t.gate, &t.up, &t.grad_product, false).map(drop))
            }),
            libtorch: Box::new(move || {
                let Ok(through) = &through else { return swiglu(&leaves[0], &leaves[1], Use::Never).map(drop) };
                let all = through.f_sum(Kind::Float)?;
                Ok(Tensor::f_run_backward(&[all], &[&leaves[0], &leaves[1]], true, false).map(drop)?)
            }),
        },
    ]
}

/// Losses and gradient of rows of logits; each run takes the gradient of the run before for logits.
fn entropy(t: &Tensors, machine: Option<OnDevice>) -> Job<'_> {
    let targets = || Targets { columns: &t.targets, ignored: -100, weights: None, gradient: Some(1.0) };
    Job {
        operation: "cross_entropy",
        bytes: 2.0 * bytes(&t.logits),
        kernel: machine.map(|machine| -> Run<'_> {
            Box::new(move || cross_entropy::by_kernel(&machine, &mut t.logits.shallow_clone(), &targets()).map(drop))
        }),
        libtorch: Box::new(move || cross_entropy::plain(&mut t.logits.shallow_clone(), &targets()).map(drop)),
    }
}

/// Rotation of queries in place, heads inside positions as a projection leaves them; none where the width has no heads of
/// [`HEAD_DIM`].
fn rotation(t: &Tensors, machine: Option<OnDevice>) -> Option<Job<'_>> {
    let (tokens, hidden) = t.x.size2().ok()?;
    if hidden % HEAD_DIM != 0 {
        return None;
    }
    let x = t.x.view([1, tokens, hidden / HEAD_DIM, HEAD_DIM]).transpose(1, 2);
    let angles = Tensor::ones([tokens, HEAD_DIM / 2, 2], (Kind::Float, t.x.device())) * 0.5_f64.sqrt();
    let [cos, sin] = [0, 1].map(|which| angles.select(2, which).repeat([1, 2]).to_kind(t.x.kind()));
    let rotated = x.shallow_clone();
    Some(Job {
        operation: "rotate",
        bytes: 2.0 * bytes(&t.x),
        kernel: machine.map(|_| -> Run<'_> {
            Box::new(move || {
                let turned = attention::cuda::rotate(&mut x.shallow_clone(), &angles, false);
                turned.map_err(|error| FusedError::Broken { operation: "rotate", reason: error.to_string() })
            })
        }),
        libtorch: Box::new(move || {
            let halves = [rotated.narrow(3, HEAD_DIM / 2, HEAD_DIM / 2).f_neg()?, rotated.narrow(3, 0, HEAD_DIM / 2)];
            Ok(rotated.f_mul(&cos)?.f_add(&Tensor::f_cat(&halves, 3)?.f_mul(&sin)?).map(drop)?)
        }),
    })
}

impl Row {
    /// One line.
    fn told(&self) -> String {
        let Self { operation, by, milliseconds, gigabytes_per_second, share_of_copy, .. } = self;
        let ratio = self.ratio_to_libtorch.map_or(String::new(), |ratio| format!(", {ratio:.2} x libtorch"));
        format!(
            "{operation:<26} {by:<9} {milliseconds:>9.3} ms {gigabytes_per_second:>8.1} GB/s, {:.1} % of a copy{ratio}",
            100.0 * share_of_copy
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(by: &'static str, share_of_copy: f64) -> Row {
        Row {
            operation: "swiglu",
            by,
            device: "cuda:0".to_owned(),
            dtype: "bfloat16",
            bytes: 1e9,
            milliseconds: 1.0,
            milliseconds_least: 1.0,
            repeats: 1,
            gigabytes_per_second: 1e3,
            share_of_copy,
            ratio_to_libtorch: None,
        }
    }

    #[test]
    fn a_kernel_below_the_bar_is_named_and_libtorch_is_not_judged() {
        let bench = |bar| KernelsBench {
            device: None,
            only: None,
            tokens: None,
            hidden: 1,
            inner: 1,
            vocab: 1,
            dtype: None,
            repeats: 1,
            bar,
            json: false,
            out: None,
        };
        let rows = [row("libtorch", 0.2), row("kernel", 0.8)];
        assert!(bench(None).judged(&rows).is_ok() && bench(Some(0.79)).judged(&rows).is_ok());
        let refusal = bench(Some(0.85)).judged(&rows).unwrap_err().to_string();
        assert_eq!(refusal, "below 85 % of the copy's speed: swiglu 80.0 %");
        assert!(bench(Some(0.85)).judged(&[row("kernel", f64::NAN)]).is_err());
    }
}
