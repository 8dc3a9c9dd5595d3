"""A second, independent LLaMA forward pass in float64, straight loops over heads, that can be told to be wrong.

It has two uses. Right, it bounds the rounding error of the float32 golden numbers. Wrong in one named way, it
measures how far that mistake moves the per-token NLL, which shows that the golden tolerance can catch it.
"""

import torch

# Each mistake is one that a fresh implementation could plausibly contain.
MUTATIONS = {
    "causal_off_by_one": "query i also sees key i+1",
    "self_hidden": "query i does not see key i (i > 0)",
    "interleaved_pairs": "rotates (2i, 2i+1) instead of (i, i+d/2)",
    "rotation_reversed": "rotates by the negative angle",
    "keys_not_rotated": "rotates queries only",
    "values_rotated": "rotates values too",
    "scale_of_hidden_over_heads": "scores divided by sqrt(hidden / heads), not sqrt(head_dim)",
    "kv_heads_tiled": "query head h reads key head h mod kv_heads, not h // group",
    "attention_factor_once": "attention factor on queries only",
    "attention_factor_dropped": "attention factor taken as 1",
    "norm_weights_ignored": "RMSNorm without its weight",
    "eps_ignored": "RMSNorm without epsilon",
    "biases_ignored": "linear layers without their biases",
}


def applies(mutation, config, factor):
    """Whether `mutation` changes anything for a model with this configuration."""
    head_dim, per_head = config.head_dim, config.hidden_size // config.num_attention_heads
    return {
        "scale_of_hidden_over_heads": head_dim != per_head,
        "kv_heads_tiled": 1 < config.num_key_value_heads < config.num_attention_heads,
        "attention_factor_once": factor != 1.0,
        "attention_factor_dropped": factor != 1.0,
        "eps_ignored": config.rms_norm_eps >= 1e-3,
        "biases_ignored": config.attention_bias,
    }.get(mutation, True)


def nll(weights, config, tokens, inv_freq, factor, mutation=None, exact_angles=False):
    """Per-token NLL (nats, float64) of tokens[1:], each given all before it.

    weights: name to float64 tensor. inv_freq [head_dim / 2]: as transformers computed it, float32.
    exact_angles: phases in float64; otherwise in float32 as transformers does.
    """
    cos, sin = rotation(len(tokens), inv_freq, exact_angles)
    hidden = weights["model.embed_tokens.weight"][tokens]  # [tokens, hidden]
    for index in range(config.num_hidden_layers):
        layer = {
            name.removeprefix(f"model.layers.{index}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"model.layers.{index}.")
        }
        normed = rms_norm(hidden, layer["input_layernorm.weight"], config, mutation)
        hidden = hidden + attention(normed, layer, config, cos, sin, factor, mutation)
        normed = rms_norm(hidden, layer["post_attention_layernorm.weight"], config, mutation)
        gate = linear(normed, layer, "mlp.gate_proj", mutation)
        up = linear(normed, layer, "mlp.up_proj", mutation)
        hidden = hidden + linear(gate * torch.sigmoid(gate) * up, layer, "mlp.down_proj", mutation)
    hidden = rms_norm(hidden, weights["model.norm.weight"], config, mutation)
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    log_probability = torch.log_softmax(hidden @ head.T, dim=-1)
    return -log_probability[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]


def rotation(length, inv_freq, exact_angles):
    """cos and sin [length, head_dim / 2] in float64."""
    dtype = torch.float64 if exact_angles else torch.float32
    angles = torch.arange(length, dtype=dtype)[:, None] * inv_freq.to(dtype)[None, :]
    return angles.cos().double(), angles.sin().double()


def rms_norm(x, weight, config, mutation):
    eps = 0.0 if mutation == "eps_ignored" else config.rms_norm_eps
    normed = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return normed if mutation == "norm_weights_ignored" else normed * weight


def linear(x, layer, name, mutation):
    product = x @ layer[name + ".weight"].T
    bias = layer.get(name + ".bias")
    return product if bias is None or mutation == "biases_ignored" else product + bias


def rotated(x, cos, sin, mutation):
    """x [tokens, head_dim] rotated position by position."""
    if mutation == "rotation_reversed":
        sin = -sin
    half = x.shape[-1] // 2
    if mutation == "interleaved_pairs":
        first, second = x[:, 0::2], x[:, 1::2]
        pairs = (first * cos - second * sin, second * cos + first * sin)
        return torch.stack(pairs, dim=-1).flatten(1)
    first, second = x[:, :half], x[:, half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attention(x, layer, config, cos, sin, factor, mutation):
    """Causal attention of x [tokens, hidden], head by head."""
    length, size = x.shape[0], config.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    query, key, value = (linear(x, layer, f"self_attn.{name}_proj", mutation) for name in "qkv")
    # cos and sin both carry the factor, so a score carries its square.
    score_factor = factor**2
    if mutation in ("attention_factor_once", "attention_factor_dropped"):
        score_factor = factor if mutation == "attention_factor_once" else 1.0
    per_head = config.hidden_size // heads
    scale = score_factor / (per_head if mutation == "scale_of_hidden_over_heads" else size) ** 0.5
    visible = visibility(length, mutation)
    outputs = []
    for head in range(heads):
        kv = head % kv_heads if mutation == "kv_heads_tiled" else head // (heads // kv_heads)
        q = rotated(query[:, head * size : (head + 1) * size], cos, sin, mutation)
        k, v = key[:, kv * size : (kv + 1) * size], value[:, kv * size : (kv + 1) * size]
        k = k if mutation == "keys_not_rotated" else rotated(k, cos, sin, mutation)
        v = rotated(v, cos, sin, mutation) if mutation == "values_rotated" else v
        scores = (q @ k.T * scale).masked_fill(~visible, float("-inf"))
        outputs.append(torch.softmax(scores, dim=-1) @ v)
    return linear(torch.cat(outputs, dim=-1), layer, "self_attn.o_proj", mutation)


def visibility(length, mutation):
    """[query, key]: true where the query may look."""
    diagonal = {"causal_off_by_one": 1, "self_hidden": -1}.get(mutation, 0)
    visible = torch.ones(length, length, dtype=torch.bool).tril(diagonal)
    visible[0, 0] = True
    return visible
