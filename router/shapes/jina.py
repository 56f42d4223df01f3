"""Fields of Jina's embedding API that OpenAI's lacks: `task`, `late_chunking`, `normalized`,
`embedding_type`.
"""

from typing import Literal, Protocol

from router.errors import InvalidValue

JinaTask = Literal[
    "retrieval.query",
    "retrieval.passage",
    "code.query",
    "code.passage",
    "text-matching",
    "classification",
    "separation",
]
JinaInputType = Literal["query", "document", "classification", "clustering"]
_INPUT_TYPES: dict[JinaTask, JinaInputType] = {
    "retrieval.query": "query",
    "code.query": "query",
    "retrieval.passage": "document",
    "code.passage": "document",
    "text-matching": "clustering",
    "classification": "classification",
    "separation": "clustering",
}
_SAME = {"search_query": "query", "search_document": "document", "passage": "document"}


def input_type_of(task: JinaTask, given: str | None) -> JinaInputType:
    """The `input_type` that a task means; raises InvalidValue if `given` contradicts it."""
    meant = _INPUT_TYPES[task]
    if given is not None and _SAME.get(given, given) != meant:
        raise InvalidValue(
            f"task {task!r} means input_type {meant!r} and input_type is {given!r}; leave one of "
            "them out",
            "task",
        )
    return meant


class JinaFields(Protocol):
    """Fields of a body that only Jina's clients send."""

    late_chunking: bool | None
    normalized: bool | None


def check(fields: JinaFields) -> None:
    """Raise InvalidValue for fields that would change the vectors, which is not supported."""
    if fields.late_chunking:
        raise InvalidValue(
            "late_chunking is not done here: each text is embedded by itself; leave it out",
            "late_chunking",
        )
    if fields.normalized is False:
        raise InvalidValue(
            "normalized false is not served: every vector has length 1; leave it out", "normalized"
        )
