"""What PyTorch reaches on a GPU in the cases of `bowline bench attention` and `bowline bench train`, to run beside them.

    python scripts/bench_gpu_peers.py attention --lengths 8192,16384 --head-dims 64,128 --heads 32 --json peers.json
    python scripts/bench_gpu_peers.py train --shape llama-2-7b --context 4096 --steps 3 --json train.json

attention: cuDNN's and FlashAttention's kernels of scaled_dot_product_attention on causal bfloat16, and FlexAttention
compiled with ALiBi as its score_mod. A forward pass counts 4 operations for each visible pair and element of a head, a
backward pass 10, as Bowline counts them; times are medians of repeats after warm-ups, by CUDA events.

train: transformers' LLaMA with random bfloat16 weights, scaled_dot_product_attention, checkpoints at every layer, clipping
to 1 and torch's fused AdamW, whose state is bfloat16 then: one sequence of `context` tokens a step.

What a machine lacks (a backend that refuses, no Triton, no transformers) is a row with an error and no failure. On a CPU
(`--device cpu`) both run small sizes, for a rehearsal.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

SHAPES = {  # layers, hidden, heads, inner, vocabulary
    "llama-2-7b": (32, 4096, 32, 11008, 32000),
    "llama-2-13b": (40, 5120, 40, 13824, 32000),
    "tiny": (2, 128, 4, 352, 512),
}


def main():
    arguments = parsed()
    rows = attention(arguments) if arguments.what == "attention" else train(arguments)
    for row in rows:
        print(json.dumps(row))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("attention", "train"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--lengths", type=integers, default=[8192], help="attention: 4096,8192,..")
    parser.add_argument("--head-dims", type=integers, default=[128], help="attention: 64,128")
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--context", type=int, default=4096, help="train: tokens of the one sequence of a step")
    parser.add_argument("--steps", type=int, default=3, help="train: timed steps, after one that is not")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    return parser.parse_args()


def integers(text):
    return [int(part) for part in text.split(",")]


def timed(device, repeats, work, prepare=lambda: ()):
    """Median seconds of `work(*prepare())`, after two runs that are not timed."""
    import torch

    seconds = []
    for number in range(repeats + 2):
        given = prepare()
        if device == "cpu":
            started = time.perf_counter()
            work(*given)
            took = time.perf_counter() - started
        else:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work(*given)
            end.record()
            torch.cuda.synchronize()
            took = start.elapsed_time(end) / 1e3
        if number >= 2:
            seconds.append(took)
    return statistics.median(seconds)


def guarded(row, work):
    """The row with what `work` finds, or with why it found nothing."""
    try:
        return {**row, **work()}
    except Exception as error:  # whatever a library raises when it refuses
        return {**row, "error": f"{type(error).__name__}: {error}".splitlines()[0]}


def attention(arguments):
    rows = []
    for head_dim in arguments.head_dims:
        for length in arguments.lengths:
            for backend, case, forward in contenders(arguments, length):
                rows += both_passes(arguments, backend, case, forward, length, head_dim)
    return rows


def contenders(arguments, length):
    """Name, case and forward pass of each."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    def sdpa(backend):
        def forward(q, k, v):
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, k, v, is_causal=True)

        return forward

    names = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
    found = [(name, "causal", sdpa(backend)) for name, backend in names.items()]
    return [*found, ("flex", "alibi", flex(arguments, length))]


def flex(arguments, length):
    """FlexAttention compiled, ALiBi over a causal mask; made when it is first called, so that a refusal is its row's."""
    made = []

    def forward(q, k, v):
        import torch
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        if not made:
            slopes = torch.exp2(-8 * torch.arange(1, arguments.heads + 1, device=q.device) / arguments.heads)

            def score(score, _batch, head, query, key):
                return score - slopes[head] * (query - key)

            def mask(_batch, _head, query, key):
                return query >= key

            blocks = create_block_mask(mask, None, None, length, length, device=q.device)
            made.append((torch.compile(flex_attention, dynamic=False), score, blocks))
        run, score, blocks = made[0]
        return run(q, k, v, score_mod=score, block_mask=blocks)

    return forward


def both_passes(arguments, backend, case, forward, length, head_dim):
    import torch

    dims = (1, arguments.heads, length, head_dim)
    made = dict(device=arguments.device, dtype=torch.bfloat16)
    q, k, v = (torch.randn(dims, **made).requires_grad_() for _ in range(3))
    gradient = torch.randn(dims, **made)
    pairs = arguments.heads * head_dim * length * (length + 1) / 2
    row = dict(backend=backend, case=case, length=length, head_dim=head_dim, heads=arguments.heads)

    def found(seconds, operations):
        return dict(milliseconds=1e3 * seconds, tflops=operations * pairs / seconds / 1e12)

    def onward():
        with torch.no_grad():
            return found(timed(arguments.device, arguments.repeats, forward, lambda: (q, k, v)), 4)

    def back():
        work = lambda output: torch.autograd.grad(output, (q, k, v), gradient)  # noqa: E731
        return found(timed(arguments.device, arguments.repeats, work, lambda: (forward(q, k, v),)), 10)

    return [guarded({**row, "pass": "forward"}, onward), guarded({**row, "pass": "backward"}, back)]


def train(arguments):
    row = dict(case="train", peer="transformers", model=arguments.shape, batch=1, length=arguments.context)
    return [guarded(row, lambda: steps(arguments))]


def steps(arguments):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, hidden, heads, inner, vocabulary = SHAPES[arguments.shape]
    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=inner,
        vocab_size=vocabulary,
        max_position_embeddings=arguments.context,
        attn_implementation="sdpa",
        use_cache=False,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(arguments.device):
        model = LlamaForCausalLM(config)
    model.gradient_checkpointing_enable()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-12, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens = torch.randint(vocabulary, (1, arguments.context), device=arguments.device)

    def step():
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    seconds = timed(arguments.device, arguments.steps, step)
    found = dict(tokens_per_second=arguments.context / seconds, step_seconds=seconds)
    if arguments.device != "cpu":
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
    return found


if __name__ == "__main__":
    sys.exit(main())
