//! Continued pretraining: sources, schedule, optimizer, loop, checkpoints.

mod agreement;
mod checkpoint;
mod feed;
mod forecast;
mod long_ce;
mod loss;
mod metrics;
mod optim;
mod persist;
mod run;
mod schedule;
mod sources;
mod step;
mod synthetic;
mod tensorboard;
mod trainer;

pub use agreement::{Agreement, Keys, keys_of};
pub use checkpoint::{RunState, Store, read_state, verify};
pub use feed::{Feed, Materials, Sequence};
pub use loss::{UNCOUNTED, head_loss, loss_rows, summed_loss, weighted_loss};
pub use metrics::{MetricsLog, StepMetrics, read_metrics};
pub use optim::{AdamConfig, AdamW, Arrival, BLOCK, Decayed, Keeping, Reduction, Shard, Slot, clip_factor};
pub use persist::{Resumed, restore_masters};
pub use run::{RESULT_OF, RunOptions, adapter_account, check_lengths, new_config, start_of, train, train_model};
pub use schedule::{Decay, Schedule};
pub use sources::{TextSources, encoder_of, overlap_page, spec_at, spec_of};
pub use step::{NotFinite, Outcome};
pub use trainer::{Resume, Trainer};
