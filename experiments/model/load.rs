//! From a checkpoint, or from a seed, to a [`Llama`].

use std::collections::HashMap;

use attention::Backend;
use tch::{Device, Kind, Tensor};

use super::block::{Block, Heads};
use super::btlm;
use super::config::{Family, ModelConfig};
use super::linear::Linear;
use super::llama::Llama;
use super::norm::Norm;
use super::stored::Stored;
use super::weights::Dtype;
use crate::config::{Base, Memory};
use crate::data::rng::CounterRng;
use crate::error::Failure;

impl Llama {
    /// Reads every tensor of a checkpoint as `kind` onto `device`.
    ///
    /// # Errors
    ///
    /// Missing, unexpected and misshapen tensors, all named together.
    pub fn load(
        stored: &Stored,
        config: ModelConfig,
        backend: Backend,
        kind: Kind,
        device: Device,
    ) -> Result<Self, Failure> {
        stored.check(&config)?;
        let shape = config.clone();
        let read = |name: &str| -> Result<Tensor, Failure> {
            Ok(stored.tensor(name, &shape)?.f_to_device(device)?.f_to_kind(kind)?)
        };
        Self::assembled(config, backend, read)
    }

    /// A new model: matrices normal with the config's deviation, 0.02 where it says nothing (those that write to the residual
    /// stream divided by `sqrt(2 layers)`, Radford et al. 2019, section 2.3; under muP those of the blocks times the root of
    /// the width's scale), norms one, biases zero. A pure function of `seed`.
    ///
    /// # Errors
    ///
    /// When memory cannot be had.
    pub fn new_random(
        config: ModelConfig,
        backend: Backend,
        seed: u64,
        kind: Kind,
        device: Device,
    ) -> Result<Self, Failure> {
        let shapes: HashMap<String, Vec<usize>> = config.expected_tensors().into_iter().collect();
        let outer = config.initializer_range();
        let inner = config.mup.hidden_deviation(outer);
        let residual = inner / (2.0 * config.layers as f64).sqrt();
        let make = |name: &str| -> Result<Tensor, Failure> {
            let shape: Vec<i64> = shapes[name].iter().map(|&n| n as i64).collect();
            let tensor = match name {
                _ if name.ends_with("norm.weight") => Tensor::f_ones(&shape, (Kind::Float, Device::Cpu))?,
                _ if name.ends_with("bias") => Tensor::f_zeros(&shape, (Kind::Float, Device::Cpu))?,
                _ => {
                    let std = match name {
                        _ if !name.starts_with("model.layers.") => outer,
                        _ if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") => residual,
                        _ => inner,
                    };
                    let count = shape.iter().product::<i64>() as usize;
                    normal(&CounterRng::new(seed).stream(name), count, std, &shape)?
                }
            };
            Ok(tensor.f_to_device(device)?.f_to_kind(kind)?)
        };
        Self::assembled(config, backend, make)
    }

    /// A new model whose matrices are drawn on the device by libtorch, normal with the config's deviation, norms one, biases zero: fast,
    /// for measurements, whose numbers do not matter. Blocks in NF4 are drawn and quantised one after another, so that no more
    /// than one is ever there in full.
    ///
    /// # Errors
    ///
    /// When memory cannot be had.
    pub fn new_drawn(
        config: ModelConfig,
        backend: Backend,
        (kind, device): (Kind, Device),
        base: Base,
    ) -> Result<Self, Failure> {
        let shapes: HashMap<String, Vec<usize>> = config.expected_tensors().into_iter().collect();
        let deviation = config.initializer_range();
        let make = |name: &str| -> Result<Tensor, Failure> {
            let shape: Vec<i64> = shapes[name].iter().map(|&n| n as i64).collect();
            let mut tensor = Tensor::f_empty(&shape, (kind, device))?;
            Ok(match name {
                _ if name.ends_with("norm.weight") => tensor.f_fill_(1.0)?,
                _ if name.ends_with("bias") => tensor.f_fill_(0.0)?,
                _ => tensor.f_normal_(0.0, deviation)?,
            })
        };
        let drawn = |index| -> Result<Block, Failure> {
            let mut block = block(&config, index, &make)?;
            if base == Base::Nf4 {
                block.quantise_on(device)?;
            }
            Ok(block)
        };
        let blocks = (0..config.layers).map(drawn).collect::<Result<_, _>>()?;
        Self::around(blocks, config, backend, make)
    }

    fn assembled(
        config: ModelConfig,
        backend: Backend,
        read: impl Fn(&str) -> Result<Tensor, Failure>,
    ) -> Result<Self, Failure> {
        let blocks = (0..config.layers).map(|index| block(&config, index, &read)).collect::<Result<_, _>>()?;
        Self::around(blocks, config, backend, read)
    }

    fn around(
        blocks: Vec<Block>,
        config: ModelConfig,
        backend: Backend,
        read: impl Fn(&str) -> Result<Tensor, Failure>,
    ) -> Result<Self, Failure> {
        let head = if config.tied { None } else { Some(read("lm_head.weight")?) };
        Ok(Self {
            embedding: read("model.embed_tokens.weight")?,
            blocks,
            norm: norm(&config, "model.norm", &read)?,
            head,
            backend,
            memory: Memory::default(),
            config,
            adapter: None,
        })
    }
}

fn block(
    config: &ModelConfig,
    index: usize,
    read: &impl Fn(&str) -> Result<Tensor, Failure>,
) -> Result<Block, Failure> {
    let tensor = |name: &str| read(&format!("model.layers.{index}.{name}"));
    let linear = |name: &str, bias: bool| -> Result<Linear, Failure> {
        let bias = if bias { Some(tensor(&format!("{name}.bias"))?) } else { None };
        Ok(Linear::new(tensor(&format!("{name}.weight"))?, bias))
    };
    let norm = |name: &str| norm(config, name, &tensor);
    let (query, key, dim) = config.head_shape();
    Ok(Block {
        heads: Heads { query, key, dim },
        input_norm: norm("input_layernorm")?,
        query: linear("self_attn.q_proj", config.attention_bias)?,
        key: linear("self_attn.k_proj", config.attention_bias)?,
        value: linear("self_attn.v_proj", config.attention_bias)?,
        output: linear("self_attn.o_proj", config.attention_bias)?,
        post_norm: norm("post_attention_layernorm")?,
        gate: linear("mlp.gate_proj", config.mlp_bias)?,
        up: linear("mlp.up_proj", config.mlp_bias)?,
        down: linear("mlp.down_proj", config.mlp_bias)?,
    })
}

fn norm(config: &ModelConfig, name: &str, read: &impl Fn(&str) -> Result<Tensor, Failure>) -> Result<Norm, Failure> {
    let bias = config.layer_norm.then(|| read(&format!("{name}.bias"))).transpose()?;
    Ok(Norm { weight: read(&format!("{name}.weight"))?, bias, epsilon: config.norm_epsilon })
}

/// Names that a checkpoint may hold beside the parameters: buffers of old versions, and a head that is tied.
pub(super) fn ignorable(name: &str, tied: bool, family: Family) -> bool {
    let buffer = match family {
        Family::Llama => name.ends_with("rotary_emb.inv_freq"),
        Family::Btlm => btlm::ignorable(name),
    };
    buffer || (tied && name == "lm_head.weight")
}

/// libtorch's name of an element type.
pub fn kind_of(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::U8 => Kind::Uint8,
    }
}

fn normal(rng: &CounterRng, count: usize, std: f64, shape: &[i64]) -> Result<Tensor, Failure> {
    let values: Vec<f32> = (0..count as u64).map(|i| (rng.normal(i) * std) as f32).collect();
    Ok(Tensor::f_from_slice(&values)?.f_view(shape)?)
}
