"""Scoring and training speed of transformers beside Bowline, on one machine in one run.

    python scripts/bench_transformers.py MODEL --bowline target/debug/bowline --threads 2 --json bench.json

Scoring: one causal float32 forward pass over `length` tokens with the NLL of every predicted token. Training: one
optimizer step (forward, mean NLL, backward, clipping to 1, AdamW on every parameter) on a batch of `batch` sequences
of `length` tokens. Tokens per second count the input tokens, batch x length, divided by the median time of the
repeats after a warm-up. The two programs take turns case by case and round by round, so that a machine that grows
slower or hotter slows both; the figure of each is its median over rounds.

Bowline is run through commands that print JSON with a list `rows`, each with case (score or train), length, batch and
tokens_per_second:

    bowline bench score MODEL --lengths 256,1024 --json
    bowline bench train MODEL --batch B --length N --steps K --json

`threads` is given to PyTorch here and to Bowline through OMP_NUM_THREADS and RAYON_NUM_THREADS. Without --bowline only
transformers is measured. Needs the packages of tests/golden/requirements.txt.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

SEED = 1234
LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP = 1e-4, (0.9, 0.95), 0.1, 1.0


def main():
    arguments = parsed()
    # Thread counts are read when the libraries load, so they are set before torch is imported.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(arguments.threads)
    peer = Transformers(arguments)
    contestants = {"transformers": peer}
    if arguments.bowline:
        contestants["bowline"] = Bowline(arguments)
    cases = [("score", 1, length) for length in arguments.lengths]
    cases += [("train", arguments.batch, arguments.train_length)] if arguments.steps else []
    rows = [row for case in cases for row in measured(contestants, case, arguments.rounds)]
    result = {"provenance": provenance(arguments, peer), "rows": rows, "ratios": ratios(rows)}
    print_table(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder with config.json and safetensors weights")
    parser.add_argument("--bowline", type=Path, help="bowline binary to run in turn")
    parser.add_argument("--lengths", type=lengths, default=[256, 512, 1024, 2048, 4096], help="scoring, 256,512,..")
    parser.add_argument("--batch", type=positive, default=4, help="training: sequences in a step (default 4)")
    parser.add_argument("--train-length", type=positive, default=1024, help="training: tokens in a sequence")
    parser.add_argument("--steps", type=int, default=3, help="training: timed steps a round; 0 leaves training out")
    parser.add_argument("--repeats", type=positive, default=3, help="scoring: timed passes a round (default 3)")
    parser.add_argument("--rounds", type=positive, default=3, help="turns of each program in every case (default 3)")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="CPU threads (default: all)")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa", help="of transformers (default sdpa)")
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    if not (arguments.model / "config.json").is_file():
        parser.error(f"{arguments.model}: no config.json in it")
    return arguments


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def lengths(text):
    values = [positive(part) for part in text.split(",")]
    if min(values) < 2:
        raise argparse.ArgumentTypeError("a length of 1 predicts nothing")
    return values


class Transformers:
    """The model in transformers, with the same seconds-per-pass interface as Bowline below."""

    def __init__(self, arguments):
        import torch
        import transformers

        self.torch, self.transformers, self.arguments = torch, transformers, arguments
        torch.set_num_threads(arguments.threads)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()

    def load(self):
        return self.transformers.AutoModelForCausalLM.from_pretrained(
            self.arguments.model, dtype=self.torch.float32, attn_implementation=self.arguments.attention
        )

    def tokens_per_second(self, case, batch, length):
        generator = self.torch.Generator().manual_seed(SEED)
        model = self.load()
        ids = self.torch.randint(0, model.config.vocab_size, (batch, length), generator=generator)
        work = self.scoring(model, ids) if case == "score" else self.training(model, ids)
        work()
        count = self.arguments.repeats if case == "score" else self.arguments.steps
        return batch * length / statistics.median(timed(work) for _ in range(count))

    def scoring(self, model, ids):
        model.eval()

        def work():
            with self.torch.inference_mode():
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
                return self.torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")

        return work

    def training(self, model, ids):
        model.train()
        optimizer = self.torch.optim.AdamW(
            model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
        )

        def work():
            optimizer.zero_grad()
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            self.torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
            self.torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()

        return work


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Bowline:
    """The bowline binary, asked through its bench commands."""

    def __init__(self, arguments):
        self.arguments = arguments

    def tokens_per_second(self, case, batch, length):
        command = [self.arguments.bowline, "bench", case, self.arguments.model]
        if case == "score":
            command += ["--lengths", length]
        else:
            command += ["--batch", batch, "--length", length, "--steps", self.arguments.steps]
        answer = run_json([str(part) for part in [*command, "--json"]])
        rows = answer["rows"] if isinstance(answer, dict) else answer
        for row in rows:
            if (row.get("case"), row.get("length"), row.get("batch", 1)) == (case, length, batch):
                return float(row["tokens_per_second"])
        raise SystemExit(f"{' '.join(map(str, command))}: no row for case {case}, length {length}, batch {batch}")


def run_json(command):
    """Standard output of a command as JSON; its standard error is shown only when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise SystemExit(f"{command[0]}: {error}") from error
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} left with {done.returncode}: {done.stderr.strip()}")
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise SystemExit(f"{' '.join(command)} printed no JSON ({error}): {done.stdout[:200]!r}") from error


def measured(contestants, case, rounds):
    """One row a program, the programs taking turns and each round beginning with another one."""
    figures, names = {name: [] for name in contestants}, list(contestants)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            print(f"{case[0]} batch {case[1]} length {case[2]}: {name}, round {turn + 1}", file=sys.stderr, flush=True)
            figures[name].append(contestants[name].tokens_per_second(*case))
    return [
        {
            "program": name,
            "case": case[0],
            "batch": case[1],
            "length": case[2],
            "tokens_per_second": statistics.median(values),
            "rounds": values,
        }
        for name, values in figures.items()
    ]


def ratios(rows):
    """Bowline's tokens per second over those of transformers, where both were measured."""
    found, by_case = [], {}
    for row in rows:
        by_case.setdefault((row["case"], row["batch"], row["length"]), {})[row["program"]] = row["tokens_per_second"]
    for (case, batch, length), figures in by_case.items():
        if "bowline" in figures:
            ratio = figures["bowline"] / figures["transformers"]
            found.append({"case": case, "batch": batch, "length": length, "bowline_over_transformers": ratio})
    return found


def provenance(arguments, peer):
    config = json.loads((arguments.model / "config.json").read_text())
    weights = sum(p.numel() for p in peer.load().parameters())
    shape = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
    return {
        "script": "scripts/bench_transformers.py",
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "threads": arguments.threads,
        "python": platform.python_version(),
        "torch": peer.torch.__version__,
        "transformers": peer.transformers.__version__,
        "attention": arguments.attention,
        "dtype": "float32",
        "model": {"name": arguments.model.resolve().name, "parameters": weights, **{k: config.get(k) for k in shape}},
        "repeats": arguments.repeats,
        "steps": arguments.steps,
        "rounds": arguments.rounds,
    }


def cpu_name():
    """Model name of the processor, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def print_table(result):
    facts = result["provenance"]
    print(f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, transformers {facts['transformers']}, "
          f"{facts['model']['name']} with {facts['model']['parameters']:,} parameters, float32")
    print(f"{'case':6} {'batch':>5} {'length':>6} {'program':12} {'tokens/s':>10}   rounds")
    for row in result["rows"]:
        rounds = " ".join(f"{value:.0f}" for value in row["rounds"])
        print(f"{row['case']:6} {row['batch']:5} {row['length']:6} {row['program']:12} "
              f"{row['tokens_per_second']:10.0f}   {rounds}")
    for row in result["ratios"]:
        print(f"{row['case']:6} {row['batch']:5} {row['length']:6} bowline / transformers = "
              f"{row['bowline_over_transformers']:.2f}")


if __name__ == "__main__":
    sys.exit(main())
