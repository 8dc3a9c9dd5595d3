//! What a run was said to take of its device, beside what it took.

use std::path::Path;

use serde::Serialize;
use tch::Device;

use crate::config::Recipe;
use crate::error::Failure;
use crate::model::ModelFolder;
use crate::plan::{Card, Categories, Plan};
use crate::runtime::run_dir::RunDir;
use crate::runtime::tensors::PeakMeter;

/// Name of the file that the account is kept in.
const FILE: &str = "memory.json";

/// A plan, and a watch on the device.
pub(super) struct Forecast {
    planned: Categories,
    meter: Option<PeakMeter>,
    device: Device,
}

/// Both, as kept beside the run.
#[derive(Debug, Serialize)]
struct Account {
    planned_bytes: u64,
    measured_bytes: u64,
    planned: Categories,
    counted: &'static str,
}

impl Forecast {
    /// Plans a run of a loaded model, and begins to watch.
    pub(super) fn new(recipe: &Recipe, model: &ModelFolder) -> Self {
        let device = model.device();
        let plan = Plan::new(recipe, &model.llama.config, Card::at(device), Path::new("."));
        let parameters = model.llama.parameters();
        let weights = parameters.iter().map(|(_, it)| it.numel() as u64 * it.kind().elt_size_in_bytes() as u64).sum();
        Self { planned: plan.categories, meter: PeakMeter::start(device, weights), device }
    }

    /// One line of both, which are kept in the run folder, too; none where libtorch does not tell.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub(super) fn account(&self, run: &RunDir) -> Result<Option<String>, Failure> {
        let Some(meter) = &self.meter else { return Ok(None) };
        // What counts towards a GPU's limit is what its allocator holds.
        let (planned_bytes, measured, counted) = match self.device {
            Device::Cpu => (self.planned.tensors(), meter.tensors(), "tensors"),
            _ => (self.planned.tensors() + self.planned.reserve, meter.reserved(), "held by the allocator"),
        };
        let Some(measured_bytes) = measured else { return Ok(None) };
        let share = 100.0 * planned_bytes as f64 / measured_bytes.max(1) as f64;
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        run.write_json(FILE, &Account { planned_bytes, measured_bytes, planned: self.planned, counted })?;
        Ok(Some(format!(
            "memory: {:.1} MB at most ({counted}), {:.1} MB planned, {share:.0} % of it",
            megabytes(measured_bytes),
            megabytes(planned_bytes)
        )))
    }
}
