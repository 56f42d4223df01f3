"""The life of a batch of embedding requests, as values: what its file may hold, its states, what is
left to do, and the lines of its output.

    validating ──► in_progress ──► finalizing ──► completed
        │               │              └────────► expired      the window ended first
        ▼               └────────► cancelling ──► cancelled
      failed

A batch is stored after every step, and every step can be taken again: a router that dies at any
moment leaves a state from which the next one goes on. Which lines are done is read from the output
itself, whose lines begin with their number.
"""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import to_jsonable_python

from router.errors import InvalidJson, InvalidValue, NotFound, UnknownField, shorten
from router.keys import Grant

ENDPOINT = "/v1/embeddings"
MOST_HOURS = 168
MOST_PROBLEMS = 100  # that a failed batch lists
MOST_TRIES = {500: 3, 503: 5, 504: 5}  # of a line that may be the cause itself
MOST_WAIT_S = 30.0  # between two tries
_WINDOW = re.compile(r"([1-9][0-9]{0,2})h")


class BatchStatus(StrEnum):
    """OpenAI's states of a batch."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


OVER = frozenset(
    (BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED)
)
CANCELLABLE = frozenset((BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS))
Ending = Literal[BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED]

# why a line was not run, by how its batch ended
NOT_RUN: Mapping[Ending, tuple[str, str]] = {
    BatchStatus.EXPIRED: (
        "batch_expired",
        "this request was not run before the completion window ended; send it in another batch",
    ),
    BatchStatus.CANCELLED: (
        "batch_cancelled",
        "this request was not run before the batch was cancelled; send it in another batch",
    ),
}


class BatchProblem(BaseModel):
    """Why a batch failed, as OpenAI lists it; `line` counts from 1."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Counts(NamedTuple):
    """Lines of a batch that have ended."""

    completed: int = 0
    failed: int = 0


class Batch(BaseModel):
    """What is stored of one batch. The two files have their ids from the beginning: a router that
    takes over finishes the ones that another has begun.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    grant: dict[str, Any]  # what its key was allowed when it was made
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: dict[str, str] | None = None
    address: str = ""  # /in/COLLECTION, where it was made there: it holds for its lines
    created_at: int
    expires_at: int
    output_id: str
    error_id: str

    status: BatchStatus = BatchStatus.VALIDATING
    ending: Ending | None = None  # where it is finalizing or cancelling
    total: int = 0
    counts: Counts = Counts()
    problems: tuple[BatchProblem, ...] = ()
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return self.status in OVER

    @property
    def written(self) -> bool:
        """Whether every line is in the output of a batch that runs no more lines."""
        return self.ending is not None and sum(self.counts) == self.total

    def validated(self, total: int, problems: Iterable[BatchProblem], now: int) -> "Batch":
        """Its file was read: it fails, or its lines can be run."""
        if found := tuple(problems):
            return self._to(BatchStatus.FAILED, now, problems=found[:MOST_PROBLEMS])
        return self._to(BatchStatus.IN_PROGRESS, now, total=total)

    def failed(self, problem: BatchProblem, now: int) -> "Batch":
        """It cannot go on."""
        return self._to(BatchStatus.FAILED, now, problems=(problem,))

    def ended(self, ending: Ending, counts: Counts, now: int) -> "Batch":
        """No more lines are run."""
        status = (
            BatchStatus.CANCELLING if ending is BatchStatus.CANCELLED else BatchStatus.FINALIZING
        )
        return self._to(status, now, ending=ending, counts=counts)

    def finished(self, now: int) -> "Batch":
        """Its files are in their places."""
        if self.ending is None or not self.written:
            raise ValueError(f"a batch that is {self.status} cannot be finished")
        return self._to(self.ending, now)

    def cancelling(self, now: int) -> "Batch":
        """It looks as it will once the router that runs it has seen that it is cancelled."""
        return self._to(BatchStatus.CANCELLING, now) if self.status in CANCELLABLE else self

    def _to(self, status: BatchStatus, now: int, **changes: Any) -> "Batch":
        stamp = f"{status}_at"
        at = {} if getattr(self, stamp) is not None else {stamp: now}
        return self.model_copy(update={"status": status, **at, **changes})


def ending_of(batch: Batch, cancelled: bool, left: int, now: float) -> Ending | None:
    """How a batch that runs ends now; None while it goes on."""
    if cancelled:
        return BatchStatus.CANCELLED
    if not left:
        return BatchStatus.COMPLETED
    return BatchStatus.EXPIRED if now >= batch.expires_at else None


class BatchBody(BaseModel):
    """The body of POST /v1/batches, as it is published."""

    model_config = ConfigDict(
        title="BatchRequest",
        strict=True,
        extra="forbid",
        json_schema_extra={"description": "OpenAI's request for a batch."},
    )

    input_file_id: str = Field(min_length=1, max_length=200, description="A file of POST /v1/files")
    endpoint: str = Field(
        min_length=1,
        max_length=200,
        description="/v1/embeddings; a batch for another endpoint fails.",
    )
    completion_window: str = Field(
        pattern=r"^[1-9][0-9]{0,2}h$", description="1h to 168h: afterwards it expires."
    )
    metadata: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(max_length=64)],
                Annotated[str, StringConstraints(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = Field(None, description="Up to 16 texts of your own, by name.")


FIELDS = tuple(BatchBody.model_fields)


def parse_batch(body: bytes) -> BatchBody:
    """A checked request; raises InvalidJson, UnknownField or InvalidValue."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"the body is not valid JSON: {error.msg}") from None
    if not isinstance(data, dict):
        raise InvalidJson('the body must be a JSON object such as {"input_file_id": "file-..."}')
    for name in data:
        if name not in FIELDS:
            raise UnknownField(name, FIELDS)
    try:
        given = BatchBody.model_validate(data)
    except ValidationError as invalid:
        problem = invalid.errors(include_url=False)[0]
        field = str(problem["loc"][0])
        if problem["type"] == "missing":
            raise InvalidValue(f"{field} is missing", field) from None
        if field == "completion_window":
            raise _wrong_window(data[field]) from None
        message = re.sub(r"^(Input|String) should ", "must ", problem["msg"])
        raise InvalidValue(f"{field}: {message}", field) from None
    window_s(given.completion_window)
    return given


def window_s(window: str) -> int:
    """The seconds of a completion window; raises InvalidValue."""
    found = _WINDOW.fullmatch(window)
    if found is None or int(found[1]) > MOST_HOURS:
        raise _wrong_window(window)
    return int(found[1]) * 3600


def _wrong_window(given: object) -> InvalidValue:
    return InvalidValue(
        f'completion_window must be whole hours, "1h" to "{MOST_HOURS}h", it is '
        f"{shorten(str(given))}",
        "completion_window",
    )


def not_found(kind: str, id: str, then: str, param: str | None = None) -> NotFound:
    """The error for an id: there is no such thing, or it belongs to another key."""
    return _saying(f"there is no {kind} {shorten(id)}; {then}", param)


def switched_off(what: str, key: str) -> NotFound:
    """The error for a path that needs a config key."""
    return _saying(f"{what} are switched off; set `{key}` in the config")


def _saying(message: str, param: str | None = None) -> NotFound:
    error = NotFound("")
    error.message, error.param = message, param
    return error


def wrong_endpoint(endpoint: str) -> BatchProblem | None:
    """Why a batch for this endpoint fails."""
    if endpoint == ENDPOINT:
        return None
    return BatchProblem(
        code="invalid_endpoint",
        message=f"batches are for {ENDPOINT}, not for {shorten(endpoint)}",
        param="endpoint",
    )


class Tries(NamedTuple):
    """How often a line was run in vain: for want of room or a replica, and with an answer that the
    line itself may have caused.
    """

    waits: int = 0
    faults: int = 0


def again(
    status: int, headers: Mapping[str, str], sent: bool, tries: Tries
) -> tuple[float, Tries] | None:
    """The seconds until a line is run again; None where its answer is final.

    What only waits for room, for a limit or for a replica is run until the window ends. An answer
    that the line may have caused is tried a few times: a text that ends its engine must not do so
    for a week.
    """
    if headers.get("x-should-retry") == "false" or status not in (429, *MOST_TRIES):
        return None
    waits, faults = tries
    if status != 429 and (status != 503 or sent):
        faults += 1
        if faults >= MOST_TRIES[status]:
            return None
    else:
        waits += 1
    told_s = float(headers.get("retry-after-ms", 0)) / 1000
    wait_s = min(MOST_WAIT_S, max(told_s, 0.1 * 2.0 ** min(waits + faults, 8)))
    return wait_s, Tries(waits, faults)


_GRANT = TypeAdapter(Grant)


def stored_grant(grant: Grant) -> dict[str, Any]:
    """A key's permissions as JSON has them."""
    found: dict[str, Any] = to_jsonable_python(grant._asdict())
    return found


def grant_of(stored: Mapping[str, Any]) -> Grant:
    """The permissions that were stored; what a later version has added is left out."""
    return _GRANT.validate_python({name: stored[name] for name in Grant._fields if name in stored})
