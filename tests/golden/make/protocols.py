"""Makes tests/golden/protocols.json by scripts/reference_protocols.py; takes the same --check."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).resolve().parents[3]
    runpy.run_path(str(root / "scripts" / "reference_protocols.py"), run_name="__main__")
