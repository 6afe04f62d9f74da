"""`python -m bench`: all benchmarks in turn, each with its own defaults and `--data` handed on."""

from __future__ import annotations

import sys

from bench import ann, cold, compaction, flat, graph, kernels, lists, readers, recovery, storage, wire, writers

for module in (storage, compaction, writers, readers, wire, kernels, flat, graph, lists, recovery, cold, ann):
    print(f"\n== {module.__name__}: {(module.__doc__ or '').splitlines()[0]}")
    sys.argv[0] = module.__name__
    module.main()
