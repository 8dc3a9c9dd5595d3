//! Speed of the kernels that move memory: bytes that cannot be avoided over time, beside a copy measured in the same run.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tch::{Device, Kind, Tensor};
use torch_ext::fused::{FusedError, OnDevice, Use};

use jobs::Tensors;

use super::super::options::DtypeName;
use super::super::output::{print, print_json, write_json};
use super::settle;
use crate::error::{Failure, FailureKind};
use crate::runtime::device::{device, device_name, kind_name};

mod cpu;
mod jobs;

/// Runs that are timed together, so that waiting for the device counts little.
const TOGETHER: usize = 5;

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
    /// Numbers that a step of the optimizer moves [default: 2^27, on the CPU 2^22]
    #[arg(long)]
    parameters: Option<i64>,
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
    /// `kernel` (ours), `libtorch`, or `cpu` (ours, where there is no kernel).
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
    /// By our kernel, on a device.
    kernel: Option<Run<'a>>,
    /// By libtorch's operations.
    libtorch: Option<Run<'a>>,
    /// By vector code of ours, on the CPU.
    cpu: Option<Run<'a>>,
}

/// Sizes of everything.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    tokens: i64,
    hidden: i64,
    inner: i64,
    vocab: i64,
    parameters: i64,
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
        let parameters = self.parameters.unwrap_or(if on_cpu { 1 << 22 } else { 1 << 27 });
        let (hidden, inner, vocab) = (self.hidden, self.inner, self.vocab);
        if [tokens, hidden, inner, vocab, parameters].into_iter().any(|n| n < 1) || self.repeats == 0 {
            return Err(Failure::config(
                "--tokens, --hidden, --inner, --vocab, --parameters and --repeats must be at least 1",
            ));
        }
        Ok(Sizes { tokens, hidden, inner, vocab, parameters, kind: self.dtype.unwrap_or(usual).kind(), device })
    }

    /// The operations, by kernels where there is a device for them.
    fn jobs<'a>(&self, tensors: &'a Tensors, machine: Option<OnDevice>) -> Vec<Job<'a>> {
        let mut jobs = jobs::all(tensors, machine);
        jobs.iter_mut().filter(|job| job.cpu.is_none()).for_each(|job| job.cpu = cpu::way(job.operation, tensors));
        jobs.retain(|job| self.only.as_ref().is_none_or(|text| job.operation.contains(text)));
        jobs
    }

    fn measured(&self, job: &Job<'_>, sizes: &Sizes, copy: f64) -> Result<Vec<Row>, Failure> {
        let time = |run: &Option<Run<'_>>| run.as_ref().map(|run| timed(run, sizes.device, self.repeats)).transpose();
        let (of_libtorch, of_kernel, of_cpu) = (time(&job.libtorch)?, time(&job.kernel)?, time(&job.cpu)?);
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
        let ratio = |times: &[f64]| of_libtorch.as_ref().map(|libtorch| median(libtorch) / median(times));
        let mut rows: Vec<Row> = of_libtorch.iter().map(|times| row("libtorch", times, None)).collect();
        rows.extend(of_cpu.iter().map(|times| row("cpu", times, ratio(times))));
        rows.extend(of_kernel.iter().map(|times| row("kernel", times, ratio(times))));
        Ok(rows)
    }

    fn judged(&self, rows: &[Row]) -> Result<(), Failure> {
        let Some(bar) = self.bar else { return Ok(()) };
        // NaN reaches no bar.
        let at_least = |share: f64, bar: f64| share >= bar;
        let below: Vec<String> = rows
            .iter()
            .filter(|row| row.by == "kernel" && !at_least(row.share_of_copy, bar))
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
    super::timed(1, repeats, || {
        settle(device);
        for _ in 0..together {
            run().map_err(|error| Failure::data(error.to_string()))?;
        }
        settle(device);
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
            parameters: None,
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
