//! Every policy beside a plain model that libtorch differentiates, and beside one another.

use attention::{DocumentStarts, Mask};
use rope_scaling::Precision;
use serde_json::{Value, json};
use tch::{Device, Kind, Reduction};

use super::*;
use crate::model::{Llama, ModelConfig};
use crate::train::summed_loss;

const BATCH: i64 = 2;
const LENGTH: i64 = 40;

/// Two layers, grouped heads, biases.
fn config(changes: &[(&str, Value)]) -> ModelConfig {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 29,
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "rope_theta": 100.0, "attention_bias": true,
        "mlp_bias": true, "tie_word_embeddings": true
    });
    changes.iter().for_each(|(key, value)| config[key] = value.clone());
    ModelConfig::from_hf(&config).unwrap()
}

/// A model with weights large enough for attention to be sharp and norms that are not one, all trained.
fn model(changes: &[(&str, Value)], kind: Kind, backend: &str) -> Llama {
    let backend = Backend::from_name(backend).unwrap();
    let model = Llama::new_random(config(changes), backend, 5, kind, Device::Cpu).unwrap();
    tch::manual_seed(11);
    tch::no_grad(|| {
        for (_, parameter) in model.parameters() {
            let noise = Tensor::randn(parameter.size(), (Kind::Float, Device::Cpu)).to_kind(kind);
            let _ = parameter.shallow_clone().g_mul_scalar_(4.0).g_add_(&(noise * 0.1));
        }
    });
    for (_, parameter) in model.parameters() {
        let _ = parameter.set_requires_grad(true);
    }
    model
}

fn tokens() -> (Tensor, Tensor) {
    let ids = Tensor::arange(BATCH * (LENGTH + 1), (Kind::Int64, Device::Cpu)) * 7919;
    let ids = ids.remainder(29).view([BATCH, LENGTH + 1]);
    (ids.narrow(1, 0, LENGTH), ids.narrow(1, 1, LENGTH))
}

fn plan(model: &Llama) -> PlanTensors {
    let plan = model.config.encoding().plan(LENGTH as usize, Precision::HubCompatible).unwrap();
    PlanTensors::new(&plan, Device::Cpu)
}

/// Loss and the gradients of all parameters; those are forgotten then.
type Answer = (f64, Vec<(String, Tensor)>);

fn differentiated(model: &Llama, loss: Tensor) -> Answer {
    loss.f_backward().unwrap();
    let taken = |(name, parameter): (String, &Tensor)| {
        let grad = parameter.grad();
        let copy = (name, if grad.defined() { grad.copy() } else { parameter.zeros_like() });
        let _ = grad.defined().then(|| parameter.grad().zero_());
        copy
    };
    (loss.double_value(&[]), model.parameters().into_iter().map(taken).collect())
}

fn trained(model: &Llama, mask: &Mask) -> Answer {
    let (plan, (inputs, targets)) = (plan(model), tokens());
    let pass = Pass { plan: &plan, offset: 0, mask: mask.clone() };
    differentiated(model, summed_loss(model, &model.hidden(&inputs, &pass, None).unwrap(), &targets).unwrap())
}

fn under(model: &mut Llama, memory: Memory) -> Answer {
    model.memory = memory;
    trained(model, &Mask::Causal { offset: 0 })
}

/// The equations one by one on whole tensors, scores and logits included.
fn plain(model: &Llama) -> Answer {
    let (plan, (inputs, targets), kind) = (plan(model), tokens(), model.embedding.kind());
    let norm = |x: &Tensor, norm: &crate::model::Norm| {
        let mean = (x * x).mean_dim([-1_i64].as_slice(), true, kind);
        x / (mean + norm.epsilon).sqrt() * &norm.weight
    };
    let split = |x: Tensor, heads: i64| x.view([BATCH, LENGTH, heads, 8]).transpose(1, 2);
    let hidden_pairs = Tensor::ones([LENGTH, LENGTH], (Kind::Bool, Device::Cpu)).triu(1);
    let mut x = Tensor::embedding(&model.embedding, &inputs, -1, false, false);
    for block in &model.blocks {
        let n = norm(&x, &block.input_norm);
        let q = plan.rotated(&split(block.query.forward(&n), 4), 0);
        let k = plan.rotated(&split(block.key.forward(&n), 2), 0).repeat_interleave_self_int(2, 1, None);
        let v = split(block.value.forward(&n), 2).repeat_interleave_self_int(2, 1, None);
        let scores = q.matmul(&k.transpose(2, 3)) / 8_f64.sqrt();
        let mixed = scores.masked_fill(&hidden_pairs, f64::NEG_INFINITY).softmax(-1, kind).matmul(&v);
        // Not in place: the graph holds x.
        x = x.g_add(&block.output.forward(&mixed.transpose(1, 2).reshape([BATCH, LENGTH, 32])));
        let n = norm(&x, &block.post_norm);
        let g = block.gate.forward(&n);
        x = &x + block.down.forward(&(&g * g.sigmoid() * block.up.forward(&n)));
    }
    let logits = model.logits(&norm(&x, &model.norm)).view([BATCH * LENGTH, -1]);
    let loss = logits.cross_entropy_loss(&targets.reshape([-1]), None::<&Tensor>, Reduction::Sum, -100, 0.0);
    differentiated(model, loss)
}

/// The largest distance of a gradient, in parts of its largest number or of a hundredth of the largest of all, and whose it
/// is: the gradient of a key's bias, which moves all scores of a query nearly alike, is what rounding leaves of larger numbers.
fn apart(found: &Answer, expected: &Answer) -> (f64, String) {
    let largest = |t: &Tensor| t.abs().max().double_value(&[]);
    let floor = 1e-2 * expected.1.iter().map(|(_, t)| largest(t)).fold(0.0, f64::max);
    let loss = ((found.0 - expected.0).abs() / expected.0.abs(), "the loss".to_owned());
    let gradients = found.1.iter().zip(&expected.1).map(|((name, found), (_, expected))| {
        let apart = largest(&(found - expected)) / largest(expected).max(floor);
        (if apart.is_nan() { f64::INFINITY } else { apart }, name.clone())
    });
    gradients.chain([loss]).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

fn policies() -> Vec<Memory> {
    let kinds = [Activations::All, Activations::Light, Activations::Attention, Activations::Layers];
    let cut =
        [0, 7, 80].map(|mlp_tokens| kinds.map(|activations| Memory { activations, mlp_tokens, ..Memory::default() }));
    let offloaded = [Activations::Attention, Activations::Layers].map(|activations| Memory {
        activations,
        offload: true,
        loss_tokens: 9,
        ..Memory::default()
    });
    cut.into_iter().flatten().chain(offloaded).collect()
}

#[test]
fn every_policy_gives_loss_and_gradients_of_the_plain_model() {
    for (kind, backend, bound) in
        [(Kind::Double, "auto", 1e-6), (Kind::Float, "tiled", 1e-4), (Kind::Float, "libtorch", 1e-4)]
    {
        let mut model = model(&[], kind, backend);
        let expected = plain(&model);
        for memory in policies() {
            let (apart, whose) = apart(&under(&mut model, memory), &expected);
            assert!(apart <= bound, "{kind:?} on {backend} under {memory:?}: {whose} is {apart} apart");
        }
    }
}

#[test]
fn a_head_of_its_own_and_no_biases_are_as_right() {
    let changes = [("tie_word_embeddings", json!(false)), ("attention_bias", json!(false)), ("mlp_bias", json!(false))];
    let mut model = model(&changes, Kind::Float, "tiled");
    let expected = plain(&model);
    for activations in [Activations::All, Activations::Attention] {
        let (apart, whose) = apart(&under(&mut model, Memory { activations, ..Memory::default() }), &expected);
        assert!(apart <= 1e-4, "{activations:?}: {whose} is {apart} apart");
    }
}

/// What is computed again is computed as it was.
#[test]
fn policies_differ_in_no_bit_where_nothing_is_cut() {
    let mut model = model(&[], Kind::Float, "tiled");
    let all = under(&mut model, Memory::default());
    for activations in [Activations::Light, Activations::Attention, Activations::Layers] {
        for offload in [false, true] {
            let again = under(&mut model, Memory { activations, offload, ..Memory::default() });
            assert_eq!(again.0.to_bits(), all.0.to_bits(), "{activations:?}");
            for ((name, found), (_, expected)) in again.1.iter().zip(&all.1) {
                // The embedding's rows are added up by libtorch in whichever order its threads come.
                assert!(found.equal(expected) || name.contains("embed"), "{activations:?}: {name}");
            }
        }
    }
}

#[test]
fn bfloat16_is_as_near_the_float32_model_as_libtorch_brings_it() {
    let mut wide = model(&[], Kind::Float, "tiled");
    tch::no_grad(|| wide.parameters().iter().for_each(|(_, p)| p.shallow_clone().copy_(&p.to_kind(Kind::BFloat16))));
    let mut narrow = model(&[], Kind::BFloat16, "tiled");
    tch::no_grad(|| {
        narrow.parameters().iter().zip(wide.parameters()).for_each(|((_, n), (_, w))| n.shallow_clone().copy_(w));
    });
    let expected = under(&mut wide, Memory::default());
    let from_expected = |found: Answer| {
        let rounded = |(name, t): &(String, Tensor)| (name.clone(), t.to_kind(Kind::Float));
        apart(&(found.0, found.1.iter().map(rounded).collect()), &expected)
    };
    let (plain, _) = from_expected(plain(&narrow));
    for activations in [Activations::All, Activations::Layers] {
        let (apart, whose) = from_expected(under(&mut narrow, Memory { activations, ..Memory::default() }));
        assert!(apart <= 2.0 * plain, "{activations:?}: {whose} is {apart} apart, libtorch's own {plain}");
    }
}

#[test]
fn frozen_parameters_get_nothing_and_the_others_what_they_got() {
    let mut model = model(&[], Kind::Float, "tiled");
    let expected = under(&mut model, Memory::default());
    let frozen = |name: &str| !name.contains("q_proj") && !name.contains("norm");
    for (name, parameter) in model.parameters() {
        let _ = parameter.set_requires_grad(!frozen(&name));
    }
    for activations in [Activations::All, Activations::Attention] {
        let found = under(&mut model, Memory { activations, mlp_tokens: 16, ..Memory::default() });
        for ((name, found), (_, expected)) in found.1.iter().zip(&expected.1) {
            let most = expected.abs().max().double_value(&[]);
            let expected = if frozen(name) { expected.zeros_like() } else { expected.shallow_clone() };
            assert!((found - expected).abs().max().double_value(&[]) <= 2e-5 * most, "{name}");
        }
    }
}

#[test]
fn documents_and_alibi_reach_the_backward() {
    let mut model = model(&[], Kind::Float, "tiled");
    let starts = DocumentStarts::new(vec![vec![0, 11, 30], vec![0, 5]]).unwrap();
    let mask = Mask::Documents { starts, offset: 0 };
    let all = trained(&model, &mask);
    let causal = trained(&model, &Mask::Causal { offset: 0 });
    assert!(apart(&all, &causal).0 > 0.05, "the mask is seen");
    model.memory.activations = Activations::Attention;
    assert_eq!(apart(&trained(&model, &mask), &all).0, 0.0);
    model.backend = Backend::from_name("libtorch").unwrap();
    assert!(apart(&trained(&model, &mask), &all).0 < 1e-4);
}

/// Groups, on a backend that goes back from its answers and on one that has libtorch's graph.
#[test]
fn attention_in_groups_is_the_same_under_every_policy() {
    use crate::model::ShiftedSparse;
    let mut model = model(&[], Kind::Float, "tiled");
    let grouped = |model: &Llama| {
        let plan = plan(model).with_sparse(Some(ShiftedSparse::new(LENGTH as usize, 0.2).unwrap()));
        let (inputs, targets) = tokens();
        let pass = Pass { plan: &plan, offset: 0, mask: Mask::Causal { offset: 0 } };
        differentiated(model, summed_loss(model, &model.hidden(&inputs, &pass, None).unwrap(), &targets).unwrap())
    };
    let all = grouped(&model);
    assert!(apart(&all, &trained(&model, &Mask::Causal { offset: 0 })).0 > 0.05, "the groups are seen");
    for backend in ["tiled", "libtorch"] {
        model.backend = Backend::from_name(backend).unwrap();
        for activations in [Activations::All, Activations::Light, Activations::Attention, Activations::Layers] {
            model.memory = Memory { activations, ..Memory::default() };
            let (apart, whose) = apart(&grouped(&model), &all);
            assert!(apart < 1e-4, "{backend}, {activations:?}: {whose} is {apart} apart");
        }
    }
}

/// A pass that is not recorded answers the same.
#[test]
fn reading_and_training_see_the_same_hidden_states() {
    let model = model(&[], Kind::Float, "tiled");
    let (plan, (inputs, _)) = (plan(&model), tokens());
    let pass = Pass { plan: &plan, offset: 0, mask: Mask::Causal { offset: 0 } };
    let recorded = model.hidden(&inputs, &pass, None).unwrap();
    let read = tch::no_grad(|| model.hidden(&inputs, &pass, None).unwrap());
    assert!(recorded.requires_grad() && !read.requires_grad());
    assert!(recorded.equal(&read));
}

#[test]
fn a_way_of_reading_is_refused_in_training() {
    let model = model(&[], Kind::Float, "tiled");
    let plan = plan(&model).with_extrapolation(Some("rerope:window=8".parse().unwrap()));
    let pass = Pass { plan: &plan, offset: 0, mask: Mask::Causal { offset: 0 } };
    let error = model.hidden(&tokens().0, &pass, None).unwrap_err().to_string();
    assert!(error.contains("rerope") && error.contains("train"), "{error}");
    assert!(tch::no_grad(|| model.hidden(&tokens().0, &pass, None)).is_ok());
}
