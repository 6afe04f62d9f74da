"""Imports point one way, and `import vecstore` loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vecstore

ROOT = Path(__file__).parents[2]
LEAVES = {"errors", "types", "arguments", "keywords", "payloads"}

# What each part of vecstore may import of it; the leaves may import each other, and all may import them.
MAY = {
    "__init__": {"*"},  # names only, loaded when first used
    "errors": set(),
    "types": set(),
    "arguments": set(),
    "payloads": set(),
    "keywords": set(),
    "kernels": set(),
    "quantization": {"kernels"},
    "storage": set(),
    "index": {"quantization", "kernels"},
    "filters": {"kernels", "storage"},
    "verbs": {"filters"},
    "analysis": {"index", "kernels", "storage"},
    "budget": {"index"},
    "checkpoints": {"index", "storage"},
    "indexing": {"budget", "checkpoints", "index", "storage"},
    "estimates": {"index", "storage"},
    "means": {"budget", "indexing", "index", "storage"},
    "results": {"filters", "storage"},
    "writing": {"results", "verbs", "storage"},
    "searching": {"results", "means", "indexing", "index", "verbs", "storage"},
    "figures": {"means", "estimates", "index", "storage"},
    "upkeep": {"budget", "means", "index", "storage"},
    "collection": {
        "analysis",
        "budget",
        "figures",
        "index",
        "indexing",
        "results",
        "searching",
        "storage",
        "upkeep",
        "verbs",
        "writing",
    },
    "database": {"budget", "collection", "verbs", "storage"},
    "wire": {"v1", "verbs"},
    "client": {"wire", "v1", "verbs"},
    "v1": set(),
    "demo": set(),
    "testing": {"verbs", "filters"},
    "cli": {"*"},
}
SERVER_MAY = {"wire", "v1"}  # and the public names


def modules(folder):
    return sorted(path for path in folder.rglob("*.py") if path.name not in ("vecstore_pb2.py", "vecstore_pb2_grpc.py"))


def part_of(name):
    """The part of vecstore that a dotted name leads to; None for its public names."""
    pieces = name.split(".")
    if pieces[0] != "vecstore" or len(pieces) == 1:
        return None
    return None if pieces[1] in vecstore.__all__ or pieces[1].startswith("__") else pieces[1]


def imported(path):
    """Every dotted name that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", modules(ROOT / "vecstore"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_lies_below_it(path):
    part = path.relative_to(ROOT / "vecstore").parts[0].removesuffix(".py")
    assert part in MAY, f"say in ARCHITECTURE.md and here what {part} may import"
    allowed = MAY[part] | LEAVES | {part}
    wrong = [
        (line, name)
        for line, name in imported(path)
        if name.startswith("vecstore.") and part_of(name) and part_of(name) not in allowed and "*" not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("path", modules(ROOT / "vecstore"), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_below_the_command_line_uses_the_server_or_the_public_names(path):
    part = path.relative_to(ROOT / "vecstore").parts[0].removesuffix(".py")
    if part in ("cli", "demo", "__init__", "testing"):
        return
    names = [name for _, name in imported(path)]
    assert not [name for name in names if name.split(".")[0] == "vecstore_server"]
    assert not [name for name in names if name == "vecstore"]


@pytest.mark.parametrize("path", modules(ROOT / "server"), ids=lambda path: path.name)
def test_the_server_uses_public_names_and_the_wire(path):
    allowed = SERVER_MAY | LEAVES | ({"cli"} if path.name == "__main__.py" else set())
    wrong = [
        (line, name)
        for line, name in imported(path)
        if name.startswith("vecstore.") and part_of(name) and part_of(name) not in allowed
    ]
    assert wrong == []


def run(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_importing_vecstore_loads_nothing_heavy():
    heavy = "numpy", "numba", "lmdb", "grpc", "msgpack", "rich", "typer"
    assert run(f"import sys, vecstore; print([name for name in {heavy!r} if name in sys.modules])") == "[]\n"


def test_opening_a_database_loads_no_client():
    code = "import sys, vecstore; vecstore.open; print([name for name in ('grpc', 'google') if name in sys.modules])"
    assert run(code) == "[]\n"


def test_every_public_name_resolves():
    for name in vecstore.__all__:
        assert getattr(vecstore, name).__name__ == name
    assert len(set(vecstore.__all__)) == len(vecstore.__all__)
    assert set(vecstore.__all__) <= set(dir(vecstore))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = vecstore.nonsense


def test_every_error_is_public():
    from vecstore import errors

    assert {cls.__name__ for cls in errors.BY_REASON.values()} <= set(vecstore.__all__)
