# Prints, as JSON, the version and folder of the PyTorch that this Python would import, without importing it.
import importlib.metadata
import importlib.util
import json

try:
    version = importlib.metadata.version("torch")
    folder = list(importlib.util.find_spec("torch").submodule_search_locations)[0]
    print(json.dumps({"version": version, "folder": folder}))
except (importlib.metadata.PackageNotFoundError, AttributeError, IndexError, TypeError):
    print("{}")
