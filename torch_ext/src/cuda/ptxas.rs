//! What the assembler says of a kernel, read from the log that `--ptxas-options=-v` makes it write.
//!
//! ```text
//! ptxas info    : Compiling entry function 'forward' for 'sm_80'
//! ptxas info    : Function properties for forward
//! ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
//! ptxas info    : Used 10 registers, used 1 barriers, 4096 bytes smem, 368 bytes cmem[0]
//! ```

/// What one compiled function takes of the chip.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FunctionReport {
    /// Its name in the source; the language's own spelling unless it is `extern "C"`.
    pub name: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Shared memory (bytes) of a block that the source declares; what a launch adds is not in it.
    pub shared_bytes: u32,
    /// Memory (bytes) outside the chip that a thread needs for values that found no register: the largest of stack frame,
    /// spill stores and spill loads. An array that is indexed at run time counts, too.
    pub spill_bytes: u32,
}

/// What the assembler says of one compilation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PtxasReport {
    /// One for each entry function, in the log's order.
    pub functions: Vec<FunctionReport>,
    /// Warnings, and remarks numbered C75xx: matrix instructions made to wait for each other, register hints ignored.
    pub advisories: Vec<String>,
}

impl PtxasReport {
    /// Reads a log; lines that mean nothing here are passed over.
    #[must_use]
    pub fn parse(log: &str) -> Self {
        let mut report = Self::default();
        for line in log.lines() {
            if let Some(advice) = advisory(line) {
                report.advisories.push(advice);
            } else if let Some(name) = between(line, "Compiling entry function '", "'") {
                report.functions.push(FunctionReport { name: name.to_owned(), ..FunctionReport::default() });
            } else if let Some(function) = report.functions.last_mut() {
                function.read(line);
            }
        }
        report
    }
}

impl FunctionReport {
    /// Takes the numbers of a line that follows the function's name.
    fn read(&mut self, line: &str) {
        for phrase in line.rsplit(" : ").next().unwrap_or(line).trim_start_matches("ptxas").split(',') {
            let phrase = phrase.trim().trim_start_matches('.').trim();
            let phrase = phrase.strip_prefix("Used ").or(phrase.strip_prefix("used ")).unwrap_or(phrase);
            let Some((number, unit)) = phrase.split_once(' ') else { continue };
            let Ok(number) = number.parse::<u32>() else { continue };
            match unit {
                "registers" => self.registers = number,
                "bytes smem" => self.shared_bytes = number,
                "bytes stack frame" | "bytes spill stores" | "bytes spill loads" => {
                    self.spill_bytes = self.spill_bytes.max(number);
                }
                _ => {}
            }
        }
    }
}

/// The words of a line that warns.
fn advisory(line: &str) -> Option<String> {
    let words = line.trim();
    if !words.starts_with("ptxas") && !words.contains("(C75") {
        return None;
    }
    (words.starts_with("ptxas warning") || words.contains("(C75"))
        .then(|| words.split_once(" : ").map_or(words, |(_, said)| said).trim().to_owned())
}

fn between<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    line.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As NVRTC 13.0 writes it; the spill of `second` and the advisory are as its assembler words them.
    const LOG: &str = "\
ptxas warning : Value of threads per SM for entry second is out of range. .minnctapersm will be ignored
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized in function 'first'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'second' for 'sm_80'
ptxas info    : Function properties for second
ptxas         .     256 bytes stack frame, 24 bytes spill stores, 40 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 256 bytes cumulative stack size, 360 bytes cmem[0]
ptxas info    : Compile time = 22.739 ms
ptxas info    : Compiling entry function 'first' for 'sm_90a'
ptxas info    : Function properties for first
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 4096 bytes smem
";

    #[test]
    fn every_function_gets_its_own_numbers() {
        let report = PtxasReport::parse(LOG);
        let second = FunctionReport { name: "second".into(), registers: 255, shared_bytes: 0, spill_bytes: 256 };
        let first = FunctionReport { name: "first".into(), registers: 10, shared_bytes: 4096, spill_bytes: 0 };
        assert_eq!(report.functions, [second, first]);
    }

    #[test]
    fn spills_count_without_a_stack_frame_and_arrays_without_spills() {
        let spilled = LOG.replace("256 bytes stack frame", "0 bytes stack frame");
        assert_eq!(PtxasReport::parse(&spilled).functions[0].spill_bytes, 40);
        let array = LOG.replace("24 bytes spill stores, 40", "0 bytes spill stores, 0");
        assert_eq!(PtxasReport::parse(&array).functions[0].spill_bytes, 256);
    }

    #[test]
    fn warnings_and_remarks_of_lost_speed_are_kept_and_nothing_else() {
        let advisories = PtxasReport::parse(LOG).advisories;
        assert_eq!(advisories.len(), 2);
        assert!(advisories[0].starts_with("Value of threads per SM"), "{advisories:?}");
        assert!(advisories[1].starts_with("(C7510)"), "{advisories:?}");
        let plain: String = LOG.lines().skip(2).map(|line| format!("{line}\n")).collect();
        assert_eq!(PtxasReport::parse(&plain).advisories, Vec::<String>::new());
    }

    #[test]
    fn an_empty_log_has_no_functions() {
        assert_eq!(PtxasReport::parse(""), PtxasReport::default());
    }
}
