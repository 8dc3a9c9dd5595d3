//! `bowline recipes`: the training recipes that are built in, and what each takes.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::output::{print, print_json};
use crate::config::{ExpectedPerplexity, Recipe};
use crate::error::Failure;
use crate::plan::{Card, Plan, config_of, duration, planned_on};
use crate::recipes;

/// Lists the training recipes that are built in: method, context, memory and hours by the planner.
#[derive(Debug, Args)]
pub struct Recipes {
    /// Device to plan for: h100-80g, h200-141g, a100-80g, rtx4090-24g or cpu [default: the one each recipe is made for]
    #[arg(long, value_name = "NAME")]
    gpu: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A recipe in the list.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    description: String,
    source: String,
    model: String,
    method: String,
    context: usize,
    trains: &'static str,
    device: &'static str,
    peak_bytes: u64,
    host_bytes: u64,
    fits: bool,
    tokens: u64,
    tokens_per_second: f64,
    hours: f64,
    expected: Vec<ExpectedPerplexity>,
}

impl Listed {
    fn new(recipe: Recipe, gpu: Option<&str>) -> Result<Self, Failure> {
        let config = config_of(&recipe)?;
        let card = Card::named(gpu.unwrap_or_else(|| planned_on(&recipe)))?;
        let plan = Plan::new(&recipe, &config, card, Path::new("."));
        Ok(Self {
            method: method_of(&recipe),
            context: recipe.longest(),
            trains: match &recipe.adapter {
                None => "all",
                Some(adapter) if adapter.base == crate::config::Base::Nf4 => "QLoRA",
                Some(_) => "LoRA",
            },
            device: plan.device.name,
            peak_bytes: plan.peak_bytes,
            host_bytes: plan.host.total(),
            fits: plan.fits,
            tokens: plan.tokens,
            tokens_per_second: plan.tokens_per_second,
            hours: plan.hours,
            model: plan.model,
            name: recipe.name,
            description: recipe.description,
            source: recipe.about.source,
            expected: recipe.expected,
        })
    }

    fn row(&self) -> [String; 9] {
        [
            self.name.clone(),
            self.model.clone(),
            self.method.clone(),
            self.context.to_string(),
            self.trains.to_owned(),
            self.device.to_owned(),
            format!("{:.1}{}", self.peak_bytes as f64 / 1e9, if self.fits { "" } else { " (too much)" }),
            format!("{:.0}", self.tokens_per_second),
            duration(self.hours),
        ]
    }
}

/// The change of positions in the words of `--method`.
fn method_of(recipe: &Recipe) -> String {
    let Some(change) = &recipe.positions else { return "none".to_owned() };
    let number = |name: &str, value: Option<f64>| value.map(|value| format!("{name}={value}"));
    let options: Vec<String> =
        [number("factor", change.factor), number("base", change.base)].into_iter().flatten().collect();
    format!("{}:{}", change.method, options.join(","))
}

/// Headings of the list.
const HEADINGS: [&str; 9] = ["recipe", "model", "method", "context", "trains", "device", "GB", "tokens/s", "time"];

impl Recipes {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When the device is not known.
    pub fn run(self) -> Result<(), Failure> {
        let all = recipes::trainings()?;
        let listed: Vec<Listed> =
            all.into_iter().map(|recipe| Listed::new(recipe, self.gpu.as_deref())).collect::<Result<_, _>>()?;
        if self.json {
            return print_json(&listed);
        }
        print(&page(&listed));
        Ok(())
    }
}

fn page(listed: &[Listed]) -> String {
    let rows: Vec<[String; 9]> =
        std::iter::once(HEADINGS.map(str::to_owned)).chain(listed.iter().map(Listed::row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    let line = |row: &[String; 9]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let mut page: String = rows.iter().map(line).collect();
    page += "\nGB at most, tokens/s and time by `bowline plan NAME`, which says more; memory and time are of the device named.\n";
    for recipe in listed.iter().filter(|recipe| !recipe.expected.is_empty()) {
        page += &format!("\n{}: published for it (`bowline report expect` compares)\n", recipe.name);
        recipe.expected.iter().for_each(|it| page += &format!("  {it}\n"));
    }
    page
}
