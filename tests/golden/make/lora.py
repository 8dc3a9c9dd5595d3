"""Adapters written by PEFT for two of the tiny checkpoints, and the NLL under them by PEFT's own forward pass.

    python tests/golden/make/lora.py          writes tests/golden/lora
    python tests/golden/make/lora.py --check  compares instead; says what differs and exits 1

A and B are random (PEFT would start B at zero, which would show nothing); so are the embedding and the norms of the case
that trains them.
"""

import sys
import tempfile
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import manifest
from golden_io import differences, read_json, write_json

MAKER = "tests/golden/make/lora.py"
READER = "tests/adapters.rs"
GOLDEN = Path(__file__).resolve().parent.parent
FOLDER = GOLDEN / "lora"
SEED = 20240229
NORMS = ["input_layernorm", "post_attention_layernorm", "norm"]
# name, base among llama_tiny, targets, whole modules
CASES = [
    ("attention", "abf-gqa", ["q_proj", "k_proj", "v_proj", "o_proj"], None),
    ("plus", "default-mha", ["q_proj", "v_proj", "down_proj", "gate_proj"], ["embed_tokens", "lm_head", *NORMS]),
]


def make_case(folder, name, base, targets, whole):
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / "llama_tiny" / base, dtype=torch.float32)
    config = LoraConfig(r=3, lora_alpha=7, lora_dropout=0.1, target_modules=targets, modules_to_save=whole, bias="none")
    model = get_peft_model(model, config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key or "modules_to_save" in key:
                parameter.add_(0.1 * torch.randn_like(parameter))
    record = read_json(GOLDEN / "llama_tiny" / base / "nll.json")
    tokens = torch.tensor([record["tokens"]])
    with torch.no_grad():
        logits = model(tokens).logits[0, :-1].double()
    nll = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
    model.save_pretrained(folder / name)
    (folder / name / "README.md").unlink()
    config = read_json(folder / name / "adapter_config.json")
    config["base_model_name_or_path"] = base
    for key in ("target_modules", "modules_to_save"):
        config[key] = sorted(config[key]) if config[key] else config[key]
    write_json(folder / name / "adapter_config.json", config)
    write_json(folder / name / "nll.json", {"base": base, "tokens": record["tokens"], "nll": nll.tolist()})
    return [folder / name / file for file in ("adapter_config.json", "adapter_model.safetensors", "nll.json")]


def compare(expected, actual):
    found = []
    for name, *_ in CASES:
        one, other = expected / name, actual / name
        for file in ("adapter_config.json", "nll.json"):
            found += differences(read_json(one / file), read_json(other / file), 2e-5, f"{name}/{file}")
        tensors = [load_file(place / "adapter_model.safetensors") for place in (one, other)]
        same = tensors[0].keys() == tensors[1].keys()
        if not same or any(not torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0]):
            found.append(f"{name}: other tensors")
    return found


def main():
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if "--check" in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as scratch:
            for case in CASES:
                make_case(Path(scratch), *case)
            found = compare(FOLDER, Path(scratch))
        print("\n".join(found[:20]) or "lora: the same")
        return 1 if found else 0
    files = [file for case in CASES for file in make_case(FOLDER, *case)]
    packages = ("torch", "transformers", "peft")
    manifest.record(files, MAKER, READER, packages=packages, seed=SEED, tolerance="2e-4 of a token's NLL")
    return 0


if __name__ == "__main__":
    sys.exit(main())
