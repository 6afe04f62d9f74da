"""How values and errors travel: both directions of each conversion, side by side, for client and server.

What arrives is not trusted: a `read_…` function raises InvalidArgumentError on what is malformed, and leaves the
meaning to the verbs' own checks. A `write_…` function fills in its message where it stands, if it may be large or is
needed often: protobuf copies a message that is given to another's constructor.

rows                     ids, vectors, payloads, filters, and the columns made of them
messages                 what a collection is, what a write did, counts and sizes
analysis                 clusters and groups of near duplicates
errors                   errors, and the status that carries them
"""

from __future__ import annotations

from typing import Final

from vecstore.wire.analysis import read_clustering, read_groups, write_clustering, write_groups
from vecstore.wire.errors import Status, read_error, write_error
from vecstore.wire.messages import (
    read_creation,
    read_finding,
    read_info,
    read_result,
    read_stats,
    write_finding,
    write_info,
    write_result,
    write_stats,
)
from vecstore.wire.rows import (
    filter_of,
    read_filter,
    read_found,
    read_hit_list,
    read_hits,
    read_ids,
    read_payloads,
    read_records,
    read_rows,
    read_vectors,
    write_filter,
    write_found,
    write_hit_list,
    write_hits,
    write_ids,
    write_payloads,
    write_records,
    write_rows,
    write_vectors,
)

MAX_MESSAGE_BYTES: Final = 256 << 20
MAX_TRAILER_BYTES: Final = 128 << 10  # gRPC's own 8 KiB cannot hold an error that names ten long ids

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MAX_TRAILER_BYTES",
    "Status",
    "filter_of",
    "read_ids",
    "write_ids",
    "read_vectors",
    "write_vectors",
    "read_payloads",
    "write_payloads",
    "read_filter",
    "write_filter",
    "read_rows",
    "write_rows",
    "read_records",
    "write_records",
    "read_found",
    "write_found",
    "read_hits",
    "write_hits",
    "read_hit_list",
    "write_hit_list",
    "read_clustering",
    "write_clustering",
    "read_groups",
    "write_groups",
    "read_info",
    "write_info",
    "read_creation",
    "read_result",
    "write_result",
    "read_stats",
    "write_stats",
    "read_finding",
    "write_finding",
    "read_error",
    "write_error",
]
