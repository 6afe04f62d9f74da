"""The picture of `bench.ann`: recall, on a scale that opens up towards 1, against queries per second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

TICKS = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
NEAREST = 5e-4  # what is left to 1 where a recall of 1 is drawn


def draw(curves: dict[str, list[tuple[float, float]]], title: str, recall: str, file: Path) -> bool:
    """Draw the points (recall, queries per second) of each label from recall 0.75; False without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 6.5), layout="constrained")
    colours = pyplot.get_cmap("tab20").colors
    for i, (label, points) in enumerate(curves.items()):
        own = label.startswith(("vecstore", "collection"))
        recalls, speeds = zip(*points, strict=True) if points else ((), ())
        axes.plot(
            stretched(recalls),
            speeds,
            label=label,
            marker="o" if own else ".",
            linewidth=2.5 if own else 1.2,
            color="black" if label == "vecstore" else colours[i % len(colours)],
            linestyle="--" if label in {"collection", "qdrant-edge"} else "-",
            zorder=3 if own else 2,
        )
    axes.set_xlim(stretched([0.75])[0], stretched([1])[0] * 1.02)
    axes.set_xticks(stretched([*TICKS, 1]), [*(f"{tick:g}" for tick in TICKS), "1"])
    axes.set_yscale("log", subs=range(2, 10))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(recall)
    axes.set_ylabel("queries per second")
    axes.set_title(title)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=130)
    pyplot.close(figure)
    return True


def stretched(recalls: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Nines: 0.9 at 1, 0.99 at 2."""
    return -np.log10(np.maximum(1 - np.asarray(recalls, np.float64), NEAREST))
