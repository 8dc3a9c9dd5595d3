"""Makes tests/golden/btlm_tiny: tiny random checkpoints of the BTLM family with per-token NLL.

    python tests/golden/make/btlm.py            write the files
    python tests/golden/make/btlm.py --check    remake them in a temporary folder and compare

The family is not in transformers, so the numbers come from the forward pass below: numpy in float64, straight loops over heads,
written from the model card and the papers (Dey et al. 2023, BTLM-3B-8K; Yang et al. 2022, muP, table 8; Press et al. 2022, ALiBi;
Al-Khateeb et al. 2023, position interpolation for ALiBi). It can be told to be wrong in one named way; a case is refused unless
every mistake that applies to it moves some token's NLL by at least twenty times the tolerance that the reader uses.

Checkpoints have the names and layouts of the published ones: GPT-2's, linear weights `[in, out]`, query, key and value in one
matrix, and a second matrix `c_fc2` that gates `c_fc`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from golden_io import differences, read_json, write_json
from manifest import record

FOLDER = Path(__file__).resolve().parent.parent / "btlm_tiny"
SEED = 20230710
VOCAB, HIDDEN, INNER, LAYERS, CONTEXT = 96, 48, 68, 2, 64
TOLERANCE = 2e-4  # per-token NLL, the reader's float32 against float64
CHECK_TOLERANCE = 1e-9

# name, heads, tokens, n_positions, alibi_scaling, what it shows
CASES = [
    ("plain", 4, 96, 64, None, "slopes of four heads, read past the trained context unscaled"),
    ("fixed-odd", 6, 96, 128, {"type": "linear", "factor": 2.0}, "six heads: slopes of four, then every other of eight; halved"),
    ("dynamic", 4, 160, 64, {"type": "linear", "train_seq_len": 64}, "slopes divided by 160 / 64 at this length"),
]
MUP = {
    "mup_width_scale": 0.25,
    "mup_embeddings_scale": 9.5,
    "mup_output_alpha": 2.25,
    "mup_scale_qk_dot_by_d": True,
}
MISTAKES = {
    "root_of_d": "scores divided by sqrt(d), not d",
    "embeddings_unscaled": "embeddings not multiplied",
    "alpha_alone": "logits multiplied by alpha, not alpha * width",
    "gate_and_up_swapped": "silu on c_fc, not on c_fc2",
    "rms_norm": "mean not subtracted in the norms",
    "biases_ignored": "norms and linear maps without their biases",
    "slopes_ignored": "no bias on the scores",
    "slopes_unscaled": "slopes not divided by the scaling",
    "closed_form_slopes": "2^(-8 (h + 1) / heads) for every count of heads",
    "not_transposed": "square linear weights read as [out, in]",
}


def applies(mistake, heads, scaling):
    return {
        "slopes_unscaled": scaling is not None,
        "closed_form_slopes": heads & (heads - 1) != 0,
    }.get(mistake, True)


def weights(heads):
    """Tensors by their published names, float32. Spread so that scores and logits are far from flat."""
    generator = np.random.default_rng([SEED, heads])
    tensors = {}

    def add(name, shape, deviation, mean=0.0):
        tensors[name] = (mean + deviation * generator.standard_normal(shape)).astype(np.float32)

    add("transformer.wte.weight", (VOCAB, HIDDEN), 0.11)
    for layer in range(LAYERS):
        home = f"transformer.h.{layer}."
        for norm in ("ln_1", "ln_2"):
            add(f"{home}{norm}.weight", (HIDDEN,), 0.3, 1.0)
            add(f"{home}{norm}.bias", (HIDDEN,), 0.3)
        for name, into, out, deviation in [
            ("attn.c_attn", HIDDEN, 3 * HIDDEN, 0.35),
            ("attn.c_proj", HIDDEN, HIDDEN, 0.15),
            ("mlp.c_fc", HIDDEN, INNER, 0.15),
            ("mlp.c_fc2", HIDDEN, INNER, 0.15),
            ("mlp.c_proj", INNER, HIDDEN, 0.15),
        ]:
            add(f"{home}{name}.weight", (into, out), deviation)
            add(f"{home}{name}.bias", (out,), 0.2)
    add("transformer.ln_f.weight", (HIDDEN,), 0.3, 1.0)
    add("transformer.ln_f.bias", (HIDDEN,), 0.3)
    return tensors


def slopes(heads, mistake):
    def geometric(count):
        return [2.0 ** (-8.0 * (h + 1) / count) for h in range(count)]

    if mistake == "slopes_ignored":
        return [0.0] * heads
    if mistake == "closed_form_slopes":
        return geometric(heads)
    below = 1 << (heads.bit_length() - 1)
    return geometric(below) + geometric(2 * below)[0::2][: heads - below]


def divisor(scaling, length, mistake):
    if scaling is None or mistake == "slopes_unscaled":
        return 1.0
    return scaling.get("factor") or max(1.0, length / scaling["train_seq_len"])


def norm(x, tensors, name, mistake):
    centred = x if mistake == "rms_norm" else x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    bias = 0.0 if mistake == "biases_ignored" else tensors[f"{name}.bias"]
    return normed * tensors[f"{name}.weight"] + bias


def linear(x, tensors, name, mistake):
    weight = tensors[f"{name}.weight"]
    if mistake == "not_transposed" and weight.shape[0] == weight.shape[1]:
        weight = weight.T
    return x @ weight + (0.0 if mistake == "biases_ignored" else tensors[f"{name}.bias"])


def silu(x):
    return x / (1.0 + np.exp(-x))


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def attention(x, tensors, name, heads, scaling, mistake):
    length, size = x.shape[0], HIDDEN // heads
    query, key, value = np.split(linear(x, tensors, f"{name}.c_attn", mistake), 3, axis=-1)
    place = np.arange(length)
    distance = place[:, None] - place[None, :]  # [query, key]
    scale = size ** (0.5 if mistake == "root_of_d" else 1.0)
    outputs = []
    for head, slope in enumerate(slopes(heads, mistake)):
        own = slice(head * size, (head + 1) * size)
        scores = query[:, own] @ key[:, own].T / scale
        scores = scores - slope / divisor(scaling, length, mistake) * distance
        outputs.append(softmax(np.where(distance >= 0, scores, -np.inf)) @ value[:, own])
    return linear(np.concatenate(outputs, axis=-1), tensors, f"{name}.c_proj", mistake)


def logits(tensors, tokens, heads, scaling, mistake=None):
    """[tokens, vocab] in float64."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    x = tensors["transformer.wte.weight"][tokens]
    x = x * (1.0 if mistake == "embeddings_unscaled" else MUP["mup_embeddings_scale"])
    for layer in range(LAYERS):
        home = f"transformer.h.{layer}"
        normed = norm(x, tensors, f"{home}.ln_1", mistake)
        x = x + attention(normed, tensors, f"{home}.attn", heads, scaling, mistake)
        normed = norm(x, tensors, f"{home}.ln_2", mistake)
        up, gate = (linear(normed, tensors, f"{home}.mlp.{name}", mistake) for name in ("c_fc", "c_fc2"))
        if mistake == "gate_and_up_swapped":
            up, gate = gate, up
        x = x + linear(up * silu(gate), tensors, f"{home}.mlp.c_proj", mistake)
    x = norm(x, tensors, "transformer.ln_f", mistake)
    width = 1.0 if mistake == "alpha_alone" else MUP["mup_width_scale"]
    return x @ tensors["transformer.wte.weight"].T * (MUP["mup_output_alpha"] * width)


def token_nll(rows, tokens):
    """NLL of tokens[1:] in nats."""
    rows = rows[:-1] - rows[:-1].max(-1, keepdims=True)
    log_sum = np.log(np.exp(rows).sum(-1))
    return log_sum - rows[np.arange(len(tokens) - 1), tokens[1:]]


def config(heads, positions, scaling):
    return {
        "architectures": ["BTLMLMHeadModel"],
        "model_type": "btlm",
        "activation_function": "swiglu",
        "vocab_size": VOCAB,
        "n_embd": HIDDEN,
        "n_inner": INNER,
        "n_layer": LAYERS,
        "n_head": heads,
        "n_positions": positions,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.073,
        "position_embedding_type": "alibi",
        "alibi_scaling": scaling,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        **MUP,
    }


def make(folder):
    rows = []
    for name, heads, length, positions, scaling, shows in CASES:
        home = folder / name
        home.mkdir(parents=True, exist_ok=True)
        tensors = weights(heads)
        first = next(case for case in CASES if case[1] == heads)[0]
        file = home / "model.safetensors"
        file.unlink(missing_ok=True)
        if name == first:
            save_file(tensors, file, metadata={"format": "pt"})
        else:
            file.symlink_to(Path("..") / first / file.name)
        write_json(home / "config.json", config(heads, positions, scaling))
        tokens = np.random.default_rng([SEED, length, heads]).integers(1, VOCAB, length).tolist()
        right = logits(tensors, tokens, heads, scaling)
        nll = token_nll(right, tokens)
        write_json(home / "nll.json", {"tokens": tokens, "nll": nll.tolist(), "last_logits": right[-1].tolist()})
        moved = {}
        for mistake in MISTAKES:
            if applies(mistake, heads, scaling):
                wrong = token_nll(logits(tensors, tokens, heads, scaling, mistake), tokens)
                moved[mistake] = float(np.abs(wrong - nll).max())
                if moved[mistake] < 20 * TOLERANCE:
                    raise SystemExit(f"{name}: {mistake} moves no token by more than {moved[mistake]}")
        rows.append({"name": name, "shows": shows, "heads": heads, "tokens": length, "mistakes": moved})
    write_json(
        folder / "cases.json",
        {"maker": "tests/golden/make/btlm.py", "seed": SEED, "tolerance": TOLERANCE, "mistakes": MISTAKES, "cases": rows},
    )


def compare(folder, fresh):
    problems = []
    for path in sorted(p for p in fresh.rglob("*") if p.is_file()):
        kept = folder / path.relative_to(fresh)
        if not kept.exists():
            problems.append(f"{kept} is missing")
        elif path.suffix == ".json":
            problems += [f"{kept.name}: {line}" for line in differences(read_json(kept), read_json(path), CHECK_TOLERANCE)]
        elif kept.read_bytes() != path.read_bytes():
            problems.append(f"{kept} differs")
    print("\n".join(problems) or "btlm_tiny: as made")
    return 1 if problems else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    if parser.parse_args().check:
        with tempfile.TemporaryDirectory() as scratch:
            make(Path(scratch))
            return compare(FOLDER, Path(scratch))
    make(FOLDER)
    files = sorted(path for path in FOLDER.rglob("*") if path.is_file() and not path.is_symlink())
    record(
        files, "tests/golden/make/btlm.py", "tests/btlm.rs", packages=("numpy", "safetensors"), seed=SEED, dtype="float64",
        tolerance="2e-4 nats a token",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
