//! Compiles kernel text for this machine's processor and runs it lane by lane: the Rust side of `cuda/twin`.
//!
//! A kernel's text without its device primitives is put between the twin's primitives and its `main`, compiled by the C++
//! compiler of the machine (`CXX`, else `c++`) and run as a program of its own, so that a kernel gone wild harms nobody.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, process};

use attention::cuda::params::{Params, Strides};

/// A compiled kernel.
pub(crate) struct Program(PathBuf);

/// One launch of it.
pub(crate) struct Launch<'a> {
    pub(crate) grid: [u32; 3],
    pub(crate) threads: u32,
    pub(crate) shared_bytes: usize,
    /// Decides in which order warps and lanes run.
    pub(crate) seed: u32,
    /// Addresses are numbers of buffers, from 1 on.
    pub(crate) params: &'a Params,
    pub(crate) buffers: &'a mut [Vec<u8>],
}

/// Compiles `parts` with the definitions of `options`; the entry point is `entry`.
///
/// # Panics
///
/// When there is no compiler, or when it refuses the text.
pub(crate) fn compile(parts: &[(&str, String)], entry: &str, options: &[String]) -> Program {
    let twin = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/twin");
    let mut text = format!("#include \"{}\"\n", twin.join("primitives.hpp").display());
    parts.iter().for_each(|(file, part)| text += &format!("#line 1 \"{file}\"\n{part}\n"));
    text += &format!("#define ENTRY {entry}\n#include \"{}\"\n", twin.join("main.hpp").display());
    let mut hasher = DefaultHasher::new();
    (&text, options).hash(&mut hasher);
    for file in ["machine.hpp", "primitives.hpp", "main.hpp"] {
        fs::read(twin.join(file)).unwrap().hash(&mut hasher);
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("twin");
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join(format!("{entry}-{:016x}", hasher.finish()));
    if !program.exists() {
        build(&text, options, &program);
    }
    Program(program)
}

fn build(text: &str, options: &[String], program: &Path) {
    // Tests run side by side and may want the same program: each builds its own and moves it into place.
    let part = |end: &str| program.with_extension(format!("{}-{:?}.{end}", process::id(), std::thread::current().id()));
    let (source, built) = (part("cpp"), part("out"));
    fs::write(&source, text).unwrap();
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let mut command = Command::new(&compiler);
    command.args(["-std=c++17", "-O1", "-w", "-ffp-contract=off"]).args(options).arg(&source).arg("-o").arg(&built);
    let output =
        command.output().unwrap_or_else(|error| panic!("the host twin needs a C++ compiler, {compiler}: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&built, program).unwrap();
    fs::remove_file(&source).unwrap();
}

impl Program {
    /// Runs a launch; the buffers then hold what it left in them. Returns bank conflicts of matrix loads.
    ///
    /// # Errors
    ///
    /// The rule that the kernel broke.
    pub(crate) fn run(&self, launch: Launch<'_>) -> Result<u64, String> {
        let params = bytes(launch.params);
        let [x, y, z] = launch.grid;
        let count = |n: usize| u32::try_from(n).unwrap();
        let header = [
            x,
            y,
            z,
            launch.threads,
            count(launch.shared_bytes),
            launch.seed,
            count(params.len()),
            count(launch.buffers.len()),
        ];
        let mut input: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        input.extend(params);
        for buffer in launch.buffers.iter() {
            input.extend((buffer.len() as u64).to_ne_bytes());
            input.extend(buffer);
        }
        let mut child =
            Command::new(&self.0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The program reads everything before it answers. One that fails early closes its end, which its status tells.
        let _ = child.stdin.take().unwrap().write_all(&input);
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
        }
        let mut rest = &output.stdout[..];
        for buffer in launch.buffers.iter_mut() {
            let (found, after) = rest.split_at(buffer.len());
            buffer.copy_from_slice(found);
            rest = after;
        }
        Ok(u64::from_ne_bytes(rest.try_into().unwrap()))
    }
}

/// The structure as C++ has it in memory.
fn bytes(params: &Params) -> Vec<u8> {
    let p = params;
    let addresses = [
        p.q,
        p.k,
        p.v,
        p.output,
        p.lse,
        p.grad_output,
        p.dq,
        p.dk,
        p.dv,
        p.delta,
        p.lse_log2,
        p.dq_sum,
        p.slopes,
        p.starts,
        p.start_offsets,
        p.angles,
    ];
    let strides = [
        p.q_strides,
        p.k_strides,
        p.v_strides,
        p.output_strides,
        p.grad_output_strides,
        p.dq_strides,
        p.dk_strides,
        p.dv_strides,
    ];
    let sizes = [
        p.batch,
        p.query_heads,
        p.key_heads,
        p.query_len,
        p.key_len,
        p.head_dim,
        p.ordered,
        p.offset,
        p.window,
        p.sinks,
        p.padded_query_len,
        p.inverse,
        p.pairs,
        p.key_offset,
    ];
    let mut all: Vec<u8> = addresses.iter().flat_map(|x| x.to_ne_bytes()).collect();
    let steps = strides.iter().flat_map(|&Strides { batch, head, row }| [batch, head, row]);
    all.extend(steps.flat_map(i64::to_ne_bytes));
    all.extend(sizes.iter().flat_map(|x| x.to_ne_bytes()));
    all.extend([p.scale, p.soft_cap].iter().flat_map(|x| x.to_ne_bytes()));
    assert_eq!(all.len(), size_of::<Params>(), "a field of Params is missing here");
    all
}
