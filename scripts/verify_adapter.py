"""Checks that a checkpoint with an adapter means the same to PEFT as it does to Bowline.

    python scripts/verify_adapter.py CHECKPOINT BASE --tokens ids.json --bowline target/debug/bowline

CHECKPOINT is a folder such as RUN/checkpoints/step-100 of a run with `[adapter]` and a base in full, BASE the folder of its base
model as transformers loads it, ids.json a JSON array of token ids. The base is loaded by transformers under the checkpoint's
config, the adapter by PEFT, and the NLL of every token compared with that of `bowline score` in float32. Prints one line and
exits with 1 where they differ. Needs the packages of tests/golden/requirements.txt.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from verify_export import Report, nll, number, read_json, read_tokens


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--tokens", type=Path, required=True, help="JSON array of token ids")
    parser.add_argument("--bowline", type=Path, required=True, help="bowline binary")
    parser.add_argument("--tolerance", type=float, default=2e-4, help="per-token NLL in nats (default 2e-4)")
    return parser.parse_args()


def main():
    arguments = parsed()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokens = read_tokens(arguments.tokens)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "score.json"
        command = [arguments.bowline, "score", arguments.checkpoint, "--tokens", arguments.tokens, "--json", path]
        subprocess.run([str(part) for part in [*command, "--device", "cpu"]], check=True, stdout=subprocess.DEVNULL)
        ours = torch.tensor([number(value) for value in read_json(path)["nll"]], dtype=torch.float64)
    config = AutoConfig.from_pretrained(arguments.checkpoint / "config.json")
    base = AutoModelForCausalLM.from_pretrained(arguments.base, config=config, dtype=torch.float32).eval()
    plain = nll(base, tokens)
    adapted = PeftModel.from_pretrained(base, str(arguments.checkpoint)).eval()
    theirs = nll(adapted, tokens)
    report, worst = Report(), (ours - theirs).abs().max()
    detail = f"largest difference {worst:.3e}, tolerance {arguments.tolerance:g}, {len(ours)} predictions; "
    detail += f"the base alone is {(ours - plain).abs().max():.3e} away"
    report.check(bool(worst <= arguments.tolerance), "per-token NLL by PEFT", detail)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
