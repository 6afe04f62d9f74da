"""Keyword arguments that a verb does not have: the answer names ours."""

import pytest

import vecstore
from tests.refusals import refused
from vecstore import InvalidArgumentError, UnknownArgumentError, keywords


@pytest.mark.parametrize(
    ("verb", "word", "better"),
    [
        ("search", "top_k", "k"),
        ("search", "n_results", "k"),
        ("search", "limit", "k"),
        ("search", "where", "filter"),
        ("search", "fitler", "filter"),
        ("search", "include_vectors", "with_vectors"),
        ("search", "threshold", "score_threshold"),
        ("search", "query_vector", "query"),
        ("search", "ef_search", "ef"),
        ("search", "efSearch", "ef"),
        ("search", "hnsw_ef", "ef"),
        ("search", "ef_runtime", "ef"),
        ("search", "search_k", "ef"),
        ("scroll", "top_k", "limit"),
        ("scroll", "k", "limit"),
        ("scroll", "n", "limit"),
        ("scroll", "offset", "cursor"),
        ("scroll", "page_size", "limit"),
        ("insert", "embeddings", "vectors"),
        ("upsert", "metadatas", "payloads"),
        ("update", "payload", "payloads"),
        ("delete", "id", "ids"),
        ("get", "with_vector", "with_vectors"),
        ("count", "query_filter", "filter"),
        ("wait_indexed", "deadline", "timeout"),
        ("rebuild", "sede", "seed"),
    ],
)
def test_an_unknown_argument_is_answered_with_ours(docs, verb, word, better):
    error = refused(
        lambda: getattr(docs, verb)(**{word: 1}),
        f'{verb}() has no argument "{word}"; use "{better}"',
        error=UnknownArgumentError,
    )
    assert error.argument == word
    assert isinstance(error, TypeError)


def test_unknown_arguments_of_databases(db, tmp_path):
    kind = UnknownArgumentError
    refused(lambda: db.create_collection("x", dimension=3), 'use "dim"', error=kind)
    refused(lambda: db.create_collection("x", 3, distance="l2"), 'use "metric"', error=kind)
    refused(lambda: db.get_collection(collection_name="x"), 'use "name"', error=kind)
    refused(lambda: vecstore.open(tmp_path, map_size=3), 'use "max_size"', error=kind)
    refused(lambda: vecstore.open(tmp_path, mode="r"), 'use "read_only"', error=kind)
    refused(lambda: db.drop_collection("docs", zzz=1), "drop_collection() has no argument", "takes name", error=kind)


@pytest.mark.parametrize("verb", ["search", "scroll", "insert", "update", "get", "count"])
def test_every_synonym_leads_to_an_argument_the_verb_has_or_to_a_list(docs, verb):
    for word in keywords.SYNONYMS:
        try:
            getattr(docs, verb)(**{word: object()})
        except UnknownArgumentError as error:
            hint = str(error).split("; ")[1]
            assert hint.startswith(("use ", "it takes "))
        except (InvalidArgumentError, TypeError):
            pass  # the word is an argument of this verb
