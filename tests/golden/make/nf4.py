"""Codes and scales of bitsandbytes' NF4 with double quantisation, and the weights that they stand for.

    python tests/golden/make/nf4.py          writes tests/golden/nf4.json
    python tests/golden/make/nf4.py --check  compares instead; says what differs and exits 1

The weights are a formula of their place (see `weights`), exact in float64 and rounded once, so that a reader makes the
same ones. The first matrix has a block of zeros; the second has more scales than share one in turn.
"""

import sys
from pathlib import Path

import bitsandbytes.functional as bnb
import torch

import manifest
from golden_io import differences, read_json, write_json

MAKER = "tests/golden/make/nf4.py"
READER = "experiments/model/nf4_tests.rs"
FILE = Path(__file__).resolve().parent.parent / "nf4.json"
SHAPES = [(5, 64), (130, 128)]
STEP = 97  # every so many weights one is stored


def weights(rows, columns):
    """Cubes of evenly spread numbers, so that most are small, with another width in each block of 64; block 2 is zero."""
    values = []
    for place in range(rows * columns):
        block = place // 64
        even = 2.0 * ((place * 2654435761) % 2**32) / 2**32 - 1.0
        values.append(0.0 if block == 2 else even * even * even * (0.01 + 0.003 * (block % 7)))
    return torch.tensor(values, dtype=torch.float64).to(torch.float32).reshape(rows, columns)


def case(rows, columns):
    matrix = weights(rows, columns)
    codes, state = bnb.quantize_4bit(matrix, blocksize=64, compress_statistics=True, quant_type="nf4")
    back = bnb.dequantize_4bit(codes, state).reshape(-1)
    assert state.state2.blocksize == 256 and back.dtype == torch.float32
    return {
        "rows": rows,
        "columns": columns,
        "codes": bytes(codes.reshape(-1).tolist()).hex(),
        "scale_codes": bytes(state.absmax.tolist()).hex(),
        "scale_maxima": state.state2.absmax.tolist(),
        "scale_mean": state.offset.item(),
        "every": STEP,
        "dequantised": back[::STEP].tolist(),
    }


def made():
    return {
        "levels": bnb.get_4bit_type("nf4", device="cpu").tolist(),
        "scale_levels": bnb.create_dynamic_map().tolist(),
        "cases": [case(*shape) for shape in SHAPES],
    }


def main():
    if "--check" in sys.argv[1:]:
        found = differences(read_json(FILE), made(), 1e-7)
        print("\n".join(found[:20]) or "nf4.json: the same")
        return 1 if found else 0
    write_json(FILE, made())
    manifest.record([FILE], MAKER, READER, packages=("torch", "bitsandbytes"), tolerance="codes equal; 1e-6 of the scale")
    return 0


if __name__ == "__main__":
    sys.exit(main())
