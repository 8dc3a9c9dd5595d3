//! `bowline inspect`: how a model encodes positions.

use clap::Args;
use serde::Serialize;

use super::output::{print, print_json};
use crate::error::Failure;
use crate::hub;
use crate::model::read_config;

/// Shows geometry, scheme, frequencies and what to watch out for.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Folder, GGUF file, Hub id in the cache, or `bundled`
    model: String,
    /// Context to judge it at, in tokens [default: max_position_embeddings]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Inspected {
    model: String,
    parameter_count: u64,
    shape: Shape,
    #[serde(flatten)]
    positions: rope_scaling::Description,
}

#[derive(Debug, Serialize)]
struct Shape {
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    key_heads: usize,
    head_dim: usize,
    vocab: usize,
    tied: bool,
}

impl Inspect {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When the config is missing or wrong: every finding.
    pub fn run(self) -> Result<(), Failure> {
        let files = hub::resolve(&self.model)?;
        let config = read_config(&files.dir)?;
        let context = self.context.unwrap_or(config.positions.context());
        if context == 0 {
            return Err(Failure::config("--context 0: at least 1 is needed"));
        }
        let inspected = Inspected {
            model: self.model,
            parameter_count: config.parameter_count(),
            shape: Shape {
                layers: config.layers,
                hidden: config.hidden,
                intermediate: config.inner,
                heads: config.heads,
                key_heads: config.key_heads,
                head_dim: config.head_dim,
                vocab: config.vocab,
                tied: config.tied,
            },
            positions: config.positions.describe(Some(context)),
        };
        if self.json {
            return print_json(&inspected);
        }
        print(&inspected.page());
        Ok(())
    }
}

impl Inspected {
    fn page(&self) -> String {
        let Self { shape, positions, .. } = self;
        let mut page = format!(
            "{}: {:.2} M parameters, {} layers, width {}, {} heads ({} for keys) of {}\n",
            self.model,
            self.parameter_count as f64 / 1e6,
            shape.layers,
            shape.hidden,
            shape.heads,
            shape.key_heads,
            shape.head_dim
        );
        page += &format!("scheme            {}\n", positions.scheme);
        for (name, value) in &positions.parameters {
            page += &format!("  {name:<16}{value}\n");
        }
        if !positions.slopes.is_empty() {
            page += &format!("at {} tokens:\n  head  slope\n", positions.context);
            for (head, slope) in positions.slopes.iter().enumerate() {
                page += &format!("  {head:>4}  {slope:.6}\n");
            }
            return page + &warnings(positions);
        }
        page += &format!("attention factor  {:.6}\n", positions.attention_factor);
        page += &format!("at {} tokens:\n  pair  inv_freq      wavelength  turns\n", positions.context);
        for (pair, &frequency) in positions.inv_freq.iter().enumerate() {
            let wavelength = positions.wavelengths[pair];
            page += &format!(
                "  {pair:>4}  {frequency:<12.6e}  {wavelength:>10.1}  {:.3}\n",
                positions.context as f64 / wavelength
            );
        }
        page + &warnings(positions)
    }
}

fn warnings(positions: &rope_scaling::Description) -> String {
    positions.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect()
}
