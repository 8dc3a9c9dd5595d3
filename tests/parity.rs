//! What transformers 5.23 computes from the same tiny checkpoints. The makers are `tests/golden/make/llama_tiny.py` and
//! `tiny_train.py`; `cases.json` says how much plausible mistakes move the numbers, and some of them are planted here.

use bowline::model::{ModelFolder, Pass, PlanTensors};
use bowline::train::{AdamConfig, AdamW, Decayed, clip_factor, summed_loss};
use eval::LanguageModel;
use rope_scaling::Precision;
use serde_json::{Value, json};
use tch::{Device, Tensor};
use testkit::{Class, Mismatch, same};

use super::support::golden::{self, Case, case, cases, nll, table};
use super::support::program::bowline;
use super::support::{ids, json as read_json, numbers};

/// Per-token NLL, float32 against float32.
fn tolerance() -> Class {
    Class::Close { absolute: table()["tolerance"].as_f64().unwrap(), relative: 0.0 }
}

fn compared(case: &Case, model: &ModelFolder) -> Result<(), Mismatch> {
    same(&nll(model, &case.tokens), &case.nll, tolerance())
}

#[test]
fn every_case_scores_as_transformers_does_on_both_backends() {
    for case in cases() {
        for backend in ["libtorch", "reference"] {
            let model = case.load(backend);
            compared(&case, &model).unwrap_or_else(|mismatch| panic!("{} on {backend}: {mismatch}", case.name));
        }
    }
}

#[test]
fn the_logits_after_the_last_token_agree() {
    for case in cases() {
        let model = case.load("libtorch");
        let reader = model.reader();
        let kept = reader.kept(&case.tokens, case.tokens.len()).unwrap();
        let got: Vec<f64> = kept.next_logits().into_iter().map(f64::from).collect();
        same(&got, &numbers(&case.record["last_logits"]), tolerance())
            .unwrap_or_else(|mismatch| panic!("{}: {mismatch}", case.name));
    }
}

#[test]
fn greedy_continuations_agree_token_by_token() {
    let mut compared = 0;
    for case in cases().into_iter().filter(|case| case.record.get("greedy").is_some()) {
        let expected = ids(&case.record["greedy"]["tokens"]);
        let prompt = case.record["greedy"]["prompt"].as_u64().unwrap() as usize;
        let model = case.load("libtorch");
        let reader = model.reader();
        let prefix = reader.prefix(&case.tokens[..prompt], prompt + expected.len()).unwrap();
        assert_eq!(prefix.greedy(expected.len(), &[]).unwrap(), expected, "{}", case.name);
        compared += 1;
    }
    assert!(compared >= 8, "only {compared} cases have a continuation");
}

#[test]
fn the_program_scores_the_same_numbers() {
    let case = case("yarn-mscale-sharded");
    let folder = case.folder();
    let dir = folder.path();
    std::fs::write(dir.join("ids.json"), json!(case.tokens).to_string()).unwrap();
    let scored = bowline(dir, ["score", ".", "--tokens", "ids.json", "--json", "-"]).expect(0).json();
    same(&numbers(&scored["nll"]), &case.nll, tolerance()).unwrap();
    assert_eq!(scored["tokens"], case.tokens.len());
    let number = |value: &Value| value.as_f64().unwrap();
    assert!((number(&scored["mean_nll"]) - number(&case.record["mean_nll"])).abs() < 2e-4);
    let ratio = number(&scored["perplexity"]) / number(&case.record["perplexity"]);
    assert!((ratio - 1.0).abs() < 2e-4, "{ratio}");

    let arguments =
        ["score", ".", "--tokens", "ids.json", "--context", "40", "--backend", "reference", "--json", "o.json"];
    bowline(dir, arguments).expect(0);
    let shorter = read_json(&dir.join("o.json"));
    same(&numbers(&shorter["nll"]), &case.nll[..39], tolerance()).unwrap();
    assert_eq!((&shorter["tokens"], &shorter["backend"]), (&json!(40), &json!("reference")));
}

/// A misreading of a config that the comparison must reject.
struct Planted {
    case: &'static str,
    /// Its name in `cases.json`.
    mistake: &'static str,
    edit: fn(&mut Value),
}

/// The object that the position keys are in.
fn scheme(config: &mut Value) -> &mut Value {
    let key = if config.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
    &mut config[key]
}

fn one_percent(config: &mut Value) {
    for place in ["/rope_theta", "/rope_parameters/rope_theta"] {
        if let Some(theta) = config.pointer_mut(place) {
            *theta = json!(theta.as_f64().unwrap() * 1.01);
        }
    }
}

fn unscaled(config: &mut Value) {
    let stated = scheme(config).get("rope_theta").cloned().or_else(|| config.get("rope_theta").cloned());
    let object = config.as_object_mut().unwrap();
    object.remove("rope_parameters");
    object.remove("rope_scaling");
    object.insert("rope_theta".to_owned(), stated.unwrap_or(json!(10000.0)));
}

fn factor_one(config: &mut Value) {
    scheme(config)["attention_factor"] = json!(1.0);
}

const PLANTED: [Planted; 15] = [
    Planted { case: "yarn-odd-mqa", mistake: "attention_factor_dropped", edit: factor_one },
    Planted { case: "yarn-gqa", mistake: "attention_factor_dropped", edit: factor_one },
    Planted { case: "longrope-long-mha", mistake: "attention_factor_dropped", edit: factor_one },
    Planted { case: "default-mha", mistake: "base_1_percent", edit: one_percent },
    Planted { case: "abf-gqa", mistake: "base_1_percent", edit: one_percent },
    Planted { case: "dynamic-mqa", mistake: "base_1_percent", edit: one_percent },
    Planted { case: "llama3-gqa", mistake: "base_1_percent", edit: one_percent },
    Planted { case: "longrope-short-mha", mistake: "base_1_percent", edit: one_percent },
    Planted { case: "linear-mha", mistake: "scheme_ignored", edit: unscaled },
    Planted { case: "dynamic-mqa", mistake: "scheme_ignored", edit: unscaled },
    Planted { case: "yarn-gqa", mistake: "scheme_ignored", edit: unscaled },
    Planted { case: "llama3-gqa", mistake: "scheme_ignored", edit: unscaled },
    Planted {
        case: "yarn-odd-mqa",
        mistake: "ramp_rounding_flipped",
        edit: |config| scheme(config)["truncate"] = json!(true),
    },
    Planted {
        case: "longrope-long-mha",
        mistake: "longrope_other_list",
        edit: |config| scheme(config)["long_factor"] = scheme(config)["short_factor"].clone(),
    },
    Planted {
        case: "llama3-gqa",
        mistake: "llama3_as_linear",
        edit: |config| {
            config.as_object_mut().unwrap().remove("rope_parameters");
            config["rope_scaling"] = json!({"rope_type": "linear", "factor": 8.0});
        },
    },
];

/// The mistake moves our numbers as far as it moved the maker's, so it is the same mistake, and the tolerance sees it.
#[test]
fn planted_misreadings_are_rejected_and_move_the_numbers_as_far_as_measured() {
    for Planted { case: name, mistake, edit } in PLANTED {
        let case = case(name);
        let model = golden::load(case.folder_with(edit).path(), "libtorch", tch::Kind::Float);
        let wrong = nll(&model, &case.tokens);
        assert!(same(&wrong, &case.nll, tolerance()).is_err(), "{name} with {mistake} passes");
        let moved = wrong.iter().zip(&case.nll).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let measured = case.row["deviations"][mistake].as_f64().unwrap();
        assert!((moved / measured - 1.0).abs() < 0.01, "{name} with {mistake}: {moved}, transformers {measured}");
    }
}

#[test]
fn a_single_wrong_token_and_a_nan_are_rejected() {
    let case = case("default-mha");
    let right = nll(&case.load("libtorch"), &case.tokens);
    for wrong in [right[100] + 5e-4, f64::NAN] {
        let mut changed = right.clone();
        changed[100] = wrong;
        assert!(same(&changed, &case.nll, tolerance()).is_err(), "{wrong}");
    }
}

/// Mean NLL of every predicted token of a batch, ready for backward.
fn mean_loss(model: &ModelFolder, batch: &Value) -> Tensor {
    let rows: Vec<Vec<i64>> =
        batch.as_array().unwrap().iter().map(|row| ids(row).into_iter().map(i64::from).collect()).collect();
    let (count, length) = (rows.len() as i64, rows[0].len() as i64 - 1);
    let tokens = Tensor::from_slice(&rows.concat()).view([count, length + 1]);
    let (inputs, targets) = (tokens.narrow(1, 0, length), tokens.narrow(1, 1, length));
    let plan = model.encoding().plan(length as usize, Precision::HubCompatible).unwrap();
    let plan = PlanTensors::new(&plan, Device::Cpu);
    let pass = Pass { plan: &plan, offset: 0, mask: attention::Mask::Causal { offset: 0 } };
    let hidden = model.llama.hidden(&inputs, &pass, None).unwrap();
    summed_loss(&model.llama, &hidden, &targets).unwrap() / (count * length) as f64
}

/// A model to train and what transformers made of it.
fn trainable(row: &Value) -> (ModelFolder, Value) {
    let model = case(row["name"].as_str().unwrap()).load("libtorch");
    for (_, parameter) in model.llama.parameters() {
        let _ = parameter.set_requires_grad(true);
    }
    (model, read_json(&golden::home().join(row["file"].as_str().unwrap())))
}

#[test]
fn loss_and_gradients_of_every_parameter_agree() {
    for row in table()["training"].as_array().unwrap() {
        let (model, record) = trainable(row);
        let loss = mean_loss(&model, &record["batches"][0]);
        loss.backward();
        assert!((loss.double_value(&[]) - record["loss"].as_f64().unwrap()).abs() < 2e-5, "{}", row["name"]);
        // Float32's own error, as the maker measured it, with room for another order of sums.
        let relative = 8.0 * row["gradient_noise"].as_f64().unwrap();
        let parameters = model.llama.parameters();
        let expected = record["gradients"].as_array().unwrap();
        assert_eq!(parameters.len(), expected.len(), "{}", row["name"]);
        for gradient in expected {
            let name = gradient["name"].as_str().unwrap();
            let (_, parameter) = parameters.iter().find(|(known, _)| known == name).unwrap();
            check_gradient(&parameter.grad(), gradient, relative);
        }
    }
}

fn check_gradient(got: &Tensor, expected: &Value, relative: f64) {
    let (name, norm) = (expected["name"].as_str().unwrap(), expected["norm"].as_f64().unwrap());
    let allowed = Class::Close { absolute: relative * norm, relative: 0.0 };
    same(&[got.norm().double_value(&[])], &[norm], allowed).unwrap_or_else(|it| panic!("norm of {name}: {it}"));
    let flat = Vec::<f32>::try_from(got.reshape([-1])).unwrap();
    let sampled: Vec<f64> = ids(&expected["index"]).iter().map(|&index| f64::from(flat[index as usize])).collect();
    same(&sampled, &numbers(&expected["value"]), allowed).unwrap_or_else(|it| panic!("{name}: {it}"));
}

/// What ten steps leave behind.
struct Trace {
    loss: Vec<f64>,
    norms: Vec<f64>,
    parameter_norms: Vec<(String, f64)>,
}

/// Ten clipped steps, as the record prescribes but for what `change` does.
fn trace(row: &Value, change: impl Fn(&mut AdamConfig, &mut Option<f64>)) -> (Trace, Value) {
    let (model, record) = trainable(row);
    let rules = &record["adamw"];
    let number = |key: &str| rules[key].as_f64().unwrap();
    let betas = numbers(&rules["betas"]);
    let (beta1, beta2) = (betas[0], betas[1]);
    let mut config = AdamConfig {
        beta1,
        beta2,
        epsilon: number("epsilon"),
        weight_decay: number("weight_decay"),
        decayed: Decayed::Everything,
    };
    let mut clip = Some(number("clip_norm"));
    change(&mut config, &mut clip);
    let mut optimizer = AdamW::new(config, model.llama.parameters()).unwrap();
    let (mut loss, mut norms) = (Vec::new(), Vec::new());
    for batch in record["batches"].as_array().unwrap() {
        let mean = mean_loss(&model, batch);
        mean.backward();
        loss.push(mean.double_value(&[]));
        norms.push(optimizer.gradient_norm().unwrap());
        optimizer.step(number("learning_rate"), clip_factor(norms[norms.len() - 1], clip)).unwrap();
    }
    let parameters = model.llama.parameters();
    let parameter_norms = parameters.into_iter().map(|(name, p)| (name, p.norm().double_value(&[]))).collect();
    (Trace { loss, norms, parameter_norms }, record)
}

fn loss_agrees(row: &Value, trace: &Trace, record: &Value) -> Result<(), Mismatch> {
    let allowed = Class::Close { absolute: row["tolerance"].as_f64().unwrap(), relative: 0.0 };
    same(&trace.loss, &numbers(&record["adamw"]["loss"]), allowed)
}

#[test]
fn ten_optimizer_steps_follow_the_trace() {
    for row in table()["training"].as_array().unwrap() {
        let (trace, record) = trace(row, |_, _| {});
        loss_agrees(row, &trace, &record).unwrap_or_else(|mismatch| panic!("{}: {mismatch}", row["name"]));
        let close = Class::Close { absolute: 0.0, relative: 1e-4 };
        same(&trace.norms, &numbers(&record["adamw"]["grad_norm"]), close).unwrap();
        for (name, norm) in &trace.parameter_norms {
            let expected = record["adamw"]["parameter_norms"][name].as_f64().unwrap();
            same(&[*norm], &[expected], Class::Close { absolute: 0.0, relative: 2e-5 })
                .unwrap_or_else(|mismatch| panic!("{name}: {mismatch}"));
        }
    }
}

#[test]
fn departures_from_the_optimizer_are_rejected_by_the_same_comparison() {
    type Departure = fn(&mut AdamConfig, &mut Option<f64>);
    let departures: [(&str, Departure); 5] = [
        ("no clipping", |_, clip| *clip = None),
        ("no weight decay", |config, _| config.weight_decay = 0.0),
        ("decay of matrices only", |config, _| config.decayed = Decayed::Matrices),
        ("beta2 0.999", |config, _| config.beta2 = 0.999),
        ("epsilon 1e-6", |config, _| config.epsilon = 1e-6),
    ];
    for row in table()["training"].as_array().unwrap() {
        for (what, change) in departures {
            let (trace, record) = trace(row, change);
            assert!(loss_agrees(row, &trace, &record).is_err(), "{} with {what} passes", row["name"]);
        }
    }
}
