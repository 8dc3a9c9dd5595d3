"""The birth certificates of golden files: `tests/golden/MANIFEST.json`.

Makers call `record`. By hand, for files made otherwise:

    python tests/golden/make/manifest.py --maker tests/golden/make/x.py --reader tests/x.rs FILE..

Per file: SHA-256, maker, package versions, seed, dtype, tolerance in words, and the test that reads it.
"""

import argparse
import hashlib
from importlib.metadata import version
from pathlib import Path

from golden_io import read_json, write_json

GOLDEN = Path(__file__).resolve().parent.parent
MANIFEST = GOLDEN / "MANIFEST.json"


def record(files, maker, reader, packages=("torch", "transformers"), seed=None, dtype="float32", tolerance=""):
    """Enter `files` (paths under tests/golden), replacing older entries of the same files."""
    manifest = read_json(MANIFEST) if MANIFEST.exists() else {"files": {}}
    versions = {name: version(name).split("+")[0] for name in packages}
    for path in map(Path, files):
        name = path.resolve().relative_to(GOLDEN).as_posix()
        manifest["files"][name] = {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "maker": maker,
            "packages": versions,
            "seed": seed,
            "dtype": dtype,
            "tolerance": tolerance,
            "reader": reader,
        }
    manifest["files"] = dict(sorted(manifest["files"].items()))
    write_json(MANIFEST, manifest)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--maker", required=True)
    parser.add_argument("--reader", required=True)
    parser.add_argument("--packages", default="torch,transformers", help="comma-separated, may be empty")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tolerance", default="")
    given = parser.parse_args()
    packages = [name for name in given.packages.split(",") if name]
    record(given.files, given.maker, given.reader, packages, given.seed, given.dtype, given.tolerance)


if __name__ == "__main__":
    main()
