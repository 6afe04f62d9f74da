"""Compiled loops: flat arrays and scalars in, caller-owned arrays out; no classes, no I/O.

rows, scans, pools       entry points: exact scans and rescoring, scans of codes, the best k
rotate, encode           entry points: random rotations; codes of rows and queries
kmeans                   entry points: nearest centroids, rows sorted by them, means
groups                   entry points: what hangs together (union-find)
floats, codes, bits      distances by address, for kernels to use; eights: of eight rows; tiles: by many queries
memory                   loads, stores, prefetch, packed keys
twins                    what each of these means, in NumPy
_jit, _cache, _ir        how kernels are declared, kept between processes, and told LLVM IR
"""
