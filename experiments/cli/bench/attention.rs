//! Attention's speed: our backends and libtorch's best way, in turns, in one run.

use std::path::PathBuf;
use std::time::Instant;

use attention::workload::Workload;
use attention::{AttnProblem, AttnShape, Backend, DType, tiled};
use clap::{Args, ValueEnum};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::super::options::DtypeName;
use super::super::output::{print, print_json, write_json};
use super::peers::Peer;
use super::settle;
use crate::error::Failure;
use crate::runtime::device::{device, device_name, kind_name};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Forward,
    Backward,
}

/// Measures attention.
#[derive(Debug, Args)]
pub(super) struct AttentionBench {
    /// Device: cpu, cuda or cuda:N [default: cuda:0 when there is one]
    #[arg(long)]
    device: Option<String>,
    /// Backends beside libtorch's best way [default: every one that takes the problem, but the reference]
    #[arg(long, value_delimiter = ',')]
    backends: Vec<String>,
    /// Cases
    #[arg(long, value_delimiter = ',', default_value = "causal,alibi,window,documents")]
    cases: Vec<Workload>,
    /// Passes
    #[arg(long, value_delimiter = ',', default_value = "forward,backward")]
    passes: Vec<Direction>,
    /// Lengths in tokens [default: 4096, 8192, and 16384 for window and documents]
    #[arg(long, value_delimiter = ',')]
    lengths: Vec<usize>,
    /// Head sizes
    #[arg(long, value_delimiter = ',', default_value = "128")]
    head_dims: Vec<usize>,
    /// Sequences
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Heads of queries, keys and values
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// Element type [default: float32 on the CPU, bfloat16 elsewhere]
    #[arg(long)]
    dtype: Option<DtypeName>,
    /// CPU threads, one run of the table for each [default: all, and 1 for a single head's backward]
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Timed repeats, after one that is not
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Folder for the rows as JSON and the figures
    #[arg(long)]
    out: Option<PathBuf>,
}

/// One measurement. A forward pass counts 4 operations for each visible pair and element of a head, a backward pass 10.
#[derive(Debug, Clone, Serialize)]
struct Row {
    backend: String,
    /// How libtorch was asked; empty for backends of ours.
    way: &'static str,
    case: &'static str,
    pass: Direction,
    length: usize,
    head_dim: usize,
    batch: usize,
    heads: usize,
    threads: usize,
    dtype: &'static str,
    device: String,
    milliseconds: f64,
    milliseconds_least: f64,
    repeats: usize,
    tflops: f64,
    /// Of what this device was measured to do in this run: multiply-adds in registers on a CPU, a large matrix product
    /// elsewhere.
    fraction_of_peak: Option<f64>,
    /// Time of libtorch's fastest way divided by this time.
    ratio_to_libtorch: Option<f64>,
    /// Memory beside inputs and outputs, where it is known; libtorch's is its bias alone.
    scratch_bytes: Option<u64>,
}

/// What is measured at once.
#[derive(Debug, Clone, Copy)]
struct Setting {
    workload: Workload,
    direction: Direction,
    length: usize,
    head_dim: usize,
    heads: usize,
    threads: usize,
}

/// Something that is timed.
struct Contender<'a> {
    backend: String,
    way: &'static str,
    scratch_bytes: Option<u64>,
    run: Box<dyn Fn() -> Result<(), Failure> + 'a>,
}

impl AttentionBench {
    /// Measures and prints.
    ///
    /// # Errors
    ///
    /// When an option is wrong, a named backend declines a case, or a backend fails.
    pub(super) fn run(self) -> Result<(), Failure> {
        let device = device(self.device.as_deref())?;
        let backends = self.backends(device)?;
        if self.repeats == 0 || self.batch == 0 || self.heads == 0 || self.threads.contains(&0) {
            return Err(Failure::config("--repeats, --batch, --heads and --threads must be at least 1"));
        }
        let mut rows = Vec::new();
        let mut peak = (0, None);
        for setting in self.settings(device) {
            if peak.0 != setting.threads {
                peak = (setting.threads, peak_flops(device, self.kind(device), setting.threads));
            }
            for row in self.alone(setting, device, &backends, peak.1)? {
                eprintln!("{}", row.told());
                rows.push(row);
            }
        }
        if let Some(out) = &self.out {
            std::fs::create_dir_all(out).map_err(|e| crate::error::io_failure("make the folder", out, &e))?;
            write_json(&out.join("attention.json"), &rows)?;
            for path in plots::speed(&speeds(&rows), out).map_err(|e| Failure::data(e.to_string()))? {
                eprintln!("wrote {}", path.display());
            }
        }
        if self.json { print_json(&rows) } else { print_table(&rows) }
    }

    /// The backends named, or all but the reference, whose speed says nothing.
    fn backends(&self, device: Device) -> Result<Vec<Backend>, Failure> {
        if self.backends.is_empty() {
            let ours =
                |backend: &Backend| backend.runs_on(device) && !["reference", "libtorch"].contains(&backend.name());
            return Ok(Backend::all().filter(ours).collect());
        }
        let named = self.backends.iter().filter(|name| *name != "libtorch");
        Ok(named.map(|name| Backend::from_name(name)).collect::<Result<_, _>>()?)
    }

    fn kind(&self, device: Device) -> Kind {
        let usual = if device == Device::Cpu { DtypeName::Float32 } else { DtypeName::Bfloat16 };
        self.dtype.unwrap_or(usual).kind()
    }

    /// The table of settings, those of one thread count together.
    fn settings(&self, device: Device) -> Vec<Setting> {
        let all = usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
        let threads = if self.threads.is_empty() { vec![all] } else { self.threads.clone() };
        let mut settings = Vec::new();
        for &threads in &threads {
            for (&workload, &head_dim) in self.cases.iter().flat_map(|w| self.head_dims.iter().map(move |d| (w, d))) {
                for length in self.lengths_of(workload) {
                    for &direction in &self.passes {
                        settings.push(Setting { workload, direction, length, head_dim, heads: self.heads, threads });
                    }
                }
            }
        }
        let whole = self.threads.is_empty() && self.cases.contains(&Workload::Causal);
        if whole && device == Device::Cpu && all > 1 && self.passes.contains(&Direction::Backward) {
            let length = self.lengths_of(Workload::Causal).into_iter().max().unwrap_or(8192);
            for (threads, &head_dim) in [all, 1].iter().flat_map(|t| self.head_dims.iter().map(move |d| (*t, d))) {
                let (workload, direction) = (Workload::Causal, Direction::Backward);
                settings.push(Setting { workload, direction, length, head_dim, heads: 1, threads });
            }
        }
        settings
    }

    fn lengths_of(&self, workload: Workload) -> Vec<usize> {
        match workload {
            _ if !self.lengths.is_empty() => self.lengths.clone(),
            Workload::Causal | Workload::Alibi => vec![4096, 8192],
            Workload::Window | Workload::WideWindow | Workload::Documents => vec![4096, 8192, 16384],
        }
    }

    /// One setting on a thread of its own, with as many threads for libtorch and for rayon as it asks for.
    fn alone(
        &self,
        setting: Setting,
        device: Device,
        backends: &[Backend],
        peak: Option<f64>,
    ) -> Result<Vec<Row>, Failure> {
        let run = || {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(setting.threads).use_current_thread().build();
            let _pool = pool.map_err(|error| Failure::config(format!("{} threads: {error}", setting.threads)))?;
            // libtorch's count belongs to the thread that asks.
            tch::set_num_threads(i32::try_from(setting.threads).unwrap_or(i32::MAX));
            self.measured(setting, device, backends, peak)
        };
        let ended = std::thread::scope(|scope| scope.spawn(run).join());
        ended.unwrap_or_else(|_| Err(Failure::config("a benchmark's thread ended in a panic")))
    }

    /// One setting: every contender once, then in turns.
    fn measured(
        &self,
        setting: Setting,
        device: Device,
        backends: &[Backend],
        peak: Option<f64>,
    ) -> Result<Vec<Row>, Failure> {
        let Setting { length, head_dim, heads, .. } = setting;
        let shape = AttnShape {
            batch: self.batch,
            query_heads: heads,
            key_heads: heads,
            query_len: length,
            key_len: length,
            head_dim,
        };
        let problem = setting.workload.problem(shape).map_err(|e| Failure::config(e.to_string()))?;
        let kind = self.kind(device);
        let inputs = Inputs::of(&shape, kind, device);
        let dtype = attention::dtype_of(kind).unwrap_or(DType::F32);
        let peers = Peer::of(setting.workload, &problem, device, kind)?;
        let mut contenders = Vec::new();
        for peer in &peers {
            contenders.push(of_peer(peer, &inputs, setting.direction)?);
        }
        for &backend in backends {
            match backend.supports(&problem, dtype) {
                Ok(()) => contenders.push(of_backend(backend, &problem, &inputs, setting, dtype)?),
                Err(refusal) if self.backends.is_empty() => eprintln!("left out: {refusal}"),
                Err(refusal) => return Err(Failure::config(refusal.to_string())),
            }
        }
        let seconds = in_turns(&contenders, self.repeats, device)?;
        Ok(self.rows(setting, &problem, &contenders, &seconds, (device, peak)))
    }

    fn rows(
        &self,
        setting: Setting,
        problem: &AttnProblem,
        contenders: &[Contender<'_>],
        seconds: &[Vec<f64>],
        (device, peak): (Device, Option<f64>),
    ) -> Vec<Row> {
        let operations = operations(problem, setting.direction);
        let median = |times: &[f64]| times[times.len() / 2];
        let of_libtorch = contenders.iter().zip(seconds).filter(|(c, _)| c.backend == "libtorch");
        let libtorch = of_libtorch.map(|(_, times)| median(times)).min_by(f64::total_cmp);
        let row = |(contender, times): (&Contender<'_>, &Vec<f64>)| {
            let time = median(times);
            let flops = operations / time;
            Row {
                backend: contender.backend.clone(),
                way: contender.way,
                case: setting.workload.name(),
                pass: setting.direction,
                length: setting.length,
                head_dim: setting.head_dim,
                batch: self.batch,
                heads: setting.heads,
                threads: setting.threads,
                dtype: kind_name(self.kind(device)),
                device: device_name(device),
                milliseconds: time * 1e3,
                milliseconds_least: times[0] * 1e3,
                repeats: times.len(),
                tflops: flops / 1e12,
                fraction_of_peak: peak.map(|peak| flops / peak),
                ratio_to_libtorch: libtorch.map(|libtorch| libtorch / time),
                scratch_bytes: contender.scratch_bytes,
            }
        };
        contenders.iter().zip(seconds).map(row).collect()
    }
}

/// Operations that a pass cannot avoid.
fn operations(problem: &AttnProblem, direction: Direction) -> f64 {
    let each = match direction {
        Direction::Forward => 4.0,
        Direction::Backward => 10.0,
    };
    each * problem.visible_pairs() as f64 * problem.shape().head_dim as f64
}

/// Tensors of one setting; q, k and v ask for gradients, which costs a forward pass without tracking nothing.
struct Inputs {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad_output: Tensor,
}

impl Inputs {
    fn of(shape: &AttnShape, kind: Kind, device: Device) -> Self {
        tch::manual_seed(1);
        let dims: Vec<i64> = shape.query_dims().iter().map(|&size| size as i64).collect();
        let normal = || Tensor::randn(&dims, (Kind::Float, device)).to_kind(kind);
        let leaf = || normal().set_requires_grad(true);
        let grad_output = Tensor::ones(&dims, (kind, device));
        Self { q: leaf(), k: leaf(), v: leaf(), grad_output }
    }
}

fn of_peer<'a>(peer: &'a Peer, inputs: &'a Inputs, direction: Direction) -> Result<Contender<'a>, Failure> {
    let Inputs { q, k, v, .. } = inputs;
    let run: Box<dyn Fn() -> Result<(), Failure> + 'a> = match direction {
        Direction::Forward => Box::new(move || tch::no_grad(|| Ok(peer.forward(q, k, v).map(drop)?))),
        Direction::Backward => {
            let output = peer.forward(q, k, v)?;
            // The gradient of the output is all ones, which libtorch makes itself.
            Box::new(move || Ok(Tensor::f_run_backward(&[&output], &[q, k, v], true, false).map(drop)?))
        }
    };
    Ok(Contender { backend: "libtorch".to_owned(), way: peer.name, scratch_bytes: Some(peer.scratch_bytes()), run })
}

fn of_backend<'a>(
    backend: Backend,
    problem: &'a AttnProblem,
    inputs: &'a Inputs,
    setting: Setting,
    dtype: DType,
) -> Result<Contender<'a>, Failure> {
    let Inputs { q, k, v, grad_output } = inputs;
    let run: Box<dyn Fn() -> Result<(), Failure> + 'a> = match setting.direction {
        Direction::Forward => Box::new(move || tch::no_grad(|| Ok(backend.attend(problem, q, k, v).map(drop)?))),
        Direction::Backward => {
            let attended = tch::no_grad(|| backend.attend(problem, q, k, v))?;
            Box::new(move || {
                tch::no_grad(|| Ok(backend.backward(problem, q, k, v, &attended, grad_output).map(drop)?))
            })
        }
    };
    let scratch_bytes = backend.scratch_bytes(problem, dtype, setting.threads).map(|scratch| match setting.direction {
        Direction::Forward => scratch.forward as u64,
        Direction::Backward => scratch.backward as u64,
    });
    Ok(Contender { backend: backend.name().to_owned(), way: "", scratch_bytes, run })
}

/// Sorted seconds of each contender, after one run of each that is not timed.
fn in_turns(contenders: &[Contender<'_>], repeats: usize, device: Device) -> Result<Vec<Vec<f64>>, Failure> {
    let mut seconds = vec![Vec::with_capacity(repeats); contenders.len()];
    for turn in 0..=repeats {
        for (contender, times) in contenders.iter().zip(&mut seconds) {
            // libtorch's idle threads spin for some milliseconds after their work, and would take them from the next.
            std::thread::sleep(std::time::Duration::from_millis(20));
            let started = Instant::now();
            (contender.run)()?;
            settle(device);
            if turn > 0 {
                times.push(started.elapsed().as_secs_f64());
            }
        }
    }
    seconds.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    Ok(seconds)
}

/// Operations a second that the device was measured to do; none where nothing can be said.
pub(super) fn peak_flops(device: Device, kind: Kind, threads: usize) -> Option<f64> {
    if device == Device::Cpu {
        let one = || tiled::fma_peak_gflops(tiled::Isa::best());
        // All at once: cores share power and, on some machines, arithmetic units.
        let each = std::thread::scope(|scope| {
            let started: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
            started.into_iter().map(|thread| thread.join().unwrap_or(0.0)).sum::<f64>()
        });
        return (each > 0.0).then_some(each * 1e9);
    }
    let side = 8192;
    let matrix = || Tensor::randn([side, side], (Kind::Float, device)).to_kind(kind);
    let (a, b) = (matrix(), matrix());
    if !device.is_cuda() {
        return None;
    }
    let mut best = f64::INFINITY;
    for _ in 0..8 {
        settle(device);
        let started = Instant::now();
        let _product = a.f_matmul(&b).ok()?;
        settle(device);
        best = best.min(started.elapsed().as_secs_f64());
    }
    Some(2.0 * (side as f64).powi(3) / best)
}

impl Row {
    /// Backend and way.
    fn name(&self) -> String {
        if self.way.is_empty() { self.backend.clone() } else { format!("{} ({})", self.backend, self.way) }
    }

    /// One line.
    fn told(&self) -> String {
        let Self { case, length, head_dim, heads, threads, milliseconds, tflops, .. } = self;
        let pass = if self.pass == Direction::Forward { "forward" } else { "backward" };
        let peak = self.fraction_of_peak.map_or(String::new(), |share| format!(", {:.1} % of peak", share * 100.0));
        let ratio = self.ratio_to_libtorch.map_or(String::new(), |ratio| format!(", {ratio:.2} x libtorch"));
        let name = self.name();
        format!(
            "{case} {pass} {length} x {head_dim}, {heads} heads, {threads} threads, {name}: {milliseconds:.1} ms, \
             {tflops:.3} TFLOP/s{peak}{ratio}"
        )
    }
}

fn print_table(rows: &[Row]) -> Result<(), Failure> {
    for row in rows {
        print(&format!("{}\n", row.told()));
    }
    Ok(())
}

/// The rows as the figures want them: those of one head alone are another table.
fn speeds(rows: &[Row]) -> Vec<plots::Speed> {
    let most = rows.iter().map(|row| row.heads).max().unwrap_or(0);
    let told = rows.iter().filter(|row| row.heads == most);
    told.map(|row| plots::Speed {
        case: row.case.to_owned(),
        backward: row.pass == Direction::Backward,
        name: row.name(),
        length: row.length,
        tflops: row.tflops,
        peak: row.fraction_of_peak.map(|share| row.tflops / share),
        setting: format!(
            "head size {}, {} heads, {} on {}, {} CPU threads",
            row.head_dim, row.heads, row.dtype, row.device, row.threads
        ),
    })
    .collect()
}
