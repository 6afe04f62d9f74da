"""The command line, as a user types it."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import vecstore
from vecstore import cli
from vecstore.cli import terminal

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `vecstore ARGS`: exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(terminal, "console", Console(width=160))

    def go(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vecstore", *args])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capsys.readouterr()
        return int(exited.value.code or 0), out, err

    return go


@pytest.fixture
def folder(tmp_path: Path) -> str:
    path = tmp_path / "db"
    with vecstore.open(path) as db:
        docs = db.create_collection("docs", 2)
        docs.insert([7, "7", "east"], [[1, 0], [0, 1], [1, 0.1]], [{"n": 1}, {"n": 2}, None])
    return str(path)


def test_help_names_every_command_and_each_has_an_example(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in (
        "demo",
        "serve",
        "stats",
        "check",
        "backup",
        "compact",
        "search",
        "cluster",
        "duplicates",
        "outliers",
    ):
        assert command in out
        assert "Example" in run(command, "--help")[1]


def test_version(run: Run) -> None:
    assert run("--version")[1].strip() == f"vecstore {vecstore.__version__}"


def test_set_index(run: Run, folder: str) -> None:
    code, out, _ = run("set-index", folder, "docs", "--index", "ivf:nlist=3,nprobe=2", "--quantization", "int4")
    assert code == 0 and "docs: IVF(nlist=3, nprobe=2, seed=1, resident=True), Int4()" in out
    assert run("set-index", folder, "docs", "--index", "hnsw")[1].startswith("docs: HNSW(m=24")
    with vecstore.open(folder) as db:
        assert db.get_collection("docs").info == vecstore.CollectionInfo("docs", 2, quantization=vecstore.Int4())
    for wrong in (["--index", "btree"], ["--index", "hnsw:n=3"], ["--index", "hnsw:m=x"]):
        assert run("set-index", folder, "docs", *wrong)[0] == 1
    assert run("set-index", folder, "docs", "--index", "flat", "--quantization", "float")[0] == 1


def test_estimate(run: Run, folder: str) -> None:
    code, out, _ = run("estimate", "--rows", "1e6", "--dim", "768", "--index", "ivf", "--json")
    assert code == 0
    wanted = vecstore.estimate(1_000_000, 768, index=vecstore.IVF())
    assert json.loads(out) == dataclasses.asdict(wanted) and wanted.quantization == "binary"
    code, out, _ = run("estimate", folder, "docs", "--rows", "1e7")
    assert code == 0 and "10,000,000" in out and "HNSW" in out and "GiB" in out
    assert json.loads(run("estimate", folder, "docs", "--json")[1])["count"] == 3
    for wrong in ([], ["--rows", "3"], [folder, "--rows", "3"], [folder, "docs", "--dim", "3"]):
        assert run("estimate", *wrong)[0] == 1


def test_stats(run: Run, folder: str) -> None:
    code, out, _ = run("stats", folder)
    assert code == 0 and "docs" in out and "cosine" in out
    rows = dict(line.strip("│ ").split("│") for line in out.splitlines() if line.startswith("│"))
    shown = {key.strip(): value.strip() for key, value in rows.items()}
    assert (shown["index"], shown["quantization"], shown["count"], shown["degree"]) == ("HNSW", "int8", "3", "0.0")
    assert shown["index error"] == "none" and shown["link bytes"].endswith("B")
    [found] = json.loads(run("stats", folder, "--json")[1])
    assert found["count"] == 3 and found["index_error"] is None
    assert set(found) == {field.name for field in dataclasses.fields(vecstore.Stats)}


def test_check_of_a_sound_folder(run: Run, folder: str) -> None:
    assert run("check", folder)[:2] == (0, "docs: sound\n")
    assert json.loads(run("check", folder, "docs", "--json")[1]) == {"docs": []}


def test_check_of_a_damaged_folder_exits_with_1_and_names_the_ids(run: Run, folder: str) -> None:
    path = Path(folder) / "collections" / "docs" / "data.mdb"
    data = bytearray(path.read_bytes())
    data[data.rindex(b"vblk") + 60] ^= 1
    path.write_bytes(data)
    code, out, _ = run("check", folder)
    assert code == 1
    assert "vectors" in out and "'east'" in out


def test_search_like_a_row_takes_the_id_as_text_first(run: Run, folder: str) -> None:
    code, out, _ = run("search", folder, "docs", "--like", "7", "-k", "1", "--json")
    assert code == 0
    assert json.loads(out) == [{"id": "7", "score": 1.0, "payload": {"n": 2}}]


def test_search_by_vector_with_a_filter(run: Run, folder: str, tmp_path: Path) -> None:
    np.save(tmp_path / "query.npy", np.array([1.0, 0.0], np.float32))
    for vector in ("[1, 0]", str(tmp_path / "query.npy")):
        out = run("search", folder, "docs", "--vector", vector, "--filter", '{"n": {"$gte": 1}}', "--json")[1]
        assert [hit["id"] for hit in json.loads(out)] == [7, "7"]
    assert "score" in run("search", folder, "docs", "--vector", "[1, 0]")[1]
    wide = run("search", folder, "docs", "--vector", "[1, 0]", "--ef", "100", "-k", "1", "--json")[1]
    assert json.loads(wide)[0]["id"] == 7


def test_clusters_duplicates_and_outliers(run: Run, folder: str) -> None:
    clusters = json.loads(run("cluster", folder, "docs", "-n", "2", "--json")[1])
    assert sorted(str(one) for cluster in clusters for one in cluster["ids"]) == ["7", "7", "east"]
    assert "nearest to its centroid" in run("cluster", folder, "docs", "-n", "1")[1]
    [group] = json.loads(run("duplicates", folder, "docs", "--threshold", "-1", "--exact", "--json")[1])
    assert len(group["ids"]) == len(group["scores"]) == 3
    assert "keep" in run("duplicates", folder, "docs", "--threshold", "-1")[1]
    only = json.loads(run("outliers", folder, "docs", "-n", "5", "--filter", '{"n": {"$gte": 1}}', "--json")[1])
    assert {hit["id"] for hit in only} == {7, "7"}
    assert "distance" in run("outliers", folder, "docs", "-k", "1")[1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["cluster", "{db}", "docs", "-n", "4"], ["n: expected at most as many clusters as there are rows, 3, got 4"]),
        (["duplicates", "{db}", "docs", "--threshold", "2"], ["threshold: a score is the cosine here"]),
        (["search", "{db}", "nope", "--vector", "[1, 0]"], ["CollectionNotFoundError", "docs"]),
        (["search", "{db}", "docs"], ["--like", "--vector"]),
        (["search", "{db}", "docs", "--vector", "[1, 0"], ["--vector", "JSON"]),
        (["search", "{db}", "docs", "--vector", "nowhere.npy"], ["nowhere.npy"]),
        (["search", "{db}", "docs", "--vector", "[1]"], ["DimensionMismatchError", "2", "1"]),
        (["search", "{db}", "docs", "--like", "west"], ["NotFoundError", "west"]),
        (["search", "{db}", "docs", "--like", "7", "--ef", "0"], ["ef: lies between 1 and 10000", "0"]),
        (["stats", "{db}-elsewhere"], ["NotADatabaseError"]),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(run: Run, folder: str, args: list[str], words: list[str]) -> None:
    code, out, err = run(*(arg.replace("{db}", folder) for arg in args))
    assert code == 1 and out == ""
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_the_demo_answers_and_leaves_a_folder_that_can_be_served(run: Run, tmp_path: Path) -> None:
    folder = str(tmp_path / "demo")
    for _ in range(2):  # and again, over what is there
        code, out, _ = run("demo", "--data", folder)
        assert code == 0
        assert "pneumatic tire" in out and "tea-like drink" in out and "mallard" in out
        assert "have the same answers" in " ".join(out.split())
        assert f"serve --data {folder}" in out
    assert json.loads(run("stats", folder, "--json")[1])[0]["count"] == 4999


def test_backup(run: Run, folder: str, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    code, out, _ = run("backup", folder, str(target))
    assert code == 0 and str(target) in out and "KiB" in out
    assert run("check", str(target))[0] == 0
    assert run("backup", folder, str(tmp_path / "one"), "docs")[0] == 0
    code, _, err = run("backup", folder, str(target))
    assert code == 1 and "AlreadyExistsError" in err
    code, _, err = run("backup", folder, str(tmp_path / "none"), "nope")
    assert code == 1 and "CollectionNotFoundError" in err and not (tmp_path / "none").exists()


def test_compact_and_repair(run: Run, folder: str, tmp_path: Path) -> None:
    code, out, _ = run("compact", folder)
    assert code == 0 and "docs: " in out and "->" in out
    code, out, _ = run("check", folder, "--repair")
    assert code == 0 and "sound" in out
    data = tmp_path / "db" / "collections" / "docs" / "data.mdb"
    vector = np.array([0, 1], np.float32).tobytes()
    data.write_bytes(data.read_bytes().replace(vector, vector[::-1]))
    code, out, _ = run("check", folder)
    assert code == 1 and "block 0" in out
    code, out, _ = run("check", folder, "--repair")
    assert code == 1 and "quarantine" in out and "3 findings" in out
    assert run("check", folder)[0] == 0
    code, _, err = run("check", "localhost:1", "--repair")
    assert code == 1
    code, _, err = run("compact", str(tmp_path / "nothing"))
    assert code == 1 and "NotADatabaseError" in err and not (tmp_path / "nothing").exists()


def test_check_goes_on_behind_a_collection_that_does_not_open(run: Run, folder: str, tmp_path: Path) -> None:
    with vecstore.open(folder) as db:
        db.create_collection("last", 2).insert("a", [0, 1])
    data = tmp_path / "db" / "collections" / "docs" / "data.mdb"
    data.write_bytes(data.read_bytes()[: 3 * 4096])
    code, out, _ = run("check", folder)
    assert code == 1 and "file: " in out and "last: sound" in out
    assert run("stats", folder, "last")[0] == 0
    last = tmp_path / "db" / "collections" / "last" / "data.mdb"
    before = last.stat().st_ino
    code, out, _ = run("check", folder, "--repair")
    assert "last: sound" in out and last.stat().st_ino == before
