//! `bowline doctor`: what this machine can do.

use attention::{Alibi, AttnProblem, AttnShape, Backend, Mask, ProblemError, dtype_of};
use clap::Args;
use serde::Serialize;
use tch::{Device, Kind};

use super::output::{print, print_json};
use crate::error::Failure;
use crate::model::libtorch_kernel;

/// Looks around.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Findings {
    program: String,
    libtorch: Libtorch,
    cpu: Cpu,
    cuda: Cuda,
    nvrtc: Nvrtc,
    backends: Vec<BackendFinding>,
}

#[derive(Debug, Serialize)]
struct Libtorch {
    version: String,
    folder: Option<String>,
    source: Option<serde_json::Value>,
}

#[derive(Debug, Serialize)]
struct Cpu {
    features: Vec<&'static str>,
    cores: usize,
    threads: i32,
    /// Whether libtorch's OpenMP threads wait for their next loop by spinning, as they do unless they are told otherwise.
    threads_spin: bool,
}

#[derive(Debug, Serialize)]
struct Cuda {
    available: bool,
    devices: usize,
    explanation: String,
}

/// The compiler of our CUDA kernels.
#[derive(Debug, Serialize)]
struct Nvrtc {
    available: bool,
    explanation: String,
}

impl Nvrtc {
    fn find() -> Self {
        match torch_ext::cuda::Nvrtc::get() {
            Ok(found) => {
                let ((major, minor), place) = (found.version(), found.library().display());
                Self { available: true, explanation: format!("{major}.{minor}, in {place}") }
            }
            Err(error) => Self { available: false, explanation: error.to_string() },
        }
    }
}

#[derive(Debug, Serialize)]
struct BackendFinding {
    name: &'static str,
    runs_on: Vec<&'static str>,
    /// Where `--backend auto` takes it for causal attention.
    default_on: Vec<&'static str>,
    /// Why it is the default, why it cannot run, which kernels it has.
    notes: Vec<String>,
}

/// What devices are asked about: causal attention of a model of usual size.
struct Typical {
    device: Device,
    name: &'static str,
    kind: Kind,
}

impl Typical {
    fn problem(alibi: bool) -> Result<AttnProblem, ProblemError> {
        let shape = AttnShape { batch: 1, query_heads: 8, key_heads: 8, query_len: 1024, key_len: 1024, head_dim: 128 };
        let problem = AttnProblem::new(shape)?.with_mask(Mask::causal(&shape))?;
        if alibi { problem.with_alibi(Alibi::new(&[0.5; 8])?) } else { Ok(problem) }
    }
}

impl BackendFinding {
    fn of(backend: Backend, devices: &[Typical]) -> Self {
        let here = devices.iter().filter(|typical| backend.runs_on(typical.device));
        let mut finding = Self { name: backend.name(), runs_on: Vec::new(), default_on: Vec::new(), notes: Vec::new() };
        for Typical { device, name, kind } in here {
            if let Err(note) = finding.add(backend, *device, name, *kind) {
                finding.notes.push(note);
            }
        }
        if finding.runs_on.is_empty() && finding.notes.is_empty() {
            finding.notes.push("no device for it here".to_owned());
        }
        finding
    }

    fn add(&mut self, backend: Backend, device: Device, name: &'static str, kind: Kind) -> Result<(), String> {
        let Some(dtype) = dtype_of(kind) else { return Ok(()) };
        let [causal, alibi] = [false, true].map(Typical::problem);
        let (causal, alibi) = (causal.map_err(|e| e.to_string())?, alibi.map_err(|e| e.to_string())?);
        backend.supports(&causal, dtype).map_err(|unsupported| format!("not on {name}: {unsupported}"))?;
        self.runs_on.push(name);
        let choice = Backend::default_for(device, &causal, dtype);
        if choice.backend == backend {
            self.default_on.push(name);
            self.notes.push(format!("default on {name}: {}", choice.reason));
        }
        if backend.name() == "libtorch" {
            let kernel = |problem| libtorch_kernel(problem, device, kind).map_or("?".to_owned(), |k| k.to_string());
            let (causal, alibi) = (kernel(&causal), kernel(&alibi));
            self.notes.push(format!("its kernel on {name}: {causal} for causal, {alibi} with a dense bias for ALiBi"));
        }
        Ok(())
    }
}

impl Doctor {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// Only when the result cannot be printed.
    pub fn run(self) -> Result<(), Failure> {
        let findings = Findings::gather();
        if self.json {
            return print_json(&findings);
        }
        print(&findings.page());
        Ok(())
    }
}

impl Findings {
    fn gather() -> Self {
        let cuda = torch_ext::cuda::state();
        let mut devices = vec![Typical { device: Device::Cpu, name: "cpu", kind: Kind::Float }];
        if cuda.is_available() {
            devices.push(Typical { device: Device::Cuda(0), name: "cuda", kind: Kind::BFloat16 });
        }
        let info = torch_ext::libtorch::info();
        Self {
            program: format!("bowline {}", env!("CARGO_PKG_VERSION")),
            libtorch: Libtorch {
                version: info.version.unwrap_or_else(|| "unknown".to_owned()),
                source: info.folder.as_ref().and_then(|folder| source(folder)),
                folder: info.folder.map(|folder| folder.display().to_string()),
            },
            cpu: Cpu {
                features: torch_ext::libtorch::cpu_features()
                    .into_iter()
                    .filter(|(_, has)| *has)
                    .map(|(name, _)| name)
                    .collect(),
                cores: std::thread::available_parallelism().map_or(1, usize::from),
                threads: tch::get_num_threads(),
                threads_spin: threads_spin(),
            },
            cuda: Cuda { available: cuda.is_available(), devices: cuda.devices(), explanation: cuda.to_string() },
            nvrtc: Nvrtc::find(),
            backends: Backend::all().map(|backend| BackendFinding::of(backend, &devices)).collect(),
        }
    }

    fn page(&self) -> String {
        let Self { program, libtorch, cpu, cuda, nvrtc, backends } = self;
        let mut page = format!("{program}\n");
        let mut line = |what: &str, value: String| page += &format!("{what:10} {value}\n");
        line("libtorch", libtorch.version.clone());
        line("", format!("in {}", libtorch.folder.as_deref().unwrap_or("a folder that could not be found out")));
        if let Some(source) = &libtorch.source {
            let text = |key: &str| source.get(key).and_then(|v| v.as_str()).unwrap_or("?").to_owned();
            line("", format!("from {} {}", text("kind"), text("path")));
        }
        line("cpu", format!("{} cores, {} threads, {}", cpu.cores, cpu.threads, cpu.features.join(" ")));
        if cpu.threads_spin && cpu.threads > 1 {
            line(
                "",
                "threads wait by spinning: where others use these cores, too, set OMP_WAIT_POLICY=passive".to_owned(),
            );
        }
        line("cuda", cuda.explanation.clone());
        line("nvrtc", nvrtc.explanation.clone());
        for BackendFinding { name, runs_on, notes, .. } in backends {
            let place =
                if runs_on.is_empty() { "nowhere here".to_owned() } else { format!("on {}", runs_on.join(", ")) };
            line("attention", format!("{name} {place}"));
            notes.iter().for_each(|note| line("", format!("  {note}")));
        }
        page
    }
}

/// By what GNU's OpenMP reads of its environment when it is loaded.
fn threads_spin() -> bool {
    let is = |name, value: &str| std::env::var(name).is_ok_and(|text| text.trim().eq_ignore_ascii_case(value));
    !is("OMP_WAIT_POLICY", "passive") && !is("GOMP_SPINCOUNT", "0")
}

/// What the set-up wrote about where libtorch came from: `source.json` beside the `lib` folder.
fn source(folder: &std::path::Path) -> Option<serde_json::Value> {
    let text = std::fs::read_to_string(folder.parent()?.join("source.json")).ok()?;
    serde_json::from_str(&text).ok()
}
