//! A made-up report in the shape of a real study: nothing here was measured.

use std::collections::BTreeMap;

use eval::report::{PositionLoss, Provenance, Report, Row, SCHEMA_VERSION, Spectrum, TrainingCurve, Variant};

const ORIGINAL: usize = 256;
const TRAINED: usize = 1024;
const LENGTHS: [usize; 6] = [128, 256, 512, 1024, 2048, 4096];
const DEPTHS: usize = 11;
const TRIALS: u64 = 8;

/// Name, description, scheme, trained, how fast perplexity and recall fail beyond a length.
type Made = (&'static str, &'static str, &'static str, bool, f64, f64);

const VARIANTS: [Made; 8] = [
    ("base", "The base model as it is.", "none", false, 0.16, 256.0),
    ("pi", "Positions divided by 4, without training.", "linear", false, 1.1, 64.0),
    ("ntk", "Base raised so that the slowest pair stretches 4 times.", "ntk", false, 0.09, 700.0),
    ("dynamic-ntk", "The same, by as much as each length needs.", "dynamic", false, 0.06, 900.0),
    ("yarn", "YaRN's ramp and temperature, without training.", "yarn", false, 0.05, 800.0),
    ("pi-trained", "Positions divided by 4, then trained on longer text.", "linear", true, 0.04, 900.0),
    ("yarn-trained", "YaRN, then trained on longer text.", "yarn", true, 0.0, 1500.0),
    ("abf-trained", "Base times 20, then trained on longer text.", "none", true, -0.005, 2400.0),
];

/// Numbers between 0 and 1 that look random and are the same everywhere.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / (1_u64 << 31) as f64
    }
}

/// The report; another seed is another run.
pub(crate) fn sample(seed: u64) -> Report {
    let mut noise = Noise(seed);
    let mut rows = Vec::new();
    for made in &VARIANTS {
        perplexity(made, &mut noise, &mut rows);
        passkey(made, &mut noise, &mut rows);
    }
    Report {
        schema_version: SCHEMA_VERSION,
        provenance: provenance(seed),
        variants: VARIANTS.iter().map(variant).collect(),
        rows,
        position_loss: VARIANTS.iter().map(|m| position_loss(m, &mut noise)).collect(),
        document_loss: Vec::new(),
        spectra: VARIANTS.iter().flat_map(spectra).collect(),
        training: VARIANTS.iter().filter(|m| m.3).map(|m| training(m, &mut noise)).collect(),
        costs: Vec::new(),
    }
}

fn variant((name, description, scheme, trained, ..): &Made) -> Variant {
    let parameters = match *scheme {
        "none" if *trained => "rope_theta = 200000",
        "none" => "rope_theta = 10000",
        "yarn" => "factor = 4, beta_fast = 32, beta_slow = 1",
        _ => "factor = 4",
    };
    Variant {
        name: (*name).to_owned(),
        description: (*description).to_owned(),
        model: if *trained { format!("runs/demo/checkpoints/{name}") } else { "bundled".to_owned() },
        scheme: (*scheme).to_owned(),
        parameters: parameters.to_owned(),
        original_context: ORIGINAL,
        trained_context: if *trained { TRAINED } else { ORIGINAL },
        trained_tokens: if *trained { 696_320 } else { 0 },
    }
}

/// Mean loss at a position: falls with context, rises where the variant fails.
fn loss_at((name, .., slope, _): &Made, position: f64) -> f64 {
    let known = 4.02 + 1.9 / (1.0 + position / 9.0) - 0.012 * position.max(1.0).log2();
    let limit = if *name == "pi" { 1.0 } else { ORIGINAL as f64 };
    let start = if *name == "pi" { 1.7 * slope } else { 0.0 };
    known + start + slope * (position / limit).max(1.0).log2() * if *name == "pi" { 0.09 } else { 1.0 }
}

fn perplexity(made: &Made, noise: &mut Noise, rows: &mut Vec<Row>) {
    for length in LENGTHS {
        let steps = 64;
        let mean = (0..steps).map(|i| loss_at(made, (f64::from(i) + 0.5) / f64::from(steps) * length as f64));
        let value = (mean.sum::<f64>() / f64::from(steps) + 0.004 * noise.next()).exp();
        let diverged = made.0 == "pi" && length == 4096;
        for (protocol, metric, factor) in
            [("P2", "perplexity", 1.0), ("P2", "perplexity_published", 1.012), ("P1", "perplexity", 0.98)]
        {
            let value = if diverged { f64::NAN } else { value * factor };
            rows.push(Row {
                task: "perplexity".to_owned(),
                protocol: protocol.to_owned(),
                metric: metric.to_owned(),
                value,
                low: value * 0.965,
                high: value * 1.037,
                count: 24,
                unit_of_count: "documents".to_owned(),
                how: Some(if made.0 == "dynamic-ntk" { "a pass per length" } else { "one pass" }.to_owned()),
                ..row(made, length)
            });
        }
    }
}

fn row(made: &Made, length: usize) -> Row {
    Row {
        model: variant(made).model,
        variant: made.0.to_owned(),
        task: "passkey".to_owned(),
        protocol: "bowline-1".to_owned(),
        length,
        depth: None,
        metric: "accuracy".to_owned(),
        value: 0.0,
        low: 0.0,
        high: 0.0,
        count: 0,
        unit_of_count: "trials".to_owned(),
        how: None,
    }
}

fn wilson(hits: u64, count: u64) -> (f64, f64) {
    let (n, share, z2) = (count as f64, hits as f64 / count as f64, 3.8416);
    let middle = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = (z2 * (share * (1.0 - share) / n + z2 / (4.0 * n * n))).sqrt() / (1.0 + z2 / n);
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

fn passkey(made: &Made, noise: &mut Noise, rows: &mut Vec<Row>) {
    for metric in ["accuracy", "accuracy_forced"] {
        for length in LENGTHS {
            if length == 4096 && !made.3 {
                continue;
            }
            let mut total = 0;
            for step in 0..DEPTHS {
                let depth = step as f64 / (DEPTHS - 1) as f64;
                let distance = length as f64 * (1.0 - 0.75 * depth);
                let chance = 1.0 / (1.0 + (distance / made.5).powi(4));
                let hits = (0..TRIALS).filter(|_| noise.next() < chance).count() as u64;
                total += hits;
                rows.push(share(made, length, metric, Some(depth), hits, TRIALS));
            }
            rows.push(share(made, length, metric, None, total, TRIALS * DEPTHS as u64));
        }
    }
}

fn share(made: &Made, length: usize, metric: &str, depth: Option<f64>, hits: u64, count: u64) -> Row {
    let (low, high) = wilson(hits, count);
    Row { metric: metric.to_owned(), depth, value: hits as f64 / count as f64, low, high, count, ..row(made, length) }
}

fn position_loss(made: &Made, noise: &mut Noise) -> PositionLoss {
    let length = 4096;
    let mut positions = vec![0, 4, 8, 16];
    while positions[positions.len() - 1] < 3000 {
        let last = positions[positions.len() - 1];
        positions.push(last + (last / 4).max(8));
    }
    let loss: Vec<f64> =
        positions.iter().map(|p| loss_at(made, *p as f64 * 1.1 + 1.0) + 0.05 * (noise.next() - 0.5)).collect();
    PositionLoss {
        variant: made.0.to_owned(),
        length,
        low: loss.iter().map(|l| l - 0.05).collect(),
        high: loss.iter().map(|l| l + 0.05).collect(),
        positions,
        loss,
        documents: 24,
    }
}

fn spectra(made: &Made) -> Vec<Spectrum> {
    let pairs = 16;
    let plain = |theta: f64| (0..pairs).map(move |i| theta.powf(-f64::from(i) / f64::from(pairs)));
    let ramp = |i: i32| ((f64::from(i) - 4.0) / 6.0).clamp(0.0, 1.0);
    let one = |length: usize, inv_freq: Vec<f64>, attention_factor: f64| Spectrum {
        variant: made.0.to_owned(),
        length,
        inv_freq,
        attention_factor,
    };
    match made.0 {
        "pi" | "pi-trained" => vec![one(TRAINED, plain(1e4).map(|f| f / 4.0).collect(), 1.0)],
        "ntk" => vec![one(TRAINED, plain(4.4e4).collect(), 1.0)],
        "dynamic-ntk" => vec![one(512, plain(2.1e4).collect(), 1.0), one(4096, plain(1.9e5).collect(), 1.0)],
        "yarn" | "yarn-trained" => {
            let mixed = plain(1e4).zip(0..).map(|(f, i)| f * (1.0 - ramp(i)) + f / 4.0 * ramp(i));
            vec![one(TRAINED, mixed.collect(), 1.1386)]
        }
        "abf-trained" => vec![one(TRAINED, plain(2e5).collect(), 1.0)],
        _ => vec![one(ORIGINAL, plain(1e4).collect(), 1.0)],
    }
}

fn training(made: &Made, noise: &mut Noise) -> TrainingCurve {
    let steps: Vec<u64> = (1..=170).collect();
    let start = if made.0 == "pi-trained" { 1.6 } else { 0.4 };
    let loss = steps.iter().map(|s| 3.9 + start * (-(*s as f64) / 22.0).exp() + 0.24 * (noise.next() - 0.5)).collect();
    TrainingCurve {
        variant: made.0.to_owned(),
        tokens: steps.iter().map(|s| s * 4096).collect(),
        learning_rate: steps.iter().map(|s| 6e-4 * (*s as f64 / 10.0).min(1.0)).collect(),
        steps,
        loss,
    }
}

fn provenance(seed: u64) -> Provenance {
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Provenance {
        program: "bowline 0.1.0".to_owned(),
        command: ["bowline", "run", "demo"].map(str::to_owned).to_vec(),
        commit: Some("4721c35d0f1e2a3b4c5d6e7f8091a2b3c4d5e6f7".to_owned()),
        dirty: Some(false),
        started_at: "2026-11-25T01:31:00Z".to_owned(),
        duration_s: 512.4,
        device: "cpu".to_owned(),
        threads: 2,
        dtype: "float32".to_owned(),
        backend: Some("auto: tiled at 2048 tokens".to_owned()),
        seeds: BTreeMap::from([("data".to_owned(), seed), ("passkey".to_owned(), 1234), ("bootstrap".to_owned(), 7)]),
        versions: map(&[("libtorch", "2.11.0"), ("tch", "0.24.0"), ("rustc", "1.95.0")]),
        hashes: map(&[
            ("weights", "blake3:5b1f0c3c9c0ad2f8e1d7"),
            ("tokenizer", "blake3:0d2c77aa12fe90b1c344"),
            ("documents", "blake3:9f27e4c1a6b0d3587712"),
        ]),
        config: serde_json::json!({
            "model": "bundled", "recipe": "demo",
            "eval": { "protocols": ["P1", "P2"], "lengths": LENGTHS, "passkey": { "depths": DEPTHS, "trials": TRIALS } },
            "train": { "context": TRAINED, "steps": 170, "learning_rate": 6e-4, "schedule": "constant" },
        }),
    }
}
