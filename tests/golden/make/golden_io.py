"""Reading, writing and comparing golden files, shared by the makers.

Numbers are written as Python prints a float64, the shortest text that reads back to the same bits. A list of
scalars stays on one line, so a changed number is one changed line in a diff.
"""

import json
import math
from pathlib import Path


def dumps(value, indent=0):
    """JSON text with one key per line and scalar lists kept on one line."""
    pad = " " * (indent + 1)
    if isinstance(value, dict) and value:
        rows = [f"{pad}{json.dumps(key)}: {dumps(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        rows = [pad + dumps(item, indent + 1) for item in value]
        return "[\n" + ",\n".join(rows) + "\n" + " " * indent + "]"
    return json.dumps(value, allow_nan=False)


def write_json(path, value):
    """Write `value` to `path`, refusing NaN and infinity, which JSON cannot hold."""
    Path(path).write_text(dumps(value) + "\n")


def read_json(path):
    return json.loads(Path(path).read_text())


def differences(expected, actual, tolerance, where=""):
    """Sentences that say where two JSON values differ: floats by more than `tolerance` (absolute, and relative
    above one), everything else at all. A NaN differs from every number."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        found = [f"{where}: keys {sorted(set(expected) ^ set(actual))}"] if set(expected) != set(actual) else []
        for key in expected.keys() & actual.keys():
            found += differences(expected[key], actual[key], tolerance, f"{where}.{key}")
        return found
    if isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return [f"{where}: {len(expected)} entries against {len(actual)}"]
        found = []
        for index, (one, other) in enumerate(zip(expected, actual)):
            found += differences(one, other, tolerance, f"{where}[{index}]")
        return found
    if isinstance(expected, float) and isinstance(actual, float):
        near = abs(expected - actual) <= tolerance * max(1.0, abs(expected))
        return [] if near and math.isfinite(actual) else [f"{where}: {expected!r} against {actual!r}"]
    return [] if expected == actual else [f"{where}: {expected!r} against {actual!r}"]
