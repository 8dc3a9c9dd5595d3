//! `bowline fetch`: bring a model from the Hub into the local cache.

use clap::Args;

use super::output::print;
use crate::error::Failure;
use crate::hub;
use crate::runtime::progress::Progress;

/// Downloads config, tokenizer and safetensors of a model.
#[derive(Debug, Args)]
pub struct Fetch {
    /// Model on the Hub, as ORG/NAME
    id: String,
    /// Branch, tag or commit
    #[arg(long, default_value = "main", value_name = "NAME")]
    revision: String,
}

impl Fetch {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When the name is not valid, the network is off or the download breaks off.
    pub fn run(self) -> Result<(), Failure> {
        let files = hub::fetch(&self.id, Some(&self.revision), &mut Shown::default())?;
        print(&format!("{}\n", files.dir.display()));
        Ok(())
    }
}

/// A bar for each file.
#[derive(Default)]
struct Shown {
    bar: Option<Progress>,
    done: u64,
}

impl hub::FetchProgress for Shown {
    fn begin(&mut self, file: &str, bytes: u64, already: u64) {
        self.bar = Some(Progress::new(file, bytes));
        self.done = already;
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        if let Some(bar) = &mut self.bar {
            bar.update(self.done, "bytes");
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}
