//! `bowline doctor`: what this machine can do.

use clap::Args;
use serde::Serialize;

use super::output::{print, print_json};
use crate::error::Failure;

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
        let devices = if cuda.is_available() { vec!["cpu", "cuda"] } else { vec!["cpu"] };
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
            },
            cuda: Cuda { available: cuda.is_available(), devices: cuda.devices(), explanation: cuda.to_string() },
            nvrtc: Nvrtc::find(),
            backends: attention::Backend::all()
                .map(|backend| BackendFinding { name: backend.name(), runs_on: devices.clone() })
                .collect(),
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
        line("cuda", cuda.explanation.clone());
        line("nvrtc", nvrtc.explanation.clone());
        for backend in backends {
            line("attention", format!("{} on {}", backend.name, backend.runs_on.join(", ")));
        }
        page
    }
}

/// What the set-up wrote about where libtorch came from: `source.json` beside the `lib` folder.
fn source(folder: &std::path::Path) -> Option<serde_json::Value> {
    let text = std::fs::read_to_string(folder.parent()?.join("source.json")).ok()?;
    serde_json::from_str(&text).ok()
}
