//! `bowline kernels`: the CUDA kernels of this program, compiled and judged without a device.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use clap::{Args, Subcommand};
use serde::Serialize;
use torch_ext::cuda::{Arch, Nvrtc, TableKernel, Verified, compiled, instructions, source_hash, special_under_way};

use super::output::{print, print_json};
use crate::error::{Failure, FailureKind};
use crate::runtime::progress::Progress;

/// Processor seconds that one kernel may take to compile: a user waits for them once for each kernel in use.
const LIMIT_SECONDS: f64 = 2.0;

/// Looks after the CUDA kernels; needs no device.
#[derive(Debug, Args)]
pub struct Kernels {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Compile every kernel and judge it: no spilled registers, no advisories, at most 2 s of processor time
    Check(Check),
    /// Every kernel, and the devices on which it passed its tests
    List(List),
}

#[derive(Debug, Args)]
struct Check {
    /// Architectures [default: sm_80,sm_89,sm_90a]
    #[arg(long, value_delimiter = ',')]
    arch: Vec<Arch>,
    /// Only kernels whose name has this in it
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One kernel for one architecture; numbers are absent where it did not compile.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    arch: String,
    registers: Option<u32>,
    /// What a launch adds to what the source declares included.
    shared_bytes: Option<u64>,
    spill_bytes: Option<u32>,
    advisories: Vec<String>,
    /// Instructions that the machine code lacks though the kernel was written for them.
    lacking: Vec<&'static str>,
    /// Exponentials that are computed while products are under way, where a kernel was written for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    under_way: Option<UnderWay>,
    /// Processor time of the compiling thread, so that other work on the machine does not count.
    compile_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How many exponentials are beside products in the machine code, and how many were to be.
#[derive(Debug, Clone, Copy, Serialize)]
struct UnderWay {
    found: usize,
    wanted: usize,
}

/// One kernel and where it passed.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    source: String,
    shared_bytes: usize,
    verified: Vec<Passed>,
}

#[derive(Debug, Serialize)]
struct Passed {
    arch: String,
    device: String,
    date: String,
    /// Whether the kernel is still the one that passed.
    current: bool,
}

impl Kernels {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When a kernel is at fault, or there is no compiler.
    pub fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Check(check) => check.run(),
            What::List(list) => list.run(),
        }
    }
}

impl Check {
    fn run(self) -> Result<(), Failure> {
        let nvrtc = Nvrtc::get().map_err(|error| Failure::config(error.to_string()))?;
        let archs = if self.arch.is_empty() { Arch::CHECKED.to_vec() } else { self.arch };
        let kernels: Vec<Box<dyn TableKernel>> = every_kernel()
            .into_iter()
            .filter(|kernel| self.only.as_ref().is_none_or(|text| kernel.name().contains(text)))
            .collect();
        if kernels.is_empty() {
            let text = self.only.unwrap_or_default();
            return Err(Failure::config(format!("--only {text}: no kernel has that in its name")));
        }
        let jobs: Vec<Job> = kernels
            .iter()
            .flat_map(|kernel| archs.iter().map(move |&arch| (kernel.as_ref(), arch)))
            .filter(|(kernel, arch)| kernel.is_for(*arch))
            .collect();
        if jobs.is_empty() {
            let names: Vec<String> = archs.iter().map(Arch::to_string).collect();
            return Err(Failure::config(format!("--arch {}: no such kernel is made for it", names.join(","))));
        }
        let rows = checked(&jobs, nvrtc);
        let at_fault = rows.iter().filter(|row| !row.faults().is_empty()).count();
        match self.json {
            true => print_json(&rows)?,
            false => print(&page(&rows, nvrtc)),
        }
        if at_fault > 0 {
            let message = format!("{at_fault} of {} compiled kernels are at fault", rows.len());
            return Err(Failure::new(FailureKind::Threshold, message));
        }
        Ok(())
    }
}

/// Every kernel of this program: those of attention, and those that fuse the rest of training.
fn every_kernel() -> Vec<Box<dyn TableKernel>> {
    fn boxed<T: TableKernel + 'static>(kernel: T) -> Box<dyn TableKernel> {
        Box::new(kernel)
    }
    let fused = torch_ext::fused::every_kernel().into_iter().map(boxed);
    attention::cuda::every_kernel().into_iter().map(boxed).chain(fused).collect()
}

/// What passed on a device, of every table.
fn entries() -> impl Iterator<Item = &'static Verified> {
    attention::cuda::manifest().entries().iter().chain(torch_ext::fused::manifest().entries())
}

/// A kernel and what to compile it for.
type Job<'a> = (&'a dyn TableKernel, Arch);

/// Compiles on every core, in any order; the rows are in the order of the jobs.
fn checked(jobs: &[Job<'_>], nvrtc: &Nvrtc) -> Vec<Row> {
    let mut progress = Progress::new("kernels", jobs.len() as u64);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    let next = AtomicUsize::new(0);
    let (done, arrived) = mpsc::channel();
    let mut rows: Vec<Option<Row>> = jobs.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (done, next) = (done.clone(), &next);
            scope.spawn(move || {
                while let Some((at, (kernel, arch))) = take(next, jobs) {
                    if done.send((at, Row::of(kernel, arch, nvrtc))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        for (count, (at, row)) in (1_u64..).zip(arrived) {
            progress.update(count, &format!("{} {}", row.name, row.arch));
            rows[at] = Some(row);
        }
    });
    progress.finish();
    rows.into_iter().flatten().collect()
}

/// The next job that nobody has, and its place.
fn take<'a>(next: &AtomicUsize, jobs: &[Job<'a>]) -> Option<(usize, Job<'a>)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    jobs.get(at).map(|&job| (at, job))
}

impl Row {
    fn of(kernel: &dyn TableKernel, arch: Arch, nvrtc: &Nvrtc) -> Self {
        let empty = Self {
            name: kernel.name(),
            arch: arch.to_string(),
            registers: None,
            shared_bytes: None,
            spill_bytes: None,
            advisories: Vec::new(),
            lacking: Vec::new(),
            under_way: None,
            compile_seconds: None,
            error: None,
        };
        let compiled = match compiled(kernel, nvrtc, arch, None) {
            Ok(compiled) => compiled,
            Err(error) => return Self { error: Some(error.to_string()), ..empty },
        };
        let report = compiled.report();
        let entry = kernel.entry();
        let Some(function) = report.functions.iter().find(|function| function.name == entry) else {
            return Self { error: Some(format!("the assembler says nothing of {entry}")), ..empty };
        };
        Self {
            registers: Some(function.registers),
            shared_bytes: Some(u64::from(function.shared_bytes) + kernel.shared_bytes() as u64),
            // A function that the entry calls may spill as well.
            spill_bytes: report.functions.iter().map(|function| function.spill_bytes).max(),
            advisories: report.advisories,
            lacking: lacking(kernel, &compiled.cubin),
            under_way: UnderWay::of(kernel, &compiled.cubin),
            compile_seconds: compiled.took.map(|took| took.as_secs_f64()),
            ..empty
        }
    }

    /// What is wrong, each in words.
    fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.error.iter().chain(&self.advisories).cloned().collect();
        if !self.lacking.is_empty() {
            faults.push(format!("its machine code has no {}", self.lacking.join(", no ")));
        }
        if let Some(UnderWay { found, wanted }) = self.under_way.filter(|it| it.found < it.wanted) {
            faults.push(format!("{found} exponentials stand beside products under way, {wanted} were to"));
        }
        if let Some(bytes) = self.spill_bytes.filter(|&bytes| bytes > 0) {
            faults.push(format!("a thread keeps {bytes} bytes outside the chip"));
        }
        if let Some(seconds) = self.compile_seconds.filter(|&seconds| seconds > LIMIT_SECONDS) {
            faults.push(format!("took {seconds:.2} s of processor time, at most {LIMIT_SECONDS:.0} s are allowed"));
        }
        faults
    }
}

impl UnderWay {
    /// None for a kernel that asks for nothing.
    fn of(kernel: &dyn TableKernel, cubin: &[u8]) -> Option<Self> {
        let wanted = kernel.exponentials_under_way();
        let found = special_under_way(cubin, kernel.entry()).map_or(0, |(found, _)| found);
        (wanted > 0).then_some(Self { found, wanted })
    }
}

/// Names of the instructions that a kernel was written for and its machine code has not.
fn lacking(kernel: &dyn TableKernel, cubin: &[u8]) -> Vec<&'static str> {
    let found = instructions(cubin, kernel.entry()).unwrap_or_default();
    let has = |wanted| found.iter().any(|&(instruction, count)| instruction == wanted && count > 0);
    kernel.instructions().iter().filter(|&&wanted| !has(wanted)).map(|wanted| wanted.name()).collect()
}

/// The table for a reader.
fn page(rows: &[Row], nvrtc: &Nvrtc) -> String {
    let (major, minor) = nvrtc.version();
    let mut page = format!(
        "{:<28} {:<7} {:>9} {:>12} {:>11} {:>10} {:>15}\n",
        "name", "arch", "registers", "shared_bytes", "spill_bytes", "advisories", "compile_seconds"
    );
    for row in rows {
        let seconds = row.compile_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2}"));
        page += &format!(
            "{:<28} {:<7} {:>9} {:>12} {:>11} {:>10} {seconds:>15}\n",
            row.name,
            row.arch,
            or_dash(row.registers),
            or_dash(row.shared_bytes),
            or_dash(row.spill_bytes),
            row.advisories.len(),
        );
        // A compiler has much to say; its first line names file and line of the text.
        for fault in row.faults() {
            page += &format!("  at fault: {}\n", fault.lines().next().unwrap_or_default());
        }
    }
    let slowest = rows.iter().filter_map(|row| row.compile_seconds).fold(0.0, f64::max);
    page + &format!(
        "{} compiled by NVRTC {major}.{minor}, the slowest in {slowest:.2} s of processor time\n",
        rows.len()
    )
}

fn or_dash(number: Option<impl ToString>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let listed: Vec<Listed> = every_kernel().iter().map(|kernel| Listed::of(kernel.as_ref())).collect();
        if self.json {
            return print_json(&listed);
        }
        let mut page = String::new();
        for Listed { name, verified, .. } in &listed {
            let passed = |it: &Passed| {
                let then = if it.current { "" } else { ", before it changed" };
                format!("{} ({}, {}{then})", it.arch, it.device, it.date)
            };
            let places: Vec<String> = verified.iter().map(passed).collect();
            let places = if places.is_empty() { "no device yet".to_owned() } else { places.join(", ") };
            page += &format!("{name:<28} verified on {places}\n");
        }
        print(&page);
        Ok(())
    }
}

impl Listed {
    fn of(kernel: &dyn TableKernel) -> Self {
        let (name, source) = (kernel.name(), source_hash(kernel));
        let entries = entries().filter(|entry| entry.kernel == name);
        let passed = |entry: &Verified| Passed {
            arch: entry.arch.to_string(),
            device: entry.device.clone(),
            date: entry.date.clone(),
            current: entry.source == source,
        };
        let verified = entries.map(passed).collect();
        Self { name, source, shared_bytes: kernel.shared_bytes(), verified }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Row {
        Row {
            name: "forward".into(),
            arch: "sm_80".into(),
            registers: Some(128),
            shared_bytes: Some(49_152),
            spill_bytes: Some(0),
            advisories: Vec::new(),
            lacking: Vec::new(),
            under_way: None,
            compile_seconds: Some(0.5),
            error: None,
        }
    }

    #[test]
    fn a_spill_an_advisory_a_lacking_instruction_a_slow_compilation_and_a_failed_one_are_faults() {
        let beside = Row { under_way: Some(UnderWay { found: 127, wanted: 112 }), ..good() };
        assert_eq!([good(), beside].map(|row| row.faults()), [Vec::<String>::new(), Vec::new()]);
        let wrong = [
            Row { spill_bytes: Some(8), ..good() },
            Row { lacking: vec!["HGMMA", "UTMALDG"], ..good() },
            Row { under_way: Some(UnderWay { found: 2, wanted: 112 }), ..good() },
            Row { advisories: vec!["(C7510) serialized".into()], ..good() },
            Row { compile_seconds: Some(2.01), ..good() },
            Row { error: Some("does not compile".into()), registers: None, ..good() },
        ];
        for row in wrong {
            assert_eq!(row.faults().len(), 1, "{row:?}");
        }
    }

    #[test]
    fn every_job_is_taken_once() {
        let kernels = every_kernel();
        let jobs: Vec<Job> = kernels.iter().map(|kernel| (kernel.as_ref(), Arch::SM_80)).collect();
        let next = AtomicUsize::new(0);
        let places: Vec<usize> = std::iter::from_fn(|| take(&next, &jobs)).map(|(at, _)| at).collect();
        assert_eq!(places, (0..jobs.len()).collect::<Vec<_>>());
    }
}
