"""Frequencies, attention factors, cosines and sines of transformers' LLaMA rotary module, and Bloom's ALiBi slopes.

    python tests/golden/make/rope.py          writes tests/golden/rope/*.json and tests/golden/alibi/slopes.json
    python tests/golden/make/rope.py --check  compares instead; says what moved and exits 1

Each case holds the config as a checkpoint would carry it, a sequence length, and what the module computed for that
length in float32 (numbers are the float32 values, written exactly). Where transformers' formulas and other
implementations of YaRN part ways, transformers is followed.
"""

import sys
from pathlib import Path

import torch
import transformers
from transformers import LlamaConfig
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import manifest
from golden_io import differences, read_json, write_json

MAKER = "tests/golden/make/rope.py"
READER = "rope_scaling/tests/golden.rs"

# At and around the places where a phase error shows: start, context ends, beyond, and the far end.
SAMPLED = [0, 1, 2047, 4095, 32767, 131071, 1000003]
ALIBI_HEADS = [1, 2, 3, 5, 6, 7, 8, 12, 16, 20, 24, 25, 32, 40, 48, 56, 64, 71, 112]


def config(max_positions, head_dim=128, **rest):
    """A LLaMA config of two heads; sizes that do not concern positions are left to their defaults."""
    shape = dict(model_type="llama", hidden_size=2 * head_dim, num_attention_heads=2)
    return {**shape, "max_position_embeddings": max_positions, **rest}


def old(theta=10000.0, **scaling):
    return {"rope_theta": theta, "rope_scaling": scaling}


def new(theta=10000.0, **parameters):
    return {"rope_parameters": {"rope_theta": theta, **parameters}}


def yarn(factor, original, **rest):
    return dict(rope_type="yarn", factor=factor, original_max_position_embeddings=original, **rest)


def longrope(pairs, original, **rest):
    short = [1.0 + 0.02 * pair for pair in range(pairs)]
    long = [1.0 + 0.5 * pair for pair in range(pairs)]
    return dict(
        rope_type="longrope", short_factor=short, long_factor=long, original_max_position_embeddings=original, **rest
    )


LLAMA31 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
)

# scheme -> (case, config, sequence lengths, whether cosines and sines are sampled)
CASES = {
    "default": [
        ("llama2", config(4096, **old(type="default")), [4096], True),
        ("code_llama_base", config(16384, rope_theta=1e6), [16384], False),
        ("explicit_head_dim", {**config(2048, **new(rope_type="default", theta=5e5)), "head_dim": 80}, [2048], False),
    ],
    "linear": [
        ("together_32k", config(32768, rope_scaling={"type": "linear", "factor": 8.0}), [32768], True),
        ("factor_of_three", config(12288, **new(rope_type="linear", factor=3.0)), [100], False),
    ],
    "dynamic": [
        ("llama2_times_4", config(4096, **old(type="dynamic", factor=4.0)), [4095, 4096, 4097, 16384, 32768], False),
        ("factor_one", config(2048, head_dim=64, **old(type="dynamic", factor=1.0)), [8192], False),
        ("sampled", config(2048, head_dim=32, **new(rope_type="dynamic", factor=2.0)), [32768], True),
    ],
    "yarn": [
        ("llama2_times_16", config(65536, **old(type="yarn", factor=16.0, original_max_position_embeddings=4096)),
         [65536], True),
        ("llama2_times_4", config(16384, **old(**yarn(4.0, 4096))), [16384], False),
        ("llama2_times_8", config(32768, **old(**yarn(8.0, 4096))), [32768], False),
        ("clamp_of_128_heads", config(262144, **new(**yarn(4.0, 65536))), [262144], False),
        ("clamp_of_64_heads", config(1048576, head_dim=64, **new(**yarn(8.0, 131072))), [1048576], False),
        ("bounds_not_rounded", config(32768, **new(**yarn(8.0, 4096, truncate=False))), [32768], False),
        ("mscale_pair", config(163840, head_dim=64, **old(**yarn(40.0, 4096, mscale=1.0, mscale_all_dim=0.707))),
         [163840], False),
        ("mscale_alone", config(8192, head_dim=64, **old(**yarn(2.0, 4096, mscale=0.707))), [8192], False),
        ("given_attention_factor", config(16384, **new(**yarn(4.0, 4096, attention_factor=1.4))), [16384], False),
        ("other_betas", config(16384, **new(theta=5e5, **yarn(2.0, 8192, beta_fast=16.0, beta_slow=2.0))),
         [16384], False),
        ("equal_betas", config(1024, head_dim=32, **new(**yarn(4.0, 256, beta_fast=4.0, beta_slow=4.0))),
         [1024], False),
        ("tiny_context", config(1024, head_dim=32, **new(**yarn(4.0, 256))), [1024], False),
        ("factor_one", config(4096, **new(**yarn(1.0, 4096))), [4096], False),
        ("partly_rotated", config(16384, partial_rotary_factor=0.5, **old(**yarn(4.0, 4096))), [16384], False),
    ],
    "ntk_by_parts": [
        ("llama2_times_4", config(16384, **old(**yarn(4.0, 4096, attention_factor=1.0))), [16384], False),
    ],
    "llama3": [
        ("llama_3_1", config(131072, **old(theta=5e5, **LLAMA31)), [131072], True),
        ("llama_3_2_1b", config(131072, head_dim=64, **new(theta=5e5, **{**LLAMA31, "factor": 32.0})), [131072], False),
    ],
    "longrope": [
        ("both_sides", config(131072, head_dim=96, **new(**longrope(48, 4096, factor=32.0))), [4096, 4097], False),
        ("old_name_implied_factor",
         config(16384, head_dim=32, original_max_position_embeddings=4096,
                **old(type="su", **{k: v for k, v in longrope(16, 4096).items() if k != "rope_type"})), [4096], False),
        ("given_attention_factor",
         config(16384, head_dim=32, **new(**longrope(16, 4096, factor=4.0, attention_factor=1.1))), [16384], True),
    ],
}


def for_transformers(raw):
    """The config as LlamaConfig takes it: 5.23 no longer knows LongRoPE's first name."""
    known = {**raw, **({"rope_scaling": dict(raw["rope_scaling"])} if "rope_scaling" in raw else {})}
    if known.get("rope_scaling", {}).get("type") == "su":
        known["rope_scaling"]["type"] = "longrope"
    return LlamaConfig(**known)


def numbers(tensor):
    return [float(value) for value in tensor.flatten().to(torch.float64)]


def computed(raw, length, sampled):
    """What the rotary module holds after it has seen `length` tokens, and its output at the sampled positions."""
    module = LlamaRotaryEmbedding(for_transformers(raw))
    hidden = torch.zeros(1, dtype=torch.float32)
    positions = sorted({position for position in SAMPLED if position < length} | {length - 1})
    module(hidden, torch.tensor([positions]))
    case = {
        "length": length,
        "attention_factor": float(module.attention_scaling),
        "inv_freq": numbers(module.inv_freq),
    }
    if sampled:
        # Beyond the length as well: the frequencies are kept, the phases grow. Schemes that depend on the length stay
        # inside it, since a later position would change them.
        fixed = module.rope_type in ("default", "linear", "yarn", "llama3")
        positions = SAMPLED if fixed else positions
        cos, sin = module(hidden, torch.tensor([positions]))
        pairs = len(case["inv_freq"])
        case["positions"] = positions
        case["cos"] = [numbers(row[:pairs]) for row in cos[0]]
        case["sin"] = [numbers(row[:pairs]) for row in sin[0]]
    return case


def rope_file(cases):
    entries = []
    for name, raw, lengths, sampled in cases:
        for length in lengths:
            entries.append({"name": name, "config": raw, **computed(raw, length, sampled)})
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    return {"maker": MAKER, **versions, "dtype": "float32", "cases": entries}


def alibi_file():
    cases = []
    for heads in ALIBI_HEADS:
        # Bias of the second key is slope * 1.
        bias = build_alibi_tensor(torch.ones(1, 2, dtype=torch.int64), heads, torch.float32)
        cases.append({"heads": heads, "slopes": numbers(bias.reshape(heads, 2)[:, 1])})
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    return {"maker": MAKER, **versions, "dtype": "float32", "cases": cases}


def main():
    torch.set_num_threads(1)
    made = {manifest.GOLDEN / "rope" / f"{scheme}.json": rope_file(cases) for scheme, cases in CASES.items()}
    made[manifest.GOLDEN / "alibi" / "slopes.json"] = alibi_file()
    if "--check" in sys.argv[1:]:
        # Two units in the last place of float32: vector libraries differ between processors.
        moved = [line for path, value in made.items() for line in differences(read_json(path), value, 2.4e-7, path.name)]
        print("\n".join(moved) or "unchanged")
        sys.exit(1 if moved else 0)
    for path, value in made.items():
        Path(path).parent.mkdir(exist_ok=True)
        write_json(path, value)
    manifest.record(made, MAKER, READER, tolerance="1 ulp of float32; 2 for LongRoPE frequencies and where an attention factor is multiplied in")


if __name__ == "__main__":
    main()
