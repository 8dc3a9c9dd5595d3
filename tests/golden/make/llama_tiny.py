"""Makes tests/golden/llama_tiny: tiny random LLaMA checkpoints, one per position scheme, with per-token NLL.

    python tests/golden/make/llama_tiny.py            write the files
    python tests/golden/make/llama_tiny.py --check    remake them in a temporary folder and compare

Each case is a folder that loads as a model: config.json, weights (links into weights/, since cases share them) and
nll.json, made by transformers in float32 in one forward pass over the whole sequence. cases.json lists them with the
measured effect of plausible mistakes; a case is refused unless every mistake that applies to it moves some token's
NLL by at least twenty times the tolerance that the reader uses. See tiny_train.py for gradients and training.
"""

import argparse
import filecmp
import math
import os
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import tiny_cases as cases
import tiny_model
import tiny_train
from golden_io import differences, read_json, write_json

FOLDER = Path(__file__).resolve().parent.parent / "llama_tiny"
TOLERANCE = 2e-4  # per-token NLL, float32 against float32
NOISE_LIMIT = TOLERANCE / 4  # what float32 itself may cost
CHECK_TOLERANCE = 2e-5  # another CPU's matrix kernels
GREEDY_PROMPT, GREEDY_NEW = 24, 12
LENGTH_DEPENDENT = ("dynamic", "longrope")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not arguments.check:
        make(FOLDER)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch))
        return compare(FOLDER, Path(scratch))


def make(folder):
    write_weights(folder / "weights")
    rows = [make_case(folder, *case) for case in cases.CASES]
    write_json(
        folder / "cases.json",
        {
            "maker": "tests/golden/make/llama_tiny.py",
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "seed": cases.SEED,
            "dtype": "float32",
            "tolerance": TOLERANCE,
            "mistakes": tiny_model.MUTATIONS | CONFIG_MISTAKES,
            "cases": rows,
            "training": [tiny_train.make(folder, name) for name in tiny_train.CASES],
        },
    )


def write_weights(folder):
    """One file per shape; the sharded shape as two files and an index, the shards split inside layer 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in cases.SHAPES.items():
        dtype = getattr(torch, shape["stored"])
        tensors = {key: torch.from_numpy(array).to(dtype) for key, array in cases.weights(name).items()}
        if name != "sharded":
            save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
            continue
        keys, files = list(tensors), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        weight_map = {key: files[index >= 6] for index, key in enumerate(keys)}
        (folder / name).mkdir(exist_ok=True)
        for file in files:
            part = {key: tensors[key] for key in keys if weight_map[key] == file}
            save_file(part, folder / name / file, metadata={"format": "pt"})
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / name / "model.safetensors.index.json", index)


def make_case(folder, name, shape_name, length, max_positions, positions, shows):
    shape = cases.SHAPES[shape_name]
    home = folder / name
    home.mkdir(exist_ok=True)
    write_json(home / "config.json", cases.config_json(shape, max_positions, positions))
    link_weights(home, shape_name)
    model = load(home)
    tokens = cases.token_ids(name, length)
    logits, hidden = forward(model, tokens)
    nll = token_nll(logits, tokens)
    scheme = model.config.rope_parameters["rope_type"]
    record = {
        "tokens": tokens,
        "nll": nll.tolist(),
        "mean_nll": nll.mean().item(),
        "perplexity": math.exp(nll.mean().item()),
        "last_logits": logits[-1].double().tolist(),
        "hidden_rms": [state.double().pow(2).mean().sqrt().item() for state in hidden],
    }
    if scheme not in LENGTH_DEPENDENT:
        record["greedy"] = greedy(model, tokens[:GREEDY_PROMPT])
    write_json(home / "nll.json", record)
    rotary = model.model.rotary_emb
    return {
        "name": name,
        "shows": shows,
        "weights": shape_name,
        "stored_dtype": shape["stored"],
        "scheme": scheme,
        "tokens": length,
        "original_context": cases.ORIGINAL_CONTEXT,
        "heads": shape["heads"],
        "kv_heads": shape["kv_heads"],
        "head_dim": model.config.head_dim,
        "tied": shape["tied"],
        "bias": shape["bias"],
        "inv_freq": rotary.inv_freq.double().tolist(),
        "attention_factor": float(rotary.attention_scaling),
        **deviations(model, home, tokens, nll),
    }


def link_weights(home, shape_name):
    source = Path("..") / "weights"
    names = {"model.safetensors": source / f"{shape_name}.safetensors"}
    if shape_name == "sharded":
        files = sorted((home.parent / "weights" / "sharded").iterdir())
        names = {file.name: source / "sharded" / file.name for file in files}
    for name, target in names.items():
        (home / name).unlink(missing_ok=True)
        os.symlink(target, home / name)


def load(home, **overrides):
    config = LlamaConfig.from_pretrained(home, **overrides)
    model, info = LlamaForCausalLM.from_pretrained(
        home, config=config, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = {key: value for key, value in info.items() if value}
    if wrong:
        raise SystemExit(f"{home.name}: loading left {wrong}")
    return model.eval()


def forward(model, tokens):
    """Logits [tokens, vocab] and hidden states (embedding, then after each layer; the last one normed)."""
    with torch.no_grad():
        output = model(input_ids=torch.tensor([tokens]), use_cache=False, output_hidden_states=True)
    return output.logits[0], [state[0] for state in output.hidden_states]


def token_nll(logits, tokens):
    """Float64 NLL of tokens[1:] from float32 logits."""
    log_probability = torch.log_softmax(logits.double(), dim=-1)
    return -log_probability[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]


def greedy(model, prompt):
    """Greedy continuation, each step a full pass; `smallest_gap` is between the two best logits of any step."""
    tokens, gaps = list(prompt), []
    for _ in range(GREEDY_NEW):
        best = forward(model, tokens)[0][-1].double().topk(2)
        gaps.append((best.values[0] - best.values[1]).item())
        tokens.append(best.indices[0].item())
    return {"prompt": len(prompt), "tokens": tokens[len(prompt) :], "smallest_gap": min(gaps)}


CONFIG_MISTAKES = {
    "base_1_percent": "base 1 % too high",
    "scheme_ignored": "no scaling, same base",
    "ramp_rounding_flipped": "yarn with truncate the other way round",
    "longrope_other_list": "short factors in place of long or the reverse",
    "llama3_as_linear": "plain linear in place of llama3",
}


def config_mistakes(config):
    """Name to the rope parameters of a plausible misreading of `config`."""
    right = dict(config.rope_parameters)
    right.pop("finetuned", None)
    theta = right["rope_theta"]
    wrong = {"base_1_percent": right | {"rope_theta": theta * 1.01}}
    kind = right["rope_type"]
    if kind != "default":
        wrong["scheme_ignored"] = {"rope_type": "default", "rope_theta": theta}
    if kind == "yarn":
        wrong["ramp_rounding_flipped"] = right | {"truncate": not right.get("truncate", True)}
    if kind == "longrope":
        swapped = {"short_factor": right["long_factor"], "long_factor": right["short_factor"]}
        wrong["longrope_other_list"] = right | swapped
    if kind == "llama3":
        wrong["llama3_as_linear"] = {"rope_type": "linear", "factor": right["factor"], "rope_theta": theta}
    return wrong


def deviations(model, home, tokens, nll):
    """Float32's own error, and the largest per-token NLL change of every mistake that applies."""
    config, rotary = model.config, model.model.rotary_emb
    factor = float(rotary.attention_scaling)
    weights = {key: tensor.double() for key, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)

    def moved(**options):
        other = tiny_model.nll(weights, config, tokens, rotary.inv_freq, factor, **options)
        return (other - nll).abs().max().item()

    noise, exact = moved(), moved(exact_angles=True)
    found = {name: moved(mutation=name) for name in tiny_model.MUTATIONS if tiny_model.applies(name, config, factor)}
    for name, parameters in config_mistakes(config).items():
        other = load(home, rope_parameters=parameters)
        found[name] = (token_nll(forward(other, tokens)[0], tokens) - nll).abs().max().item()
    # The one case that must equal no scaling cannot tell it apart, and says so by leaving it out.
    if config.rope_parameters["rope_type"] == "dynamic" and len(tokens) <= config.max_position_embeddings:
        assert found.pop("scheme_ignored") == 0.0
    unseen = {name: value for name, value in found.items() if not value >= 20 * TOLERANCE}
    if unseen or not max(noise, exact) <= NOISE_LIMIT:
        raise SystemExit(f"{home.name}: noise {noise:.2e}, exact {exact:.2e}, mistakes that hardly show: {unseen}")
    return {"float32_noise": noise, "exact_angles": exact, "deviations": found}


def compare(committed, remade):
    """Weights and configs must be equal, measured numbers near; prints what differs and returns the exit code."""
    names = sorted(str(path.relative_to(remade)) for path in remade.rglob("*") if path.is_file())
    kept = sorted(str(path.relative_to(committed)) for path in committed.rglob("*") if path.is_file())
    found = [f"only on one side: {name}" for name in sorted(set(names) ^ set(kept))]
    for name in sorted(set(names) & set(kept)):
        if name.endswith(".json"):
            found += differences(read_json(committed / name), read_json(remade / name), CHECK_TOLERANCE, name)
        elif not filecmp.cmp(committed / name, remade / name, shallow=False):
            found.append(f"{name}: bytes differ")
    print("\n".join(found[:40]) if found else f"{len(names)} files agree")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
