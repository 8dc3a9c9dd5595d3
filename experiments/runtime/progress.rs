//! Progress on standard error: a bar on a terminal, a plain line every few seconds elsewhere.

use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::say;

/// Seconds between plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// The bars on the terminal, one below the other: pieces of work may go on side by side.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Progress of one piece of work.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    label: String,
    total: u64,
    started: Instant,
    said: Instant,
}

impl Progress {
    /// Progress through `total` units of `label`.
    pub fn new(label: &str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {msg} {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
            BARS.add(ProgressBar::new(total).with_style(style).with_prefix(label.to_owned()))
        });
        let now = Instant::now();
        Self { bar, label: label.to_owned(), total, started: now, said: now }
    }

    /// Says that `done` units are done.
    pub fn update(&mut self, done: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.to_owned());
            bar.set_position(done);
            return;
        }
        if self.said.elapsed() < PLAIN_EVERY && done < self.total {
            return;
        }
        self.said = Instant::now();
        let left = match done {
            0 => String::new(),
            done => {
                let spent = self.started.elapsed().as_secs_f64();
                format!(", {} left", seconds(spent / done as f64 * self.total.saturating_sub(done) as f64))
            }
        };
        let message = if message.is_empty() { String::new() } else { format!(", {message}") };
        say!("{}: {done}/{}{message}{left}", self.label, self.total);
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
            say!("{}: done in {}", self.label, seconds(self.started.elapsed().as_secs_f64()));
        }
    }
}

/// A duration for a reader, such as `3m 05s`.
pub fn seconds(s: f64) -> String {
    let whole = s.round() as u64;
    match whole {
        0..60 => format!("{s:.0}s"),
        60..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        _ => format!("{}h {:02}m", whole / 3600, whole % 3600 / 60),
    }
}
