"""Clusters, and groups of near duplicates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vecstore.errors import InvalidArgumentError
from vecstore.types import Clustering, DuplicateGroup
from vecstore.v1 import vecstore_pb2 as pb
from vecstore.wire.rows import read_ids, read_vectors, write_ids, write_vectors


def write_clustering(clustering: Clustering) -> pb.ClusterResponse:
    """Clusters; their sizes follow from the labels."""
    message = pb.ClusterResponse(labels=clustering.labels.tolist(), scores=clustering.scores.tolist())
    write_ids(clustering.ids, message.ids)
    write_vectors(clustering.centroids, message.centroids)
    return message


def read_clustering(message: pb.ClusterResponse) -> Clustering:
    """Clusters; their centroids are the caller's own."""
    ids, centroids = read_ids(message.ids), read_vectors(message.centroids).copy()
    labels, scores = np.array(message.labels, np.int64), np.array(message.scores, np.float32)
    if not len(ids) == len(labels) == len(scores):
        raise InvalidArgumentError(f"clusters: {len(ids)} ids, {len(labels)} labels and {len(scores)} scores")
    if len(labels) and labels.max() >= len(centroids):
        raise InvalidArgumentError(f"clusters: a label of {labels.max()}, and {len(centroids)} centroids")
    sizes = np.bincount(labels, minlength=len(centroids))
    return Clustering(ids, labels.astype(np.int32), scores, centroids, sizes)


def write_groups(groups: Sequence[DuplicateGroup]) -> pb.NearDuplicatesResponse:
    """Groups of near duplicates."""
    message = pb.NearDuplicatesResponse()
    for group in groups:
        into = message.groups.add()
        write_ids(group.ids, into.ids)
        into.scores.extend(group.scores)
    return message


def read_groups(message: pb.NearDuplicatesResponse) -> list[DuplicateGroup]:
    """Groups of near duplicates."""
    groups = [DuplicateGroup(read_ids(group.ids), list(group.scores)) for group in message.groups]
    for group in groups:
        if len(group.ids) != len(group.scores):
            raise InvalidArgumentError(f"groups: {len(group.ids)} ids and {len(group.scores)} scores")
    return groups
