"""Checks that a folder written by `bowline export` means the same to transformers as it does to Bowline.

    python scripts/verify_export.py EXPORTED_DIR --tokens ids.json --nll score.json
    python scripts/verify_export.py EXPORTED_DIR --tokens ids.json --bowline target/debug/bowline

ids.json is a JSON array of token ids; score.json is what `bowline score EXPORTED_DIR --tokens ids.json --json
score.json` wrote. With --bowline that command is run here instead. Checked: the position parameters read alike from
either spelling, the generation length, the tokenizer, the weights' names, and the NLL of every token in float32.
Prints one line a check and exits with 1 when any fails, 2 when an input cannot be read. Needs the packages of
tests/golden/requirements.txt.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

# Keys of the 4.x and of the 5.x spelling of the position parameters.
OLD_KEYS, NEW_KEYS = ("rope_scaling", "rope_theta"), ("rope_parameters",)
TEXTS = [
    "The pass key is 68493. Remember it.",
    "  two spaces, then\n\ntwo newlines\tand a tab",
    "caf\u00e9 \u2014 na\u00efve \u65e5\u672c\u8a9e \U0001f469\u200d\U0001f52c",
]


class Report:
    """Prints checks as they are made and remembers whether one failed."""

    def __init__(self):
        self.failed = False

    def check(self, good, what, detail):
        self.failed |= not good
        print(f"{'ok  ' if good else 'FAIL'} {what}: {detail}", flush=True)


def main():
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    report = Report()
    folder, tokens = arguments.folder, read_tokens(arguments.tokens)
    check_config(report, folder)
    check_generation(report, folder, arguments.max_length)
    if not arguments.no_tokenizer:
        check_tokenizer(report, folder)
    score = bowline_score(arguments, tokens)
    check_nll(report, folder, tokens, score, arguments.tolerance)
    return 1 if report.failed else 0


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder written by bowline export")
    parser.add_argument("--tokens", type=Path, required=True, help="JSON array of token ids")
    scored = parser.add_mutually_exclusive_group(required=True)
    scored.add_argument("--nll", type=Path, help="what bowline score --json wrote for these tokens")
    scored.add_argument("--bowline", type=Path, help="bowline binary, to score the tokens now")
    parser.add_argument("--tolerance", type=float, default=2e-4, help="per-token NLL in nats (default 2e-4)")
    parser.add_argument("--max-length", type=int, help="exact generation length expected; else at least the context")
    parser.add_argument("--no-tokenizer", action="store_true", help="the model was exported without one")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    arguments = parser.parse_args()
    if not (arguments.folder / "config.json").is_file():
        parser.error(f"{arguments.folder}: no config.json in it")
    return arguments


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        sys.exit(2)


def read_tokens(path):
    tokens = read_json(path)
    if not (isinstance(tokens, list) and len(tokens) >= 2 and all(type(token) is int for token in tokens)):
        print(f"{path}: expected a JSON array of at least two token ids", file=sys.stderr)
        sys.exit(2)
    return tokens


def check_config(report, folder):
    """AutoConfig must see one set of position parameters in the file, in its 4.x keys and in its 5.x keys."""
    raw = read_json(folder / "config.json")
    for name, keys in (("4.x", OLD_KEYS), ("5.x", NEW_KEYS)):
        report.check(all(key in raw for key in keys), f"config has the {name} keys", ", ".join(keys))
    seen = {
        "file": position_parameters(raw),
        "4.x keys": position_parameters({key: raw[key] for key in raw if key not in NEW_KEYS}),
        "5.x keys": position_parameters({key: raw[key] for key in raw if key not in OLD_KEYS}),
    }
    same = seen["file"] == seen["4.x keys"] == seen["5.x keys"]
    report.check(same, "position parameters agree", seen["file"] if same else seen)


def position_parameters(raw):
    """What transformers makes of a config, less the older name of the type key."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "config.json").write_text(json.dumps(raw))
        parameters = dict(AutoConfig.from_pretrained(scratch).rope_parameters)
    parameters.pop("type", None)
    return parameters


def check_generation(report, folder, expected):
    path = folder / "generation_config.json"
    if not path.is_file():
        report.check(False, "generation_config.json", "missing")
        return
    length, context = read_json(path).get("max_length"), AutoConfig.from_pretrained(folder).max_position_embeddings
    good = type(length) is int and (length == expected if expected else length >= context)
    report.check(good, "generation max_length", f"{length}, {expected or context} expected, context {context}")


def check_tokenizer(report, folder):
    """tokenizer.json must give text back, and transformers must read the same ids from the folder."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        report.check(False, "tokenizer.json", "missing")
        return
    shipped, loaded = Tokenizer.from_file(str(path)), AutoTokenizer.from_pretrained(folder)
    vocabulary = AutoConfig.from_pretrained(folder).vocab_size
    size = shipped.get_vocab_size(with_added_tokens=True)
    report.check(size <= vocabulary, "vocabulary fits", f"{size} tokens, {vocabulary} rows of weights")
    for text in TEXTS:
        ids = shipped.encode(text, add_special_tokens=False).ids
        back = shipped.decode(ids, skip_special_tokens=False)
        report.check(back == text, "tokenizer gives text back", f"{text!r}, back as {back!r}")
        other = loaded.encode(text, add_special_tokens=False)
        detail = f"{len(ids)} ids" if other == ids else f"{ids} in tokenizer.json, {other} in transformers"
        report.check(other == ids, "transformers reads the same ids", detail)


def bowline_score(arguments, tokens):
    """The JSON of bowline score, with its shape checked."""
    if arguments.nll:
        path, score = arguments.nll, read_json(arguments.nll)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "score.json"
            command = [arguments.bowline, "score", arguments.folder, "--tokens", arguments.tokens, "--json", path]
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
            if done.returncode:
                print(f"bowline score left with {done.returncode}: {done.stderr.strip()}", file=sys.stderr)
                sys.exit(2)
            score = read_json(path)
    missing = {"nll", "tokens", "mean_nll", "perplexity"} - score.keys()
    if missing or len(score["nll"]) != len(tokens) - 1:
        entries = len(score.get("nll", []))
        print(f"{path}: missing {sorted(missing)}; {entries} NLL for {len(tokens)} tokens", file=sys.stderr)
        sys.exit(2)
    return score


def check_nll(report, folder, tokens, score, tolerance):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wrong = {key: sorted(map(str, value)) for key, value in info.items() if value}
    report.check(not wrong, "weights fit the model", wrong or "no name missing, none left over")
    ours = torch.tensor([number(value) for value in score["nll"]], dtype=torch.float64)
    theirs = nll(model.eval(), tokens)
    difference = (ours - theirs).abs()
    # A NaN anywhere makes the maximum NaN, which is not within any tolerance.
    worst = int(difference.argmax())
    detail = f"largest difference {difference.max():.3e} at prediction {worst} (bowline {ours[worst]:.6f}, "
    detail += f"transformers {theirs[worst]:.6f}), tolerance {tolerance:g}, {len(ours)} predictions"
    report.check(bool(difference.max() <= tolerance), "per-token NLL", detail)
    mean = theirs.mean().item()
    our_mean, our_perplexity = number(score["mean_nll"]), number(score["perplexity"])
    good = abs(our_mean - mean) <= tolerance and abs(our_perplexity / math.exp(mean) - 1) <= 2 * tolerance
    detail = f"mean NLL {our_mean:.6f} against {mean:.6f}, "
    report.check(good, "summary", detail + f"perplexity {our_perplexity:.4f} against {math.exp(mean):.4f}")


def number(value):
    """A JSON number as float; whatever else stands in its place as NaN, which passes no comparison."""
    return float(value) if isinstance(value, (int, float)) else math.nan


def nll(model, tokens):
    """Float64 NLL of tokens[1:] from float32 logits of one causal pass, 512 positions at a time to save memory."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, :-1]
    targets, parts = torch.tensor(tokens[1:]), []
    for rows, ids in zip(logits.split(512), targets.split(512)):
        parts.append(-torch.log_softmax(rows.double(), dim=-1).gather(1, ids[:, None])[:, 0])
    return torch.cat(parts)


if __name__ == "__main__":
    sys.exit(main())
