"""Makes tests/golden/gguf, and the seed of the fuzz target from it.

    python tests/golden/make/gguf_files.py            write the files
    python tests/golden/make/gguf_files.py --check    remake them in a temporary folder and compare

blocks.gguf holds two blocks or more of random bytes of each quantised type, with finite scales, and beside each tensor X
what gguf-py makes of it, as F32 under X.expected. tiny.gguf is a random LLaMA whose tensors have many types, quantised by
gguf-py, and tiny.json what transformers, which reads that file itself, computes from it.
"""

import argparse
import filecmp
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from golden_io import differences, read_json, write_json
from manifest import record

FOLDER = Path(__file__).resolve().parent.parent / "gguf"
SEED = 11
CHECK_TOLERANCE = 2e-5  # another CPU's matrix kernels
# Where the half-precision scales of a block lie; its other bytes may be anything.
SCALES = {
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q8_0: [0],
    Type.Q2_K: [80, 82],
    Type.Q3_K: [108],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
}
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 20000.0,
    "tie_word_embeddings": True,
}
PARTS = {
    "attn_norm": ("input_layernorm", Type.F32),
    "attn_q": ("self_attn.q_proj", Type.Q4_1),
    "attn_k": ("self_attn.k_proj", Type.Q4_0),
    "attn_v": ("self_attn.v_proj", Type.F16),
    "attn_output": ("self_attn.o_proj", Type.Q5_0),
    "ffn_norm": ("post_attention_layernorm", Type.F32),
    "ffn_gate": ("mlp.gate_proj", Type.Q5_1),
    "ffn_up": ("mlp.up_proj", Type.BF16),
    "ffn_down": ("mlp.down_proj", Type.Q8_0),
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ 1", "1 2", "t h", "th e", "Ġ the"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not arguments.check:
        make(FOLDER)
        enter()
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch))
        return compare(FOLDER, Path(scratch))


def make(folder):
    folder.mkdir(parents=True, exist_ok=True)
    write_blocks(folder / "blocks.gguf")
    write_tiny(folder / "tiny.gguf")
    write_json(folder / "tiny.json", scored(folder))


def enter():
    packages = ("gguf", "numpy")
    exact = {"maker": "tests/golden/make/gguf_files.py", "reader": "tests/gguf.rs", "seed": SEED}
    record([FOLDER / "blocks.gguf"], packages=packages, tolerance="exact", **exact)
    record([FOLDER / "tiny.gguf"], packages=("gguf", "torch"), dtype="many", tolerance="exact", **exact)
    record([FOLDER / "tiny.json"], tolerance="2e-4 nats a token", **exact)


def compare(committed, made):
    found = []
    for name in ("blocks.gguf", "tiny.gguf"):
        if not filecmp.cmp(committed / name, made / name, shallow=False):
            found.append(f"{name} differs")
    found += differences(read_json(committed / "tiny.json"), read_json(made / "tiny.json"), CHECK_TOLERANCE, "tiny.json")
    print("\n".join(found) or "gguf: all as committed")
    return 1 if found else 0


def write_blocks(path):
    random = np.random.default_rng(SEED)
    writer = gguf.GGUFWriter(path, "none")
    for kind, places in SCALES.items():
        weights, size = gguf.GGML_QUANT_SIZES[kind]
        data = random.integers(0, 256, (2, 512 // weights, size), dtype=np.uint8)
        for place in places:
            scale = random.normal(0, 0.1, data.shape[:2]).astype(np.float16)
            data[:, :, place : place + 2] = scale[..., None].view(np.uint8)
        data = data.reshape(2, -1)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        writer.add_tensor(f"{kind.name}.expected", gguf.quants.dequantize(data, kind).astype(np.float32))
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def byte_letters():
    """The letters that stand for the 256 bytes in byte-level vocabularies."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def write_tiny(path):
    torch.manual_seed(SEED)
    tokens = SPECIAL + byte_letters() + [merge.replace(" ", "") for merge in MERGES]
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokens), **SHAPE)).eval()
    for parameter in model.parameters():
        scale = 0.3 if parameter.dim() > 1 else 0.1
        parameter.data = torch.randn_like(parameter) * scale + (parameter.dim() == 1)
    writer = gguf.GGUFWriter(path, "llama")
    write_metadata(writer, tokens)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    put(writer, "token_embd.weight", weights["model.embed_tokens.weight"], Type.Q8_0)
    put(writer, "output_norm.weight", weights["model.norm.weight"], Type.F32)
    heads = {"attn_q": SHAPE["num_attention_heads"], "attn_k": SHAPE["num_key_value_heads"]}
    for layer in range(SHAPE["num_hidden_layers"]):
        for part, (name, kind) in PARTS.items():
            value = weights[f"model.layers.{layer}.{name}.weight"]
            value = neighbours(value, heads[part]) if part in heads else value
            put(writer, f"blk.{layer}.{part}.weight", value, kind)
    finish(writer)


def neighbours(value, heads):
    """Rows of each head from pairs (i, i + d/2) to pairs (2i, 2i+1)."""
    rows, columns = value.shape
    return value.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def put(writer, name, value, kind):
    data = np.ascontiguousarray(value, dtype=np.float32)
    if kind != Type.F32:
        writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, data)


def write_metadata(writer, tokens):
    writer.add_context_length(SHAPE["max_position_embeddings"])
    writer.add_embedding_length(SHAPE["hidden_size"])
    writer.add_feed_forward_length(SHAPE["intermediate_size"])
    writer.add_block_count(SHAPE["num_hidden_layers"])
    writer.add_head_count(SHAPE["num_attention_heads"])
    writer.add_head_count_kv(SHAPE["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(SHAPE["rms_norm_eps"])
    writer.add_rope_freq_base(SHAPE["rope_theta"])
    writer.add_rope_dimension_count(SHAPE["hidden_size"] // SHAPE["num_attention_heads"])
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def scored(folder):
    """What transformers makes of tiny.gguf: nats of every token but the first of a random sequence."""
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf", dtype=torch.float32).eval()
    tokens = np.random.default_rng(SEED).integers(0, model.config.vocab_size, 96).tolist()
    with torch.no_grad():
        log_probs = torch.log_softmax(model(torch.tensor([tokens])).logits[0].double(), -1)
    nll = [-log_probs[at, target].item() for at, target in enumerate(tokens[1:])]
    return {
        "maker": "tests/golden/make/gguf_files.py",
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "tokens": tokens,
        "nll": nll,
    }


if __name__ == "__main__":
    sys.exit(main())
