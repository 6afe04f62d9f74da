"""The durable truth: LMDB files of rows, ids, payloads and a log. Knows no index."""
