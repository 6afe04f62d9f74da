"""vecstore in memory, for tests: the same verbs, results and errors, without a folder and without a fast path.

ModelDatabase behaves as a Database does; `wrong_hits` tells whether the answer of a search can be right. Hypothesis
strategies for what goes into the verbs are in `vecstore.testing.strategies`.
"""

from vecstore.testing.model import ModelCollection, ModelDatabase, ModelRow, ModelRows, wrong_hits

__all__ = ["ModelDatabase", "ModelCollection", "ModelRows", "ModelRow", "wrong_hits"]
