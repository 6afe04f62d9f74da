"""Approximate search beside other engines: `python -m bench.ann --data DIR`, or `--synthetic 100000x128`.

vecstore, hnswlib, faiss, usearch, rabitqlib, ScaNN and voyager index the same rows and answer the same queries, one
query a call on one thread, at every setting of each one's own knob. Engines take turns setting by setting, several
rounds of it, and the best time of each setting counts: whatever else the machine does, it does to all. An engine that
is not installed is left out with a word. A setting at least as thorough as one with recall 0.999, or as one that took
too long, is not run.

Printed are recall@k against exact truth, queries per second, seconds to build, and bytes of anonymous memory a row;
then queries per second at recall 0.90, 0.95 and 0.99, interpolated, and vecstore's ratio to every engine. The same goes
to `bench/out/ann-NAME.json`, and to `.png` if matplotlib is installed. `--collection` adds the durable collection, one
query and a batch of 100 a call, beside Qdrant Edge.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import data, datasets, plot
from bench.datasets import OUT, Dataset
from bench.durable import COLLECTIONS
from bench.engine import EFS, Knobs, M, Task
from bench.engines import ENGINES
from bench.worker import Built, EngineError, Worker

TARGETS = (0.90, 0.95, 0.99)
ENOUGH = 0.999
TOO_LONG = 4.0


@dataclass
class Curve:
    """One engine over its sweep, at one size of batches: recall and the best seconds for each setting."""

    label: str
    engine: str
    batch: int
    worker: Worker
    built: Built
    todo: list[Knobs]
    recalls: dict[Knobs, float] = field(default_factory=dict)
    seconds: dict[Knobs, float] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """Whom this curve is compared with."""
        if self.engine in ENGINES:
            return "index"
        return "collection" if self.batch == 1 else f"collection, {self.batch} queries a call"

    def superfluous(self, knobs: Knobs) -> bool:
        """Whether a setting no more thorough has reached enough already, or took too long."""
        return any(
            (recall >= ENOUGH or self.seconds[other] > TOO_LONG)
            and all(a <= b for a, b in zip(other, knobs, strict=True))
            for other, recall in self.recalls.items()
        )

    def points(self, queries: int) -> list[tuple[Knobs, float, float]]:
        """Knobs, recall and queries per second, in the order of the sweep."""
        return [(knobs, recall, queries / self.seconds[knobs]) for knobs, recall in self.recalls.items()]


def main() -> None:
    """Build, measure, print, and write both files."""
    options = parsed()
    source = datasets.synthetic if options.synthetic else datasets.load
    dataset = source(options.synthetic or Path(options.data), options.metric, options.queries, options.k)
    n, dim = dataset.rows.shape
    print(
        f"{n:,} rows x {dim} ({dataset.name}), {dataset.metric}, {len(dataset.queries):,} queries, k = {options.k}",
        flush=True,
    )
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ann-", dir=OUT) as scratch:
        np.save(Path(scratch) / "rows.npy", dataset.rows)
        np.save(Path(scratch) / "queries.npy", dataset.queries)
        task = Task(
            rows=n,
            dim=dim,
            metric=dataset.metric,
            k=options.k,
            threads=options.threads,
            build_threads=options.build_threads,
            scratch=Path(scratch),
            efs=options.sweep,
        )
        curves = built(options.engines, options.m, task)
        try:
            measured(curves, dataset, options.rounds)
        finally:
            for worker in {id(curve.worker): curve.worker for curve in curves}.values():
                worker.close()
    report(curves, len(dataset.queries), options.k)
    written(curves, dataset, options)


def parsed() -> Any:
    """The options."""
    parser = data.arguments(__doc__)
    numbers = lambda text: tuple(int(word) for word in text.split(","))  # noqa: E731
    parser.add_argument("--synthetic", metavar="NxD", help="clusters from a seed instead of --data")
    parser.add_argument("--metric", choices=datasets.METRICS, help="default: that of the data")
    parser.add_argument("--engines", help=f"of {', '.join([*ENGINES, *COLLECTIONS])}")
    parser.add_argument("--collection", action="store_true", help=f"also {', '.join(COLLECTIONS)}")
    parser.add_argument("--m", type=numbers, default=(0,), help="vecstore's m, an entry for each: 16,32")
    parser.add_argument("--sweep", type=numbers, default=EFS, help="the ef of all engines that have one: 10,32,100")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of one search")
    parser.add_argument("--build-threads", type=int, default=2, help="an engine runs on as many CPUs")
    options = parser.parse_args()
    names = options.engines.split(",") if options.engines else list(ENGINES)
    names += [name for name in COLLECTIONS if options.collection and name not in names]
    unknown = [name for name in names if name not in ENGINES | COLLECTIONS]
    if unknown:
        parser.error(f"no engine {', '.join(unknown)}; there are {', '.join([*ENGINES, *COLLECTIONS])}")
    options.engines = names
    return options


def built(engines: list[str], ms: tuple[int, ...], task: Task) -> list[Curve]:
    """Build one engine after the other; all stay in memory, each in its process."""
    curves = []
    for engine in engines:
        for m in ms if engine == "vecstore" else (M,):
            label = engine if m in (0, M) else f"{engine} m={m}"
            worker = Worker(engine, dataclasses.replace(task, m=m))
            try:
                facts = worker.build()
            except EngineError as error:
                print(f"{label}: left out, {error}", flush=True)
                worker.close()
                continue
            told(f"{label} {facts.version} built in {facts.seconds:.1f} s")
            for batch in facts.batches:
                name = label if batch == 1 else f"{label} x{batch}"
                curves.append(Curve(name, engine, batch, worker, facts, list(facts.sweep)))
    return curves


def measured(curves: list[Curve], dataset: Dataset, rounds: int) -> None:
    """Fill the curves, the engines in turn at each step of their sweeps."""
    k = dataset.truth.shape[1]
    for turn in range(rounds):
        told(f"round {turn + 1} of {rounds}")
        for step in range(max((len(curve.todo) for curve in curves), default=0)):
            for curve in curves:
                if step >= len(curve.todo) or (turn == 0 and curve.superfluous(curve.todo[step])):
                    continue
                knobs = curve.todo[step]
                try:
                    seconds, found = curve.worker.measure(knobs, curve.batch)
                except EngineError as error:
                    print(f"{curve.label} at {setting(curve, knobs)}: {error}", flush=True)
                    if not curve.worker.alive:
                        curve.todo = []
                    continue
                if turn == 0:
                    hits = [len(np.intersect1d(*pair)) for pair in zip(found, dataset.truth, strict=True)]
                    curve.recalls[knobs] = float(np.mean(hits)) / k
                curve.seconds[knobs] = min(seconds, curve.seconds.get(knobs, math.inf))
        for curve in curves:
            curve.todo = [knobs for knobs in curve.recalls if curve.seconds[knobs] <= TOO_LONG]


def envelope(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of pairs (recall, queries per second) those that no other beats in both, by rising recall."""
    best: list[tuple[float, float]] = []
    for recall, qps in sorted(points, key=lambda point: (-point[0], -point[1])):
        if not best or qps > best[-1][1]:
            best.append((recall, qps))
    return best[::-1]


def at_recall(points: list[tuple[float, float]], target: float) -> float | None:
    """Queries per second at a recall, between two points of the envelope by its logarithm; None if none gets there."""
    best = envelope(points)
    above = next((i for i, (recall, _) in enumerate(best) if recall >= target), None)
    if above is None:
        return None
    if above == 0:
        return best[0][1]
    (low, fast), (high, slow) = best[above - 1], best[above]
    return float(fast * (slow / fast) ** ((target - low) / (high - low)))


def reached(curve: Curve, queries: int) -> list[float | None]:
    """Queries per second at each of the targets."""
    points = [(recall, qps) for _, recall, qps in curve.points(queries)]
    return [at_recall(points, target) for target in TARGETS]


def report(curves: list[Curve], queries: int, k: int) -> None:
    """Print every point, then what is reached at each target and vecstore's ratio to it."""
    print(f"\n{'engine':20} {'setting':24} {f'recall@{k}':>10} {'queries/s':>10} {'build s':>8} {'bytes/row':>10}")
    for curve in curves:
        memory = "-" if curve.built.row_bytes is None else f"{curve.built.row_bytes:,.0f}"
        for knobs, recall, qps in curve.points(queries):
            print(
                f"{curve.label:20} {setting(curve, knobs):24} {recall:10.4f} {qps:10,.0f} "
                f"{curve.built.seconds:8.1f} {memory:>10}"
            )
    for group in dict.fromkeys(curve.group for curve in curves):
        members = [curve for curve in curves if curve.group == group]
        ours = [curve for curve in members if curve.engine in {"vecstore", "collection"}]
        for own in ours or [None]:
            compared(group, own, members, queries)


def compared(group: str, own: Curve | None, members: list[Curve], queries: int) -> None:
    """Print queries per second at each target, and how many times that our own curve makes."""
    beside = f", and {own.label} over it" if own else ""
    print(f"\n{group}: queries/s at recall{beside}")
    print(f"{'':20}" + "".join(f"{target:>18.2f}" for target in TARGETS))
    ours = reached(own, queries) if own else [None] * len(TARGETS)
    for curve in members:
        cells = []
        for qps, mine in zip(reached(curve, queries), ours, strict=True):
            ratio = f"{mine / qps:6.2f}x" if mine and qps and curve is not own else " " * 7
            cells.append(f"{'-' if qps is None else f'{qps:,.0f}':>10} {ratio}")
        print(f"{curve.label:20}" + "".join(cells).rstrip())


def written(curves: list[Curve], dataset: Dataset, options: Any) -> None:
    """The JSON file and the picture."""
    queries = len(dataset.queries)
    result = {
        "data": {"name": dataset.name, "metric": dataset.metric, "shape": dataset.rows.shape, "queries": queries},
        "machine": {
            "processor": processor(),
            "cpus": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "options": {name: getattr(options, name) for name in ("k", "rounds", "threads", "build_threads")},
        "engines": [
            {
                "label": curve.label,
                "group": curve.group,
                "batch": curve.batch,
                "version": curve.built.version,
                "build_seconds": curve.built.seconds,
                "row_bytes": curve.built.row_bytes,
                "points": [
                    {"knobs": dict(zip(curve.built.knobs, knobs, strict=True)), "recall": recall, "qps": qps}
                    for knobs, recall, qps in curve.points(queries)
                ],
                "qps_at_recall": dict(zip(map(str, TARGETS), reached(curve, queries), strict=True)),
            }
            for curve in curves
        ],
    }
    file = OUT / f"ann-{dataset.name}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten: {file}")
    lines = {
        curve.label: envelope([(recall, qps) for _, recall, qps in curve.points(queries)])
        for curve in curves
        if curve.batch == 1
    }
    title = (
        f"{dataset.name}: {len(dataset.rows):,} x {dataset.rows.shape[1]}, {dataset.metric}, {options.threads} thread"
    )
    if plot.draw(lines, title, f"recall@{options.k}", file.with_suffix(".png")):
        print(f"written: {file.with_suffix('.png')}")


def setting(curve: Curve, knobs: Knobs) -> str:
    """The knobs by name."""
    return " ".join(f"{name}={value}" for name, value in zip(curve.built.knobs, knobs, strict=True))


def processor() -> str:
    """The CPU's name."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def told(line: str) -> None:
    """What is going on, beside the figures."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
