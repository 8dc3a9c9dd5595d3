//! The memory of this process and its machine, as Linux tells it.

/// Forgets what was held before; whether that is possible here.
pub fn reset_peak() -> bool {
    // proc(5): 5 sets the peak resident size to the size now.
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Most bytes resident since [`reset_peak`]; none where the system does not tell.
pub fn peak_bytes() -> Option<u64> {
    resident_peak(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Bytes that could be had now without swapping; none where the system does not tell.
pub fn available_bytes() -> Option<u64> {
    kibibytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// Bytes of memory that the machine has; none where the system does not tell.
pub fn total_bytes() -> Option<u64> {
    kibibytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// Bytes resident now; none where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    kibibytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

fn resident_peak(status: &str) -> Option<u64> {
    kibibytes(status, "VmHWM:")
}

/// Bytes of the line that begins with `name`.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes_and_nothing_else_is_taken_for_it() {
        assert_eq!(resident_peak("VmPeak:\t 9 kB\nVmHWM:\t   12345 kB\nVmRSS:\t 8 kB\n"), Some(12345 * 1024));
        assert_eq!(resident_peak("VmRSS:\t 8 kB\n"), None);
        assert_eq!(resident_peak("VmHWM:\t 8\n"), None);
    }
}
