"""The life cycle of a batch of embedding requests, as values.

    validating ──► in_progress ──► finalizing ──► completed
        │               │              └────────► expired      the window ended first
        ▼               └────────► cancelling ──► cancelled
      failed

A batch is stored after every step, and every step can be repeated: if a router dies at any moment,
the next one continues from the stored state. The lines that are done are read from the output
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

from router.body_errors import sentence
from router.errors import InvalidJson, InvalidValue, NotFound, shorten
from router.ignoring import Ignore, unknown
from router.keys import Grant

ENDPOINT = "/v1/embeddings"
MAX_HOURS = 168
MAX_PROBLEMS = 100  # listed by a failed batch
MAX_TRIES = {500: 3, 503: 5, 504: 5}  # for a line that could itself cause the error
MAX_WAIT_S = 30.0  # between two tries
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

# code and message of a line that was not run, by the end of its batch
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
    """A reason why a batch failed, as OpenAI lists it; `line` counts from 1."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Counts(NamedTuple):
    """Finished lines of a batch."""

    completed: int = 0
    failed: int = 0


class StoredBatch(BaseModel):
    """The stored state of one batch.

    The ids of the two output files are fixed from the beginning, so a router that takes over
    finishes the files that another router has begun.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    grant: dict[str, Any]  # the permissions of its key when it was created
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: dict[str, str] | None = None
    address: str = ""  # /in/COLLECTION if it was created there; it applies to the lines
    created_at: int
    expires_at: int
    output_id: str
    error_id: str

    status: BatchStatus = BatchStatus.VALIDATING
    ending: Ending | None = None  # set while finalizing or cancelling
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
        """Whether the batch has reached a final state."""
        return self.status in OVER

    @property
    def written(self) -> bool:
        """Whether the batch runs no more lines and every line is in the output."""
        return self.ending is not None and sum(self.counts) == self.total

    def validated(self, total: int, problems: Iterable[BatchProblem], now: int) -> "StoredBatch":
        """The batch after its file was read: failed, or in progress."""
        if found := tuple(problems):
            return self._to(BatchStatus.FAILED, now, problems=found[:MAX_PROBLEMS])
        return self._to(BatchStatus.IN_PROGRESS, now, total=total)

    def failed(self, problem: BatchProblem, now: int) -> "StoredBatch":
        """The batch after an error that ends it."""
        return self._to(BatchStatus.FAILED, now, problems=(problem,))

    def ended(self, ending: Ending, counts: Counts, now: int) -> "StoredBatch":
        """The batch once it runs no more lines."""
        status = (
            BatchStatus.CANCELLING if ending is BatchStatus.CANCELLED else BatchStatus.FINALIZING
        )
        return self._to(status, now, ending=ending, counts=counts)

    def finished(self, now: int) -> "StoredBatch":
        """The batch after its output files were moved into place.

        Raises ValueError if it has not ended, or if a line is missing from the output.
        """
        if self.ending is None or not self.written:
            raise ValueError(f"a batch that is {self.status} cannot be finished")
        return self._to(self.ending, now)

    def cancelling(self, now: int) -> "StoredBatch":
        """The batch as it will be when the router that runs it has noticed the cancellation."""
        return self._to(BatchStatus.CANCELLING, now) if self.status in CANCELLABLE else self

    def _to(self, status: BatchStatus, now: int, **changes: Any) -> "StoredBatch":
        stamp = f"{status}_at"
        at = {} if getattr(self, stamp) is not None else {stamp: now}
        return self.model_copy(update={"status": status, **at, **changes})


def ending_of(batch: StoredBatch, cancelled: bool, left: int, now: float) -> Ending | None:
    """The way in which a running batch ends now; None while it continues."""
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


def parse_batch(body: bytes, ignore: Ignore = False) -> tuple[BatchBody, tuple[str, ...]]:
    """Parse and check a request, and return it with the unknown fields that were dropped. Raises
    InvalidJson, UnknownField or InvalidValue.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"the body is not valid JSON: {error.msg}") from None
    if not isinstance(data, dict):
        raise InvalidJson('the body must be a JSON object such as {"input_file_id": "file-..."}')
    ignored = unknown((name for name in data if name not in FIELDS), FIELDS, ignore)
    for name in ignored:
        del data[name]
    try:
        given = BatchBody.model_validate(data)
    except ValidationError as invalid:
        problem = invalid.errors(include_url=False)[0]
        field = str(problem["loc"][0])
        if problem["type"] == "missing":
            raise InvalidValue(f"{field} is missing", field) from None
        if field == "completion_window":
            raise _wrong_window(data[field]) from None
        raise InvalidValue(f"{field}: {sentence(problem['msg'])}", field) from None
    window_s(given.completion_window)
    return given, ignored


def window_s(window: str) -> int:
    """The seconds of a completion window. Raises InvalidValue."""
    found = _WINDOW.fullmatch(window)
    if found is None or int(found[1]) > MAX_HOURS:
        raise _wrong_window(window)
    return int(found[1]) * 3600


def _wrong_window(given: object) -> InvalidValue:
    return InvalidValue(
        f'completion_window must be whole hours, "1h" to "{MAX_HOURS}h", it is '
        f"{shorten(str(given))}",
        "completion_window",
    )


def not_found(kind: str, id: str, then: str, param: str | None = None) -> NotFound:
    """The error for an id that does not exist or belongs to another key."""
    return _saying(f"there is no {kind} {shorten(id)}; {then}", param)


def switched_off(what: str, key: str) -> NotFound:
    """The error for a path that needs a config key."""
    return _saying(f"{what} are switched off; set `{key}` in the config")


def _saying(message: str, param: str | None = None) -> NotFound:
    error = NotFound("")
    error.message, error.param = message, param
    return error


def wrong_endpoint(endpoint: str) -> BatchProblem | None:
    """The reason why a batch for this endpoint fails; None if the endpoint is supported."""
    if endpoint == ENDPOINT:
        return None
    return BatchProblem(
        code="invalid_endpoint",
        message=f"batches are for {ENDPOINT}, not for {shorten(endpoint)}",
        param="endpoint",
    )


class Tries(NamedTuple):
    """Failed runs of one line."""

    waits: int = 0  # there was no room or no replica
    faults: int = 0  # with an error that the line itself could have caused


def again(
    status: int, headers: Mapping[str, str], sent: bool, tries: Tries
) -> tuple[float, Tries] | None:
    """The seconds until a line is run again, and its new counts; None if its answer is final.

    A line that only lacks room, a limit or a replica is retried until the window ends. A line that
    could itself have caused the error is retried a few times: a text that crashes its engine must
    not do so for a week.
    """
    if headers.get("x-should-retry") == "false" or status not in (429, *MAX_TRIES):
        return None
    waits, faults = tries
    if status != 429 and (status != 503 or sent):
        faults += 1
        if faults >= MAX_TRIES[status]:
            return None
    else:
        waits += 1
    told_s = float(headers.get("retry-after-ms", 0)) / 1000
    wait_s = min(MAX_WAIT_S, max(told_s, 0.1 * 2.0 ** min(waits + faults, 8)))
    return wait_s, Tries(waits, faults)


_GRANT = TypeAdapter(Grant)


def stored_grant(grant: Grant) -> dict[str, Any]:
    """A key's permissions as JSON values."""
    found: dict[str, Any] = to_jsonable_python(grant._asdict())
    return found


def grant_of(stored: Mapping[str, Any]) -> Grant:
    """Read stored permissions; fields that a later version has added are ignored."""
    return _GRANT.validate_python({name: stored[name] for name in Grant._fields if name in stored})
