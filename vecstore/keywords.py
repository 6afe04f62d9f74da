"""Keyword arguments: one that a call does not have is answered with the one that is meant."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

from vecstore.errors import UnknownArgumentError

# The words of other engines for ours, so that the error names the right one.
SYNONYMS: Final = {
    **dict.fromkeys(["top_k", "topk", "n_results", "n", "num_results", "max_results"], "k"),
    **dict.fromkeys(["where", "query_filter", "expr", "prefilter", "conditions"], "filter"),
    **dict.fromkeys(["query_vector", "query_embeddings", "queries", "vector_query", "data"], "query"),
    **dict.fromkeys(["embeddings", "embedding", "vector", "values", "points"], "vectors"),
    **dict.fromkeys(["metadatas", "metadata", "payload", "documents"], "payloads"),
    **dict.fromkeys(["id", "keys", "point_ids"], "ids"),
    **dict.fromkeys(["dimension", "size", "dimensions", "vector_size", "d"], "dim"),
    **dict.fromkeys(["distance", "space", "metric_type", "distance_func"], "metric"),
    **dict.fromkeys(["with_vector", "include_values", "include_vectors", "include_embeddings"], "with_vectors"),
    **dict.fromkeys(["with_payloads", "include_metadata", "include"], "with_payload"),
    **dict.fromkeys(["threshold", "min_score", "radius", "similarity_threshold"], "score_threshold"),
    **dict.fromkeys(["offset", "page", "next_page_offset", "page_token"], "cursor"),
    **dict.fromkeys(["page_size", "batch_size", "top_k", "k"], "limit"),
    **dict.fromkeys(["collection_name", "collection", "index_name"], "name"),
    **dict.fromkeys(["readonly", "mode"], "read_only"),
    **dict.fromkeys(["map_size", "max_bytes"], "max_size"),
    **dict.fromkeys(["max_memory", "memory", "memory_limit_bytes", "cache_size"], "memory_limit"),
    **dict.fromkeys(["sync", "fsync", "synchronous"], "durability"),
    **dict.fromkeys(["interval", "interval_ms", "sync_every", "fsync_interval"], "sync_interval"),
    **dict.fromkeys(["deadline", "request_timeout"], "timeout"),
    **dict.fromkeys(["host", "url", "uri", "endpoint"], "address"),
    **dict.fromkeys(["ef_search", "efSearch", "hnsw_ef", "ef_runtime", "search_k"], "ef"),
    **dict.fromkeys(["ef_construct", "efConstruction"], "ef_construction"),
    **dict.fromkeys(["num_clusters", "clusters", "n_outliers"], "n"),
    **dict.fromkeys(["n_iter", "niter", "max_iter"], "iterations"),
    **dict.fromkeys(["random_state", "random_seed"], "seed"),
    "n_neighbors": "k",
    **dict.fromkeys(["n_probe", "nprobes", "n_probes", "probes", "leaves_to_search", "num_leaves_to_search"], "nprobe"),
    **dict.fromkeys(["n_lists", "nlists", "lists", "num_partitions", "n_clusters", "num_leaves"], "nlist"),
    "M": "m",
}
_SECOND_CHOICE: Final = {
    "top_k": "k",
    "k": "limit",
    "limit": "k",
    "n": "limit",
    "n_clusters": "n",
    **dict.fromkeys(["score_threshold", "min_score", "similarity_threshold", "radius"], "threshold"),
}

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=type[Any])


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """Make an unknown keyword an UnknownArgumentError that names the right one."""
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    known = frozenset(names)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TypeError:  # as Python says it; a search has no time to look before
            if kwargs.keys() <= known:
                raise
        raise _unknown(_called(function), next(k for k in kwargs if k not in known), names)

    return checked


def named(cls: T) -> T:
    """Make an unknown keyword of a class's constructor an UnknownArgumentError, as `verb` does for a function."""
    cls.__init__ = verb(cls.__init__)
    return cls


def _called(function: Callable[..., Any]) -> str:
    """What a caller writes to call it."""
    return function.__qualname__.split(".")[-2] if function.__name__ == "__init__" else function.__name__


def _unknown(function: str, word: str, names: list[str]) -> UnknownArgumentError:
    guesses = [SYNONYMS.get(word), _SECOND_CHOICE.get(word), *difflib.get_close_matches(word, names, 1)]
    better = next((guess for guess in guesses if guess in names), None)
    hint = f'; use "{better}"' if better else f"; it takes {', '.join(names) or 'no arguments'}"
    return UnknownArgumentError(f'{function}() has no argument "{word}"{hint}', argument=word)
