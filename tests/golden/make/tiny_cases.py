"""Shapes, weights and configurations of the tiny LLaMA checkpoints.

Four sets of weights serve all cases, since position schemes do not change shapes. Standard deviations are chosen so
that attention scores have a spread of about two (each query looks at a handful of keys) and logits of about two and
a half: at the usual 0.02 the softmax would be flat and a wrong rotation would pass unseen.
"""

import numpy as np

SEED = 20240229
VOCAB = 256
HIDDEN = 48
FEED_FORWARD = 80
LAYERS = 2
ORIGINAL_CONTEXT = 64

# heads, key-value heads, head size (None: hidden / heads, left out of the config), tied, biases, epsilon, stored as.
SHAPES = {
    "mha": dict(heads=4, kv_heads=4, head_dim=None, tied=False, bias=False, eps=1e-6, stored="float32"),
    "gqa": dict(heads=4, kv_heads=2, head_dim=24, tied=True, bias=False, eps=1e-5, stored="float32"),
    "mqa": dict(heads=3, kv_heads=1, head_dim=None, tied=False, bias=True, eps=1e-2, stored="float32"),
    "sharded": dict(heads=6, kv_heads=3, head_dim=None, tied=False, bias=False, eps=1e-5, stored="bfloat16"),
}

SHORT_FACTOR = [1.0, 1.05, 1.1, 1.3, 1.6, 2.0]
LONG_FACTOR = [1.0, 1.2, 1.9, 3.1, 4.0, 5.5]
FACTOR_LISTS = {"short_factor": SHORT_FACTOR, "long_factor": LONG_FACTOR}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL_CONTEXT,
}

# name, weights, tokens in the sequence, max_position_embeddings, what config.json says of positions, what it shows.
CASES = [
    ("default-mha", "mha", 192, 64, {"rope_theta": 10000.0, "rope_scaling": None}, "4.x spelling, null scaling"),
    ("default-sharded", "sharded", 192, 64, {}, "no position key at all: base 10000"),
    (
        "abf-gqa", "gqa", 256, 256,
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
        "raised base, 5.x spelling",
    ),
    (
        "linear-mha", "mha", 256, 256,
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
        "4.x spelling with type, rope_theta left out",
    ),
    (
        "dynamic-mqa", "mqa", 224, 64,
        {"rope_theta": 10000.0, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        "past the original context: the base depends on the sequence length",
    ),
    (
        "dynamic-short-mqa", "mqa", 64, 64,
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
        "exactly the original context: equal to no scaling",
    ),
    (
        "yarn-gqa", "gqa", 256, 256,
        {
            "rope_theta": 10000.0,
            "rope_scaling": {
                "type": "yarn", "factor": 4.0, "finetuned": True,
                "original_max_position_embeddings": ORIGINAL_CONTEXT,
            },
        },
        "4.x spelling of the published YaRN models",
    ),
    (
        "yarn-odd-mqa", "mqa", 256, 512,
        {
            "rope_parameters": {
                "rope_type": "yarn", "factor": 8.0, "rope_theta": 20000.0, "attention_factor": 1.4,
                "beta_fast": 4.0, "beta_slow": 0.5, "truncate": False,
                "original_max_position_embeddings": ORIGINAL_CONTEXT,
            }
        },
        "ramp limits not rounded, factor and betas given",
    ),
    (
        "yarn-mscale-sharded", "sharded", 200, 256,
        {
            "rope_theta": 10000.0,
            "rope_scaling": {
                "rope_type": "yarn", "factor": 4.0, "mscale": 2.0, "mscale_all_dim": 0.707,
                "original_max_position_embeddings": ORIGINAL_CONTEXT,
            },
        },
        "attention factor as a ratio of mscale terms",
    ),
    (
        "llama3-gqa", "gqa", 256, 512,
        {
            "rope_theta": 10000.0,
            "rope_scaling": LLAMA3,
            "rope_parameters": {**LLAMA3, "rope_theta": 10000.0},
        },
        "both spellings side by side, equal",
    ),
    (
        "longrope-short-mha", "mha", 64, 256,
        {
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 10000.0, "factor": 6.0, **FACTOR_LISTS,
                "original_max_position_embeddings": ORIGINAL_CONTEXT,
            }
        },
        "exactly the original context: short factors, and the attention factor all the same",
    ),
    (
        "longrope-long-mha", "mha", 200, 256,
        {
            "original_max_position_embeddings": ORIGINAL_CONTEXT,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "longrope", **FACTOR_LISTS},
        },
        "past it: long factors; original context beside rope_scaling, factor from the two lengths",
    ),
]


def head_dim(shape):
    return shape["head_dim"] or HIDDEN // shape["heads"]


def config_json(shape, max_positions, positions):
    """What config.json holds, as a published LLaMA checkpoint would."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"],
        "max_position_embeddings": max_positions,
        "hidden_act": "silu",
        "rms_norm_eps": shape["eps"],
        "tie_word_embeddings": shape["tied"],
        "attention_bias": shape["bias"],
        "mlp_bias": shape["bias"],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if shape["head_dim"] is not None:
        config["head_dim"] = shape["head_dim"]
    # Newer files say dtype, older ones torch_dtype.
    config["dtype" if "rope_parameters" in positions else "torch_dtype"] = shape["stored"]
    return config | positions


def weights(name):
    """Name to float32 array, in the order in which they are stored."""
    shape = SHAPES[name]
    rng = np.random.default_rng([SEED, sorted(SHAPES).index(name)])
    tensors = {}

    def matrix(key, rows, columns, gain):
        """Entries such that an input of unit variance gives outputs of standard deviation `gain`."""
        tensors[key + ".weight"] = rng.standard_normal((rows, columns)) * (gain / columns**0.5)
        if shape["bias"] and "layers" in key:
            tensors[key + ".bias"] = rng.standard_normal(rows) * 0.3

    def norm(key):
        tensors[key + ".weight"] = rng.uniform(0.6, 1.4, HIDDEN)

    queries, keys = shape["heads"] * head_dim(shape), shape["kv_heads"] * head_dim(shape)
    matrix("model.embed_tokens", VOCAB, HIDDEN, 2.5 if shape["tied"] else 5.0)
    for index in range(LAYERS):
        prefix = f"model.layers.{index}."
        norm(prefix + "input_layernorm")
        matrix(prefix + "self_attn.q_proj", queries, HIDDEN, 1.4)
        matrix(prefix + "self_attn.k_proj", keys, HIDDEN, 1.4)
        matrix(prefix + "self_attn.v_proj", keys, HIDDEN, 1.0)
        matrix(prefix + "self_attn.o_proj", HIDDEN, queries, 1.0)
        norm(prefix + "post_attention_layernorm")
        matrix(prefix + "mlp.gate_proj", FEED_FORWARD, HIDDEN, 1.0)
        matrix(prefix + "mlp.up_proj", FEED_FORWARD, HIDDEN, 1.0)
        matrix(prefix + "mlp.down_proj", HIDDEN, FEED_FORWARD, 1.0)
    norm("model.norm")
    if not shape["tied"]:
        matrix("lm_head", VOCAB, HIDDEN, 2.5)
    return {key: tensor.astype(np.float32) for key, tensor in tensors.items()}


def token_ids(name, length):
    """Uniform ids below VOCAB; a case's own stream, so that a mixed-up file is noticed."""
    rng = np.random.default_rng([SEED, 7, *name.encode()])
    return rng.integers(0, VOCAB, length).tolist()
