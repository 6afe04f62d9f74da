"""The examples of the README that need no server run as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(code, folder):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def blocks(word):
    """The examples in which a word stands."""
    every = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    return [block for block in every if word in block]


def test_the_example_of_an_index_by_itself_runs_in_an_empty_folder(tmp_path):
    (block,) = blocks("vecstore.Index(")
    assert run(f"{block}\nprint(len(index), ids.shape)", tmp_path) == ["4997 (200, 10)"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["sample.index"]


def test_the_embedded_examples_run_in_an_empty_folder(tmp_path):
    first, second = blocks("vecstore.open(")
    for _ in range(2):  # a second run finds what the first has left
        lines = run(first, tmp_path)
        assert len(lines) == 3
        assert all(re.match(r"\d\.\d{3}  \S", line) for line in lines)
    lines = run(second, tmp_path)
    assert re.match(r"\d+ rows like \S", lines[0])
    assert len(lines) > 4
    assert all(re.match(r"\S+ stays instead of \S", line) for line in lines[1:-3])
    assert all(re.match(r"0\.\d{3}  \S", line) for line in lines[-3:])
    assert [entry.name for entry in tmp_path.iterdir()] == ["my-database"]
