"""A small reader of GGUF files (version 3, little-endian): metadata, and tensors dequantised to float32.

Written from the format's public description. Types: F32, F16, Q8_0 and Q4_1, which is what the small model of
smollm2.py uses; any other stops with its number.
"""

import struct
from pathlib import Path

import numpy as np

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8
BLOCK = 32  # weights that share one scale


class GgufFile:
    """`metadata`: key to value. `tensors`: name to (type, shape with the slowest axis first, offset in the data)."""

    def __init__(self, path):
        self.data = memoryview(Path(path).read_bytes())
        self.at = 0
        magic, version, tensors, pairs = self.data[:4].tobytes(), *self.take("<IQQ", skip=4)
        if magic != b"GGUF" or version != 3:
            raise SystemExit(f"{path}: expected GGUF version 3, found {magic!r} version {version}")
        self.metadata = dict(self.pair() for _ in range(pairs))
        self.tensors = dict(self.tensor_row() for _ in range(tensors))
        alignment = self.metadata.get("general.alignment", 32)
        self.start = -(-self.at // alignment) * alignment

    def take(self, layout, skip=0):
        values = struct.unpack_from(layout, self.data, self.at + skip)
        self.at += skip + struct.calcsize(layout)
        return values

    def string(self):
        (size,) = self.take("<Q")
        self.at += size
        return self.data[self.at - size : self.at].tobytes().decode()

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            inner, count = self.take("<IQ")
            return [self.value(inner) for _ in range(count)]
        return self.take("<" + SCALARS[kind])[0]

    def pair(self):
        key = self.string()
        return key, self.value(self.take("<I")[0])

    def tensor_row(self):
        name = self.string()
        (dimensions,) = self.take("<I")
        shape = self.take(f"<{dimensions}Q")[::-1]
        kind, offset = self.take("<IQ")
        return name, (kind, shape, offset)

    def tensor(self, name):
        """The tensor as float32, in its shape."""
        kind, shape, offset = self.tensors[name]
        count, begin = int(np.prod(shape)), self.start + offset
        if kind in (F32, F16):
            flat = np.frombuffer(self.data, "<f4" if kind == F32 else "<f2", count, begin)
        elif kind == Q8_0:
            flat = self.q8_0(count // BLOCK, begin)
        elif kind == Q4_1:
            flat = self.q4_1(count // BLOCK, begin)
        else:
            raise SystemExit(f"{name}: GGUF tensor type {kind} is not one that this reader knows")
        return flat.astype(np.float32).reshape(shape)

    def q8_0(self, blocks, begin):
        """A float16 scale and 32 signed bytes a block."""
        layout = np.dtype([("scale", "<f2"), ("quants", "i1", BLOCK)])
        rows = np.frombuffer(self.data, layout, blocks, begin)
        return rows["scale"].astype(np.float32)[:, None] * rows["quants"]

    def q4_1(self, blocks, begin):
        """A float16 scale, a float16 minimum and 16 bytes a block: low nibbles are weights 0..15, high ones 16..31."""
        layout = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("quants", "u1", BLOCK // 2)])
        rows = np.frombuffer(self.data, layout, blocks, begin)
        quants = np.concatenate((rows["quants"] & 15, rows["quants"] >> 4), axis=1)
        scale, minimum = (rows[field].astype(np.float32)[:, None] for field in ("scale", "minimum"))
        return scale * quants + minimum
