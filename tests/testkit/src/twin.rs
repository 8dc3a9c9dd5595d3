//! The host twin of the CUDA kernels: compiles kernel text for this machine's processor and runs it lane by lane.
//!
//! A kernel's text without its device primitives is put between the twin's primitives and its `main`
//! (`torch_ext/kernels/twin`), compiled by the C++ compiler of the machine (`CXX`, else `c++`) and run as a program of its
//! own, so that a kernel gone wild harms nobody.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, process};

/// The C++ of the twin.
const FILES: [&str; 5] = ["machine.hpp", "primitives.hpp", "copies.hpp", "hopper.hpp", "main.hpp"];

/// The part of a text that the twin has another body for.
const HOPPER: &str = "hopper.cuh";

/// A compiled kernel.
#[derive(Debug)]
pub struct Program(PathBuf);

/// One launch of it.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads in a block, a multiple of 32.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: usize,
    /// Decides in which order blocks, warps and lanes run.
    pub seed: u32,
    /// Blocks that are on the machine at once, at least 1; one that is done makes room for the next.
    pub at_once: u32,
    /// The kernel's `Params` as C++ has it in memory; of its first `pointers` fields those that are not null are numbers of
    /// buffers, from 1 on.
    pub params: &'a [u8],
    /// Addresses at the start of `Params`.
    pub pointers: u32,
    /// Global memory; holds what the launch left in it afterwards.
    pub buffers: &'a mut [Vec<u8>],
}

/// Compiles `parts` (file name and text) with the definitions of `options`; the entry point is `entry`. What was compiled
/// before is taken from `folder`.
///
/// # Panics
///
/// When there is no compiler, or when it refuses the text.
pub fn compile(folder: &Path, parts: &[(&str, String)], entry: &str, options: &[String]) -> Program {
    let twin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../torch_ext/kernels/twin");
    let own = parts.iter().filter(|(file, _)| *file != HOPPER);
    let mut text = match own.clone().count() == parts.len() {
        true => format!("#include \"{}\"\n", twin.join("primitives.hpp").display()),
        false => format!("#define HOPPER 1\n#include \"{}\"\n", twin.join("hopper.hpp").display()),
    };
    own.for_each(|(file, part)| text += &format!("#line 1 \"{file}\"\n{part}\n"));
    text += &format!("#define ENTRY {entry}\n#include \"{}\"\n", twin.join("main.hpp").display());
    let mut hasher = DefaultHasher::new();
    (&text, options).hash(&mut hasher);
    for file in FILES {
        fs::read(twin.join(file)).expect("the twin's text is part of the tree").hash(&mut hasher);
    }
    fs::create_dir_all(folder).expect("the folder for programs of the twin can be made");
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
    fs::write(&source, text).expect("the folder can be written");
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let mut command = Command::new(&compiler);
    command.args(["-std=c++17", "-O1", "-w", "-ffp-contract=off"]).args(definitions(options));
    command.arg(&source).arg("-o").arg(&built);
    let output =
        command.output().unwrap_or_else(|error| panic!("the host twin needs a C++ compiler, {compiler}: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&built, program).expect("a file moves within its folder");
    fs::remove_file(&source).expect("a file that was written can be removed");
}

/// What of NVRTC's options the C++ compiler knows: the twin never contracts a product and a sum by itself, whatever NVRTC is
/// told.
fn definitions(options: &[String]) -> impl Iterator<Item = &String> {
    options.iter().filter(|option| option.starts_with("-D"))
}

impl Program {
    /// Runs a launch; the buffers then hold what it left in them. Returns bank conflicts of matrix loads.
    ///
    /// # Errors
    ///
    /// The rule that the kernel broke.
    ///
    /// # Panics
    ///
    /// When the program cannot be started or answers nonsense.
    pub fn run(&self, launch: Launch<'_>) -> Result<u64, String> {
        let [x, y, z] = launch.grid;
        let count = |n: usize| u32::try_from(n).expect("a launch of the twin is small");
        let header = [
            x,
            y,
            z,
            launch.threads,
            count(launch.shared_bytes),
            launch.seed,
            count(launch.params.len()),
            count(launch.buffers.len()),
            launch.pointers,
            launch.at_once,
        ];
        let mut input: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        input.extend(launch.params);
        for buffer in launch.buffers.iter() {
            input.extend((buffer.len() as u64).to_ne_bytes());
            input.extend(buffer);
        }
        let mut command = Command::new(&self.0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a program that was just built starts");
        // The program reads everything before it answers. One that fails early closes its end, which its status tells.
        let _ = child.stdin.take().expect("standard input is piped").write_all(&input);
        let output = child.wait_with_output().expect("a program that was started ends");
        if !output.status.success() {
            return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
        }
        let mut rest = &output.stdout[..];
        for buffer in launch.buffers.iter_mut() {
            let (found, after) = rest.split_at(buffer.len());
            buffer.copy_from_slice(found);
            rest = after;
        }
        Ok(u64::from_ne_bytes(rest.try_into().expect("the count of conflicts comes last")))
    }
}
