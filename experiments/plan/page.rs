//! A plan for a reader.

use super::checks::{Standing, count, gigabytes};
use super::{Advice, Plan};

impl Plan {
    /// Everything that a reader decides by, on one page.
    pub fn page(&self) -> String {
        self.summary() + &self.bytes() + &self.times() + &self.advised() + &self.checked()
    }

    fn summary(&self) -> String {
        let verdict = match (self.fits, self.device.bytes.checked_sub(self.peak_bytes)) {
            (true, Some(left)) => format!("fits, {} free", gigabytes(left)),
            _ => format!("does not fit, {} too much", gigabytes(self.peak_bytes - self.device.bytes)),
        };
        let trained = match self.trained_parameters == self.parameters {
            true => "all trained".to_owned(),
            false => format!("{} trained", count(self.trained_parameters as f64)),
        };
        format!(
            "{} on {}: {} parameters of {}, {trained}\nmemory     {} of {}: {verdict}\n",
            self.recipe,
            self.device.name,
            count(self.parameters as f64),
            self.model,
            gigabytes(self.peak_bytes),
            gigabytes(self.device.bytes),
        )
    }

    fn bytes(&self) -> String {
        let named = self.categories.named().into_iter().filter(|(_, bytes)| *bytes > 0);
        let mut page: String = named.map(|(name, bytes)| format!("  {name:14} {:>9}\n", gigabytes(bytes))).collect();
        page += &format!("  at its most in {} at length {}\n", self.peak.name, self.peak.length);
        for (name, bytes) in [("optimizer", self.host.optimizer), ("activations", self.host.activations)] {
            if bytes > 0 {
                page += &format!("  {name:14} {:>9} in pinned host memory\n", gigabytes(bytes));
            }
        }
        page
    }

    fn times(&self) -> String {
        let mut page = format!(
            "time       {} for {} tokens in {} steps: {:.0} tokens/s, {:.0} % MFU (causal)\n",
            duration(self.hours),
            count(self.tokens as f64),
            self.steps,
            self.tokens_per_second,
            100.0 * self.mfu_causal
        );
        let all: f64 = self.phases.iter().map(|phase| phase.hours).sum();
        for phase in &self.phases {
            page += &format!("  {:28} {:>5.1} %\n", phase.name, 100.0 * phase.hours / all);
        }
        page + &format!("  rates: {}\n", self.device.basis)
    }

    fn advised(&self) -> String {
        let mut page = String::new();
        for advice in &self.advice {
            page += &format!("advice     {}\n", advice.line());
        }
        page
    }

    fn checked(&self) -> String {
        let line = |check: &super::Check| {
            let standing = match check.standing {
                Standing::Ok => "ok",
                Standing::Warning => "warning",
                Standing::Failed => "FAILED",
            };
            format!("check      {standing}: {}: {}\n", check.name, check.detail)
        };
        self.checks.iter().map(line).collect()
    }
}

impl Advice {
    /// The change, what it gives and what it costs.
    fn line(&self) -> String {
        let settings: Vec<String> = self.settings.iter().map(|setting| format!("--set {setting}")).collect();
        let fits = if self.fits { "fits" } else { "not enough alone" };
        let more = 100.0 * (self.time - 1.0);
        let time = if more.abs() < 0.5 { "no more time".to_owned() } else { format!("{more:+.0} % time") };
        let host = match self.host_bytes {
            0 => String::new(),
            bytes => format!(", {} of host memory", gigabytes(bytes)),
        };
        let remark = if self.remark.is_empty() { String::new() } else { format!("; {}", self.remark) };
        format!("{}: {} ({fits}), {time}{host}{remark}", settings.join(" "), gigabytes(self.peak_bytes))
    }
}

/// Hours for a reader.
pub fn duration(hours: f64) -> String {
    match hours {
        h if h >= 48.0 => format!("{h:.0} h ({:.1} days)", h / 24.0),
        h if h >= 1.0 => format!("{h:.1} h"),
        h if h >= 1.0 / 60.0 => format!("{:.0} min", 60.0 * h),
        h => format!("{:.0} s", 3600.0 * h),
    }
}
