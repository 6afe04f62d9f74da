"""The committed stubs are what the contract generates."""

from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent.parent.parent
PROTO = "vecstore/v1/vecstore.proto"


def test_the_stubs_are_those_of_the_contract(tmp_path: Path) -> None:
    outs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    assert protoc.main(["protoc", f"-I{ROOT / 'proto'}", *outs, PROTO]) == 0
    generated = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*"))
    assert len(generated) == 3
    for path in generated:
        assert (ROOT / path).read_text() == (tmp_path / path).read_text(), f"{path} is stale: run `make proto`"
