//! The run path of a program, and how to give a copy of the program another one.
//!
//! Programs of this project name the checkout's `.libtorch` in DT_RPATH, which goes before everything that a user can set.
//! The path lies in the program as a text that ends with a zero byte; another that is no longer takes its place. No tool
//! that a bare machine lacks is needed for that.

use anyhow::{Context, Result, bail};

const PROGRAM_LOADED: u64 = 1;
const PROGRAM_DYNAMIC: u64 = 2;
const TEXTS: u64 = 5;
/// DT_RPATH and DT_RUNPATH.
const RUN_PATHS: [u64; 2] = [15, 29];

/// The place of the run path in a program: first byte and length.
fn place(program: &[u8]) -> Result<Option<(usize, usize)>> {
    if !program.starts_with(b"\x7fELF\x02\x01") {
        bail!("it is no program of a 64-bit little-endian machine");
    }
    let segments = segments(program)?;
    let Some(&(_, dynamic, _, bytes)) = segments.iter().find(|segment| segment.0 == PROGRAM_DYNAMIC) else {
        return Ok(None);
    };
    let (mut texts, mut path) = (None, None);
    for entry in (dynamic..dynamic.saturating_add(bytes)).step_by(16) {
        let (tag, value) = (number(program, entry, 8)?, number(program, entry + 8, 8)?);
        match tag {
            0 => break,
            TEXTS => texts = Some(value),
            tag if RUN_PATHS.contains(&tag) => path = Some(value),
            _ => {}
        }
    }
    let Some(path) = path else { return Ok(None) };
    let texts = texts.context("it has a run path and no texts")?;
    // The texts are named by the address that they will have in memory.
    let holds = |&&(kind, _, address, bytes): &&(u64, usize, u64, usize)| {
        kind == PROGRAM_LOADED && (address..address.saturating_add(bytes as u64)).contains(&texts)
    };
    let &(_, offset, address, _) = segments.iter().find(holds).context("its texts are not in the file")?;
    let start = offset + usize::try_from(texts - address + path)?;
    let rest = program.get(start..).context("its run path is not in the file")?;
    let length = rest.iter().position(|&byte| byte == 0).context("its run path has no end")?;
    Ok(Some((start, length)))
}

/// Kind, offset in the file, address and size in the file of every segment.
fn segments(program: &[u8]) -> Result<Vec<(u64, usize, u64, usize)>> {
    let (start, size, count) = (number(program, 32, 8)?, number(program, 54, 2)?, number(program, 56, 2)?);
    let segment = |index: u64| {
        let at = usize::try_from(start + index * size)?;
        let (kind, offset) = (number(program, at, 4)?, usize::try_from(number(program, at + 8, 8)?)?);
        Ok((kind, offset, number(program, at + 16, 8)?, usize::try_from(number(program, at + 32, 8)?)?))
    };
    (0..count).map(segment).collect()
}

fn number(program: &[u8], at: usize, bytes: usize) -> Result<u64> {
    let part = program.get(at..at + bytes).context("it ends too early")?;
    Ok(part.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// The run path of a program, if it has one.
pub(super) fn run_path(program: &[u8]) -> Result<Option<String>> {
    let found = place(program)?;
    Ok(found.map(|(start, length)| String::from_utf8_lossy(&program[start..start + length]).into_owned()))
}

/// Puts `path` in the place of the program's run path.
pub(super) fn set_run_path(program: &mut [u8], path: &str) -> Result<()> {
    let (start, length) = place(program)?.context("it has no run path to replace")?;
    if path.len() > length {
        bail!("its run path has {length} bytes, too few for {path}: move the checkout to a folder with a longer name");
    }
    program[start..start + length].fill(0);
    program[start..start + path.len()].copy_from_slice(path.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::libtorch::testing::Folder;

    /// A small program of the system's compiler, linked with `flags`.
    fn compiled(folder: &Folder, flags: &str) -> Vec<u8> {
        let (source, program) = (folder.0.join("main.cpp"), folder.0.join("program"));
        std::fs::write(&source, "int main() { return 7; }").unwrap();
        let mut compiler = Command::new("c++");
        compiler.arg(&source).arg("-o").arg(&program).args(flags.split_whitespace());
        assert!(compiler.status().unwrap().success());
        std::fs::read(program).unwrap()
    }

    #[test]
    fn both_kinds_of_run_path_are_read_and_replaced_and_the_program_still_runs() {
        let folder = Folder::new("run path");
        for tags in ["--disable-new-dtags", "--enable-new-dtags"] {
            let mut program = compiled(&folder, &format!("-Wl,{tags},-rpath,/somewhere/checkout/.libtorch/lib"));
            assert_eq!(run_path(&program).unwrap().as_deref(), Some("/somewhere/checkout/.libtorch/lib"));
            set_run_path(&mut program, "$ORIGIN/../torch").unwrap();
            assert_eq!(run_path(&program).unwrap().as_deref(), Some("$ORIGIN/../torch"));
            std::fs::write(folder.0.join("program"), &program).unwrap();
            assert_eq!(Command::new(folder.0.join("program")).status().unwrap().code(), Some(7));
        }
    }

    #[test]
    fn a_longer_path_and_a_program_without_one_are_refused() {
        let folder = Folder::new("no run path");
        let mut short = compiled(&folder, "-Wl,-rpath,/a");
        let message = set_run_path(&mut short, "/longer").unwrap_err().to_string();
        assert!(message.contains("2 bytes"), "{message}");
        let mut none = compiled(&folder, "");
        assert_eq!(run_path(&none).unwrap(), None);
        assert!(set_run_path(&mut none, "/a").is_err());
    }

    #[test]
    fn what_is_no_program_is_an_error_wherever_it_is_cut() {
        let folder = Folder::new("cut program");
        let whole = compiled(&folder, "-Wl,-rpath,/somewhere");
        assert!(run_path(b"text").is_err());
        for length in [0, 5, 6, 40, 57, 64, 200] {
            assert!(run_path(&whole[..length]).is_err(), "{length}");
        }
    }
}
