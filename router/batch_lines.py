"""The lines of a batch's input file and of its output."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from router.batches import ENDPOINT, MAX_PROBLEMS, NOT_RUN, BatchProblem, Ending
from router.body_errors import dumped
from router.errors import InvalidJson, shorten

METHOD = "POST"
MAX_LINES = 50_000
MAX_ID_CHARACTERS = 512  # of a custom_id
_RESULT = re.compile(rb'\{"id":"batch_req_([0-9]+)"')


class BadLine(ValueError):
    """An invalid line of the input file: the batch fails."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param

    def at(self, line: int) -> BatchProblem:
        """The entry for `errors.data`."""
        return BatchProblem(code=self.code, message=self.message, line=line, param=self.param)


def read_line(raw: bytes) -> tuple[str, dict[str, Any]]:
    """Return the `custom_id` and the body of one line. Raises BadLine for its first fault."""
    data = _object(raw)
    for fault in _faults(data):
        raise fault
    return data["custom_id"], data["body"]


def _object(raw: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadLine("invalid_json_line", f"the line is not valid JSON: {error.msg}") from None
    if not isinstance(data, dict):
        raise BadLine("invalid_json_line", "the line must be a JSON object")
    return data


def _faults(data: Mapping[str, Any]) -> Iterator[BadLine]:
    """Yield each fault of a line, apart from those of the request in its body."""
    if not _is_id(data.get("custom_id")):
        yield BadLine(
            "invalid_custom_id",
            f"custom_id must be a string of 1 to {MAX_ID_CHARACTERS} characters",
            "custom_id",
        )
    if data.get("method") != METHOD:
        yield BadLine("invalid_method", f'method must be "{METHOD}"', "method")
    if data.get("url") != ENDPOINT:
        yield BadLine("invalid_url", f'url must be "{ENDPOINT}", the endpoint of the batch', "url")
    body = data.get("body")
    if not isinstance(body, dict):
        yield BadLine(
            "invalid_body", f"body must be the JSON object of a {ENDPOINT} request", "body"
        )
        return
    try:
        dumped(body)
    except InvalidJson as error:
        yield BadLine("invalid_body", error.message, "body")


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_ID_CHARACTERS


def bulk(body: Mapping[str, Any]) -> bytes:
    """The body of a line with its priority set to bulk, whatever the line contains."""
    return orjson.dumps({**body, "priority": "bulk"})


def texts_in(body: Mapping[str, Any]) -> int:
    """Estimate the number of vectors in the answer to a line."""
    value = body.get("input")
    return len(value) if isinstance(value, list) and value and not isinstance(value[0], int) else 1


class Validation:
    """The validation of an input file; call `add` for each line that is not blank."""

    def __init__(self) -> None:
        self.total = 0
        self.problems: list[BatchProblem] = []
        self._ids: dict[str, int] = {}

    @property
    def enough(self) -> bool:
        """Whether the rest of the file can be skipped."""
        return self.total > MAX_LINES or len(self.problems) >= MAX_PROBLEMS

    def add(self, line: int, raw: bytes, max_bytes: int) -> None:
        """Check one more line; `line` counts from 1."""
        self.total += 1
        if self.total > MAX_LINES:
            self.problems = [
                BatchProblem(
                    code="too_many_lines",
                    message=f"the file has more than {MAX_LINES} lines; make several batches",
                    line=line,
                )
            ]
            return
        try:
            if len(raw) > max_bytes:
                raise BadLine(
                    "line_too_large",
                    f"the line is longer than {max_bytes} bytes (limits.max_body_bytes); send its "
                    "texts in several lines",
                )
            data = _object(raw)
        except BadLine as bad:
            self.problems.append(bad.at(line))
            return
        self.problems += [fault.at(line) for fault in _faults(data)]
        custom_id = data.get("custom_id", "")
        if _is_id(custom_id) and (first := self._ids.setdefault(custom_id, line)) != line:
            duplicate = BadLine(
                "duplicate_custom_id",
                f"custom_id {shorten(custom_id)} is also that of line {first}; give each line "
                "its own",
                "custom_id",
            )
            self.problems.append(duplicate.at(line))

    def end(self) -> None:
        """Finish: a file without lines is a problem."""
        if not self.total:
            self.problems.append(
                BatchProblem(code="empty_file", message="the input file has no lines")
            )


def answered_line(number: int, custom_id: str, status: int, request_id: str, body: bytes) -> bytes:
    """The output line of one answer; `body` is JSON without a line break."""
    return _opening(
        number, custom_id
    ) + b'"response":{"status_code":%d,"request_id":%s,"body":%s},"error":null}\n' % (
        status,
        orjson.dumps(request_id),
        body,
    )


def not_run_line(number: int, custom_id: str, ending: Ending) -> bytes:
    """The output line of a request that was not run before its batch ended."""
    code, message = NOT_RUN[ending]
    error = orjson.dumps({"code": code, "message": message})
    return _opening(number, custom_id) + b'"response":null,"error":%s}\n' % error


def _opening(number: int, custom_id: str) -> bytes:
    return b'{"id":"batch_req_%d","custom_id":%s,' % (number, orjson.dumps(custom_id))


def number_of(result: bytes) -> int | None:
    """The number of an output line; None if it is incomplete or not an output line."""
    found = _RESULT.match(result)
    if found is None or not result.endswith(b"}\n"):
        return None
    try:
        orjson.loads(result)
    except orjson.JSONDecodeError:
        return None
    return int(found[1])
