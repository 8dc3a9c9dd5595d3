"""Gradients and a ten-step AdamW trace of two tiny checkpoints, float32 on one CPU thread.

Loss: mean NLL over every predicted token of the batch. Step: gradients clipped by their global L2 norm to CLIP
(scaled by CLIP / (norm + 1e-6) when that is below one), then AdamW with decoupled weight decay on every parameter,
norms and biases too, and a constant learning rate.
"""

import numpy as np
import torch
from transformers import LlamaForCausalLM

import tiny_cases as cases
from golden_io import write_json

CASES = ["yarn-gqa", "yarn-odd-mqa"]
BATCH, LENGTH, STEPS = 2, 97, 10
LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0
SAMPLES = 16
TOLERANCE = 5e-5  # on each loss of the trace
# Each departure from the recipe must move some loss of the trace by at least four times the tolerance. Another clip
# norm is not among them: Adam does not see the scale of gradients, so only `grad_norm` and a unit test can.
DEPARTURES = {
    "no_clipping": dict(clip=1e9),
    "clip_each_parameter": dict(clip_each=True),
    "no_weight_decay": dict(weight_decay=0.0),
    "decay_on_matrices_only": dict(matrices_only=True),
    "decay_in_gradient": dict(coupled=True),
    "beta2_999": dict(betas=(0.9, 0.999)),
    "epsilon_1e-6": dict(epsilon=1e-6),
}


def make(folder, name):
    """Writes train.json into the case's folder and returns its row for cases.json."""
    home = folder / name
    batches = token_batches(name)
    model = load(home, torch.float32)
    loss = mean_nll(model, batches[0])
    loss.backward()
    trace = train(load(home, torch.float32), batches)
    noise = largest(trace["loss"], train(load(home, torch.float64), batches)["loss"])
    gradient_noise = gradient_error(model, home, batches[0])
    moved = {key: largest(trace["loss"], train(load(home, torch.float32), batches, **options)["loss"])
             for key, options in DEPARTURES.items()}
    if not min(trace["grad_norm"]) > CLIP:
        raise SystemExit(f"{name}: clipping is not active in every step: {trace['grad_norm']}")
    if not (min(moved.values()) >= 4 * TOLERANCE and noise <= TOLERANCE / 4):
        raise SystemExit(f"{name}: noise {noise:.2e}, departures {moved}")
    write_json(
        home / "train.json",
        {
            "loss": loss.item(),
            "loss_of": "mean NLL of all predicted tokens of batches[0]",
            "gradients": [gradient_row(*item) for item in model.named_parameters()],
            "adamw": {
                "learning_rate": LEARNING_RATE,
                "betas": list(BETAS),
                "epsilon": EPSILON,
                "weight_decay": WEIGHT_DECAY,
                "weight_decay_on": "every parameter, decoupled: p -= learning_rate * weight_decay * p",
                "clip_norm": CLIP,
                "clip_rule": "gradients *= min(1, clip_norm / (norm + 1e-6)), norm over all parameters",
                "loss": trace["loss"],
                "loss_at": "before the step of the same index, on batches[index]",
                "grad_norm": trace["grad_norm"],
                "parameter_norms": trace["parameter_norms"],
            },
            "batches": batches,
        },
    )
    return {
        "name": name,
        "file": f"{name}/train.json",
        "tolerance": TOLERANCE,
        "float32_noise": noise,
        "gradient_noise": gradient_noise,
        "deviations": moved,
    }


def load(home, dtype):
    return LlamaForCausalLM.from_pretrained(home, dtype=dtype, attn_implementation="eager").train()


def token_batches(name):
    """STEPS batches [BATCH, LENGTH] of a noisy counting text, so that ten steps have something to learn."""
    rng = np.random.default_rng([cases.SEED, 11, *name.encode()])
    start = rng.integers(0, cases.VOCAB, (STEPS, BATCH, 1))
    ids = (start + 3 * np.arange(LENGTH)) % cases.VOCAB
    noise = rng.integers(0, cases.VOCAB, ids.shape)
    return np.where(rng.random(ids.shape) < 0.2, noise, ids).tolist()


def mean_nll(model, batch):
    ids = torch.tensor(batch)
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def gradient_error(model, home, batch):
    """Largest error of float32 against float64, relative to the parameter's gradient norm, over all parameters."""
    exact = load(home, torch.float64)
    mean_nll(exact, batch).backward()
    pairs = zip(model.parameters(), exact.parameters())
    return max(((one.grad.double() - other.grad).norm() / other.grad.norm()).item() for one, other in pairs)


def gradient_row(name, parameter):
    """L2 norm, and SAMPLES entries by flat row-major index: the four largest, the rest drawn where not zero."""
    gradient = parameter.grad.flatten().double()
    rng = np.random.default_rng([cases.SEED, 13, *name.encode()])
    largest_four = gradient.abs().topk(4).indices.tolist()
    others = [i for i in gradient.nonzero()[:, 0].tolist() if i not in largest_four]
    drawn = rng.choice(others, SAMPLES - 4, replace=False).tolist()
    indices = sorted(largest_four + drawn)
    return {
        "name": name,
        "shape": list(parameter.shape),
        "norm": gradient.norm().item(),
        "index": indices,
        "value": gradient[indices].tolist(),
    }


def train(model, batches, clip=CLIP, weight_decay=WEIGHT_DECAY, betas=BETAS, epsilon=EPSILON,
          matrices_only=False, coupled=False, clip_each=False):
    """The trace of one run; the keyword arguments are departures from the recipe."""
    parameters = dict(model.named_parameters())
    decayed = [p for p in parameters.values() if p.dim() > 1 or not matrices_only]
    kept = [p for p in parameters.values() if p.dim() <= 1 and matrices_only]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    optimizer_class = torch.optim.Adam if coupled else torch.optim.AdamW
    optimizer = optimizer_class([g for g in groups if g["params"]], lr=LEARNING_RATE, betas=betas, eps=epsilon)
    trace = {"loss": [], "grad_norm": []}
    for batch in batches:
        optimizer.zero_grad()
        loss = mean_nll(model, batch)
        loss.backward()
        clipped = [[p] for p in parameters.values()] if clip_each else [list(parameters.values())]
        norms = [torch.nn.utils.clip_grad_norm_(group, clip) for group in clipped]
        optimizer.step()
        trace["loss"].append(loss.item())
        trace["grad_norm"].append(norms[0].item())
    trace["parameter_norms"] = {name: p.detach().double().norm().item() for name, p in parameters.items()}
    return trace


def largest(one, other):
    return max(abs(a - b) for a, b in zip(one, other))
