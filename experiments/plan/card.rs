//! Devices that a run is planned for: what they hold, and the rates that work of each kind is known to reach on them.

use std::sync::LazyLock;

use attention::tiled;
use serde::Serialize;
use torch_ext::cuda::Arch;

use crate::error::Failure;
use crate::runtime::memory::total_bytes;

/// A rate at each of some lengths, in units per second; between them it is interpolated over the logarithm of the length.
type Curve = Vec<(f64, f64)>;

/// A device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Card {
    /// Name that `--gpu` takes.
    pub name: &'static str,
    /// Architecture of its kernels; none for a CPU.
    #[serde(skip)]
    pub arch: Option<Arch>,
    /// Bytes that the driver gives to programs.
    pub bytes: u64,
    /// Bytes of those that the driver's context and the libraries' workspaces take.
    pub context_bytes: u64,
    /// Share of what tensors hold that the allocator holds beside them.
    pub reserve: f64,
    /// Peak of 16-bit matrix products by the data sheet, in FLOP/s; that of float32 on a CPU. What MFU is a share of.
    pub peak_flops: f64,
    /// What large matrix products sustain, in FLOP/s.
    pub matrix_flops: f64,
    /// What causal attention reaches forward, in FLOP/s by length.
    #[serde(skip)]
    pub attention_forward: Curve,
    /// The same backward.
    #[serde(skip)]
    pub attention_backward: Curve,
    /// Bytes read and written per second by operations element by element.
    pub copy_bytes: f64,
    /// Bytes per second to or from pinned host memory, one way.
    pub link_bytes: f64,
    /// Share of these rates together that a whole trainer reaches.
    pub efficiency: f64,
    /// Where the rates come from.
    pub basis: &'static str,
}

/// Length, then causal FLOP/s at head size 128.
const HOPPER_FORWARD: [(f64, f64); 5] =
    [(2048.0, 484e12), (4096.0, 591e12), (8192.0, 644e12), (16384.0, 673e12), (32768.0, 688e12)];
const HOPPER_BACKWARD: [(f64, f64); 5] =
    [(2048.0, 370e12), (4096.0, 474e12), (8192.0, 541e12), (16384.0, 579e12), (32768.0, 581e12)];

/// Name of this machine without a GPU.
const CPU: &str = "cpu";

/// Best published trainer of one GPU: LLM.Q on an H100 does 13,863 tokens/s of Qwen2.5-7B at length 1024 with nothing
/// computed again (its repository, benchmarks/H100x1.md), where the rates below would give 16.0 thousand.
const EFFICIENCY: f64 = 0.87;

const GIB: f64 = (1_u64 << 30) as f64;

const HOPPER_BASIS: &str = "matrix products: 85 % of 798 TFLOP/s, read on an H100 at 8192^3; attention: cuDNN 9.19.1 on an \
    H200 (cudnn-frontend, benchmark/sdpa_benchmark_training/results, llama3.1, causal); copies: 3.0 (H100) and 4.3 TB/s \
    (H200), read on such cards; the whole: 87 % of that, as LLM.Q reaches on an H100";
const DATASHEET_BASIS: &str = "not measured: 80 % of the data sheet's 16-bit matrix products (float32 sums), 60 and 55 % of \
    it for attention forward and backward as FlashAttention-2's paper reports for an A100, 85 % of the memory's bandwidth; \
    the whole: 87 % of that, as LLM.Q reaches on an H100";
const CPU_BASIS: &str = "multiply-adds alone are timed on a thread of this machine and counted for every core: float32 matrix \
    products 83 % of that, attention 78 forward and 74 backward, as read on a 2-core Zen 4, copies 12 GB/s a core; the whole: 95 % \
    of that";

/// GFLOP/s of multiply-adds on a thread of this machine, timed once.
static PEAK_OF_A_THREAD: LazyLock<f64> = LazyLock::new(|| tiled::fma_peak_gflops(tiled::Isa::best()));

impl Card {
    /// Names that [`Card::named`] knows.
    pub const NAMES: [&'static str; 5] = ["h100-80g", "h200-141g", "a100-80g", "rtx4090-24g", "cpu"];

    /// The device of that name; `cpu` is this machine's.
    ///
    /// # Errors
    ///
    /// For a name that is not known.
    pub fn named(name: &str) -> Result<Self, Failure> {
        let hopper = |name, gibibytes: f64, copy_bytes| Self {
            name,
            arch: Some(Arch::SM_90A),
            bytes: (gibibytes * GIB) as u64,
            context_bytes: 600 << 20,
            reserve: 0.04,
            peak_flops: 989.5e12,
            matrix_flops: 680e12,
            attention_forward: HOPPER_FORWARD.to_vec(),
            attention_backward: HOPPER_BACKWARD.to_vec(),
            copy_bytes,
            link_bytes: 50e9,
            efficiency: EFFICIENCY,
            basis: HOPPER_BASIS,
        };
        match name {
            "h100-80g" => Ok(hopper("h100-80g", 79.1, 3.0e12)),
            "h200-141g" => Ok(hopper("h200-141g", 139.7, 4.3e12)),
            "a100-80g" => Ok(Self {
                arch: Some(Arch::SM_80),
                peak_flops: 312e12,
                matrix_flops: 250e12,
                attention_forward: vec![(0.0, 187e12)],
                attention_backward: vec![(0.0, 172e12)],
                link_bytes: 25e9,
                basis: DATASHEET_BASIS,
                ..hopper("a100-80g", 79.1, 1.73e12)
            }),
            "rtx4090-24g" => Ok(Self {
                arch: Some(Arch::SM_89),
                peak_flops: 165e12,
                matrix_flops: 132e12,
                attention_forward: vec![(0.0, 99e12)],
                attention_backward: vec![(0.0, 91e12)],
                link_bytes: 25e9,
                basis: DATASHEET_BASIS,
                ..hopper("rtx4090-24g", 23.6, 0.86e12)
            }),
            CPU => Ok(Self::cpu()),
            other => {
                let known = Self::NAMES.join(", ");
                Err(Failure::config(format!("--gpu {other}: is none of {known}")))
            }
        }
    }

    /// The device of a run: this machine without a GPU, or the named one that is most like a GPU, with the GPU's memory.
    pub fn at(device: tch::Device) -> Self {
        let Ok(bytes) = torch_ext::memory::capacity(device) else { return Self::cpu() };
        let gpus = Self::NAMES.iter().filter(|name| **name != CPU).filter_map(|name| Self::named(name).ok());
        let nearest = gpus.min_by_key(|card| card.bytes.abs_diff(bytes));
        nearest.map_or_else(Self::cpu, |card| Self { bytes, ..card })
    }

    /// This machine without a GPU.
    fn cpu() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let peak = cores * 1e9 * *PEAK_OF_A_THREAD;
        Self {
            name: CPU,
            arch: None,
            bytes: total_bytes().unwrap_or(u64::MAX),
            context_bytes: 300 << 20,
            reserve: 0.0,
            peak_flops: peak,
            matrix_flops: 0.83 * peak,
            attention_forward: vec![(0.0, 0.78 * peak)],
            attention_backward: vec![(0.0, 0.74 * peak)],
            copy_bytes: 12e9 * cores,
            // Host memory is the device's own.
            link_bytes: 12e9 * cores,
            efficiency: 0.95,
            basis: CPU_BASIS,
        }
    }

    /// What libtorch calls it.
    pub fn device(&self) -> tch::Device {
        if self.arch.is_none() { tch::Device::Cpu } else { tch::Device::Cuda(0) }
    }

    /// Causal FLOP/s of attention at a length, forward and backward.
    pub fn attention_flops(&self, length: f64) -> (f64, f64) {
        (at(&self.attention_forward, length), at(&self.attention_backward, length))
    }
}

/// A curve's value; flat beyond its ends.
fn at(curve: &[(f64, f64)], x: f64) -> f64 {
    let above = curve.iter().position(|(here, _)| *here >= x).unwrap_or(curve.len());
    match (above.checked_sub(1).map(|below| curve[below]), curve.get(above).copied()) {
        (None, Some((_, y))) | (Some((_, y)), None) => y,
        (Some((x0, y0)), Some((x1, y1))) => y0 + (y1 - y0) * (x / x0).ln() / (x1 / x0).ln(),
        (None, None) => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_device_and_no_other() {
        for name in Card::NAMES {
            let card = Card::named(name).unwrap();
            assert_eq!(card.name, name);
            assert!(card.bytes > card.context_bytes && card.matrix_flops < card.peak_flops, "{card:?}");
        }
        let refused = Card::named("h100").unwrap_err();
        assert!(refused.exit_code() == 2 && refused.to_string().contains("h100-80g, h200-141g"), "{refused}");
    }

    #[test]
    fn rates_between_measured_lengths_are_interpolated_and_flat_beyond() {
        let card = Card::named("h200-141g").unwrap();
        assert_eq!(card.attention_flops(4096.0), (591e12, 474e12));
        assert_eq!((card.attention_flops(64.0).0, card.attention_flops(1e6).1), (484e12, 581e12));
        let between = card.attention_flops(4096.0 * 2_f64.sqrt()).0;
        assert!((between - (591e12 + 644e12) / 2.0).abs() < 1e9, "{between}");
    }
}
