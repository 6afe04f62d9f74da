"""Each point exists, is listed once, and kills where it is armed."""

import ast
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import vecstore
from vecstore.storage import failpoints

CODE = "from vecstore.storage.failpoints import reach\nfor n in range(3): print(n, flush=True); reach('commit.before')"


def reached():
    """The argument of every call of `reach`, wherever in vecstore."""
    for path in Path(vecstore.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reach":
                (argument,) = node.args
                yield argument.value


def test_all_points_are_listed_and_stand_in_the_code_once():
    assert sorted(reached()) == sorted(failpoints.POINTS + failpoints.CHECKPOINT + failpoints.INTERVAL)


@pytest.mark.parametrize(
    ("setting", "printed"), [("commit.before", 1), ("commit.before:3", 3), ("commit.after", 3), ("", 3)]
)
def test_an_armed_point_kills_the_process_when_it_is_reached_for_that_time(setting, printed):
    root = str(Path(vecstore.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={failpoints.VARIABLE: setting, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [str(n) for n in range(printed)]
    assert done.returncode == (-signal.SIGKILL if setting.startswith("commit.before") else 0)


def test_a_name_that_is_no_point_is_refused():
    with pytest.raises(ValueError, match=r"'commit\.never' is no failpoint; there are open\.marker_written, "):
        failpoints.arm("commit.never")
