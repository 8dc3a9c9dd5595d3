# usage: missing_packages.py NAME..   Prints the distributions that this Python lacks, one a line.
import importlib.metadata
import sys

for name in sys.argv[1:]:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        print(name)
