"""The embedded example of the README runs as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_embedded_example_runs_in_an_empty_folder(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    embedded = [block for block in blocks if "vecstore.open(" in block]
    assert len(embedded) == 1
    for _ in range(2):  # a second run finds what the first has left
        done = subprocess.run(
            [sys.executable, "-c", embedded[0]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 3
        assert all(re.match(r"\d\.\d{3}  \S", line) for line in lines)
    assert [entry.name for entry in tmp_path.iterdir()] == ["my-database"]
