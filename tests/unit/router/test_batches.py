"""The life of a batch as values: what its file may hold, its states, and what is left after any
kill.
"""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import batch_lines
from router.batch_lines import (
    MAX_LINES,
    BadLine,
    Validation,
    answered_line,
    bulk,
    not_run_line,
    number_of,
    read_line,
    texts_in,
)
from router.batch_objects import shown
from router.batches import (
    CANCELLABLE,
    MAX_PROBLEMS,
    MAX_WAIT_S,
    OVER,
    BatchProblem,
    BatchStatus,
    Counts,
    StoredBatch,
    Tries,
    again,
    ending_of,
    grant_of,
    parse_batch,
    stored_grant,
    window_s,
    wrong_endpoint,
)
from router.errors import InvalidJson, InvalidValue, UnknownField
from router.key_config import KeyDefaults
from router.keys import EVERYTHING, Grant

NEW = StoredBatch(
    id="batch_1",
    grant=stored_grant(EVERYTHING),
    endpoint="/v1/embeddings",
    input_file_id="file-1",
    completion_window="1h",
    created_at=1000,
    expires_at=4600,
    output_id="file-2",
    error_id="file-3",
)
GOOD = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"input": "x"}}
REQUEST = {
    "input_file_id": "file-1",
    "endpoint": "/v1/embeddings",
    "completion_window": "24h",
}


def line(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def validated(*lines: bytes, max_bytes: int = 1000) -> Validation:
    found = Validation()
    for number, raw in enumerate(lines, 1):
        found.add(number, raw, max_bytes)
    found.end()
    return found


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"{", "invalid_json_line"),
        (b"[]", "invalid_json_line"),
        (b"\xff", "invalid_json_line"),
        (b'"text"', "invalid_json_line"),
        (line(custom_id=None), "invalid_custom_id"),
        (line(custom_id=""), "invalid_custom_id"),
        (line(custom_id=7), "invalid_custom_id"),
        (line(custom_id="a" * 513), "invalid_custom_id"),
        (line(method="GET"), "invalid_method"),
        (line(method=None), "invalid_method"),
        (line(url="/v1/chat/completions"), "invalid_url"),
        (line(url=None), "invalid_url"),
        (line(body=None), "invalid_body"),
        (line(body=[]), "invalid_body"),
        (
            line(body={"input": "a", "user": json.loads("[" * 400 + "]" * 400)}),
            "invalid_body",
        ),
    ],
    ids=lambda value: str(value)[:80],
)
def test_a_line_that_cannot_be_run_is_refused_with_a_code(raw: bytes, code: str) -> None:
    with pytest.raises(BadLine) as bad:
        read_line(raw)
    assert bad.value.code == code
    found = validated(line(custom_id="good"), raw)
    assert [(problem.line, problem.code) for problem in found.problems] == [(2, code)]


def test_all_faults_of_a_line_are_said() -> None:
    bad = {"custom_id": 7, "method": "GET", "url": "/v1/rerank", "body": []}
    found = validated(line(), json.dumps(bad).encode(), line(method="PUT"))
    assert [(problem.line, problem.code, problem.param) for problem in found.problems] == [
        (2, "invalid_custom_id", "custom_id"),
        (2, "invalid_method", "method"),
        (2, "invalid_url", "url"),
        (2, "invalid_body", "body"),
        (3, "invalid_method", "method"),
        (3, "duplicate_custom_id", "custom_id"),
    ]


def test_a_custom_id_stands_once() -> None:
    found = validated(line(), line(custom_id="b"), line())
    (problem,) = found.problems
    assert (problem.line, problem.code) == (3, "duplicate_custom_id")
    assert "line 1" in problem.message


def test_a_file_needs_lines_and_may_have_50000() -> None:
    assert [problem.code for problem in validated().problems] == ["empty_file"]
    found = Validation()
    for number in range(MAX_LINES):
        found.add(number + 1, line(custom_id=str(number)), 1000)
    assert (found.problems, found.enough) == ([], False)
    found.add(MAX_LINES + 1, line(custom_id="more"), 1000)
    assert ([one.code for one in found.problems], found.enough) == (["too_many_lines"], True)


def test_a_long_line_and_a_bad_file_are_not_read_on() -> None:
    assert [one.code for one in validated(line(), max_bytes=10).problems] == ["line_too_large"]
    assert validated(*[b"{"] * MAX_PROBLEMS).enough
    assert not validated(*[b"{"] * (MAX_PROBLEMS - 1)).enough
    batch = NEW.validated(200, validated(*[b"{"] * 200).problems, 5)
    assert len(batch.problems) == MAX_PROBLEMS


def test_a_line_is_run_as_bulk_whatever_it_says() -> None:
    assert json.loads(bulk({"input": "a", "priority": "interactive"})) == {
        "input": "a",
        "priority": "bulk",
    }
    assert [texts_in({"input": value}) for value in ("a", ["a", "b"], [1, 2], [[1], [2]], [])] == [
        1,
        2,
        1,
        2,
        1,
    ]


@given(st.integers(1, 50_000), st.text(min_size=1, max_size=40), st.integers(100, 599))
def test_a_line_of_output_is_whole_or_it_is_none(number: int, custom_id: str, status: int) -> None:
    body = json.dumps({"text": custom_id}).encode()
    for row in (
        answered_line(number, custom_id, status, "abc", body),
        not_run_line(number, custom_id, BatchStatus.EXPIRED),
    ):
        assert number_of(row) == number
        assert json.loads(row)["custom_id"] == custom_id
        assert set(json.loads(row)) == {"id", "custom_id", "response", "error"}
        assert all(number_of(row[:end]) is None for end in range(len(row)))
        assert number_of(b"\0" * len(row)) is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"input_file_id": None}, "input_file_id"),
        ({"input_file_id": 5}, "input_file_id"),
        ({"endpoint": None}, "endpoint"),
        ({"completion_window": None}, "completion_window"),
        ({"completion_window": "0h"}, "completion_window"),
        ({"completion_window": "169h"}, "completion_window"),
        ({"completion_window": "1d"}, "completion_window"),
        ({"completion_window": 24}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a" * 65: "b"}}, "metadata"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ],
    ids=str,
)
def test_a_request_for_a_batch_is_checked(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValue) as wrong:
        parse_batch(json.dumps({**REQUEST, **changes}).encode())
    assert wrong.value.param == field


def test_a_request_for_a_batch_is_openais() -> None:
    body, _ = parse_batch(json.dumps({**REQUEST, "metadata": {"a": "b"}}).encode())
    assert (body.completion_window, body.metadata) == ("24h", {"a": "b"})
    for raw in (b"", b"[]", b"{"):
        with pytest.raises(InvalidJson):
            parse_batch(raw)
    with pytest.raises(UnknownField, match="completion_window"):
        parse_batch(json.dumps({**REQUEST, "completion_windo": "1h"}).encode())
    assert [window_s(one) for one in ("1h", "24h", "168h")] == [3600, 86_400, 604_800]


def test_another_endpoint_fails() -> None:
    assert wrong_endpoint("/v1/embeddings") is None
    problem = wrong_endpoint("/v1/responses")
    assert problem is not None
    batch = NEW.validated(0, [problem], 7)
    assert (batch.status, batch.failed_at, batch.over) == ("failed", 7, True)
    assert json.loads(shown(batch).model_dump_json())["errors"] == {
        "object": "list",
        "data": [problem.model_dump()],
    }


def test_permissions_are_stored_whole_and_a_later_versions_are_read() -> None:
    defaults, ignored = KeyDefaults(space="docs"), ("temperature",)
    grant = Grant(
        "a", frozenset({"small"}), frozenset(), ("bulk",), 3, None, True, defaults, ignored
    )
    stored = json.loads(json.dumps(stored_grant(grant)))
    assert grant_of(stored) == grant
    assert grant_of({**stored, "of_a_later_version": 1}) == grant


@pytest.mark.parametrize(
    ("status", "sent", "tries"),
    [(429, False, None), (503, False, None), (503, True, 5), (500, False, 3), (504, False, 5)],
)
def test_a_line_waits_for_room_but_does_not_end_replicas_for_ever(
    status: int, sent: bool, tries: int | None
) -> None:
    made = Tries()
    for number in range(1, 100):
        later = again(status, {"retry-after-ms": "20"}, sent, made)
        if later is None:
            assert number == tries
            return
        assert 0.02 <= later[0] <= MAX_WAIT_S
        made = later[1]
    assert tries is None


def test_waiting_does_not_use_up_the_tries_of_a_line() -> None:
    made = Tries()
    for _ in range(50):
        later = again(503, {}, False, made)
        assert later is not None
        made = later[1]
    assert again(503, {}, True, made) is not None


@pytest.mark.parametrize("status", [200, 400, 403, 404, 409, 413])
def test_other_answers_are_final(status: int) -> None:
    assert again(status, {}, False, Tries()) is None
    assert again(429, {"x-should-retry": "false"}, False, Tries()) is None


LIFE = {
    BatchStatus.VALIDATING: {BatchStatus.FAILED, BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING},
    BatchStatus.IN_PROGRESS: {BatchStatus.FINALIZING, BatchStatus.CANCELLING},
    BatchStatus.FINALIZING: {BatchStatus.COMPLETED, BatchStatus.EXPIRED},
    BatchStatus.CANCELLING: {BatchStatus.CANCELLED},
}


class Killed(Exception):
    """The router is gone, and with it what was in its memory."""


class Machine:
    """The runner's steps; a router may be killed after each."""

    def __init__(self, kills: set[int], cancel_after: int, late_after: int) -> None:
        self.disk, self.output = NEW, list[bytes]()
        self._kills, self._cancel_after, self._late_after = kills, cancel_after, late_after
        self._moment = 0

    @property
    def cancelled(self) -> bool:
        return self._moment >= self._cancel_after

    @property
    def counts(self) -> Counts:
        errors = sum(b'"status_code":200' not in row for row in self.output)
        return Counts(len(self.output) - errors, errors)

    def left(self, total: int) -> list[int]:
        done = {number_of(row) for row in self.output}
        return [number for number in range(1, total + 1) if number not in done]

    def save(self, batch: StoredBatch) -> None:
        if batch.status is not self.disk.status:
            assert batch.status in LIFE[self.disk.status]
            assert getattr(batch, f"{batch.status}_at") is not None
        self.disk = StoredBatch.model_validate_json(
            batch.model_dump_json()
        )  # as the next one reads it
        assert self.disk == batch
        self.step()

    def write(self, row: bytes) -> None:
        self.output.append(row)
        self.step()

    def step(self) -> None:
        self._moment += 1
        if self._moment in self._kills:
            raise Killed

    def validate(self, total: int, bad: bool) -> None:
        problems = [BatchProblem(code="invalid_url", message="")] if bad else []
        if self.cancelled:
            self.save(self.disk.ended(BatchStatus.CANCELLED, self.disk.counts, 2))
        else:
            self.save(self.disk.validated(total, problems, 2))

    def run(self, failing: set[int]) -> None:
        while self.disk.status is BatchStatus.IN_PROGRESS:
            left = self.left(self.disk.total)
            now = 5000 if self._moment >= self._late_after else 2000
            ending = ending_of(self.disk, self.cancelled, len(left), now)
            if ending is not None:
                self.save(self.disk.ended(ending, self.counts, 3))
            else:
                status = 400 if left[0] in failing else 200
                self.write(answered_line(left[0], f"c{left[0]}", status, "r", b"{}"))

    def finish(self) -> None:
        if self.disk.ending is None or self.disk.over:
            return
        if not self.disk.written:
            for number in self.left(self.disk.total):
                self.write(not_run_line(number, f"c{number}", self.disk.ending))
            self.save(self.disk.model_copy(update={"counts": self.counts}))
        self.save(self.disk.finished(4))


@given(
    total=st.integers(1, 6),
    bad=st.booleans(),
    cancel_after=st.integers(0, 30),
    late_after=st.integers(0, 30),
    kills=st.sets(st.integers(0, 40)),
    failing=st.sets(st.integers(1, 6)),
)
def test_after_any_kills_a_batch_ends_with_every_line_once(
    total: int,
    bad: bool,
    cancel_after: int,
    late_after: int,
    kills: set[int],
    failing: set[int],
) -> None:
    machine = Machine(kills, cancel_after, late_after)
    for _ in range(len(kills) + 1):
        with suppress(Killed):
            if machine.disk.status is BatchStatus.VALIDATING:
                machine.validate(total, bad)
            machine.run(failing)
            machine.finish()
    disk = machine.disk
    assert disk.over
    numbers = sorted(number for row in machine.output if (number := number_of(row)) is not None)
    assert numbers == list(range(1, disk.total + 1))
    told, counts = shown(disk), machine.counts
    assert (told.request_counts.completed, told.request_counts.failed) == counts
    assert (told.output_file_id is None) == (counts.completed == 0)
    assert (told.error_file_id is None) == (counts.failed == 0)


def test_a_cancelled_batch_is_seen_as_cancelling_at_once() -> None:
    for status in BatchStatus:
        batch = NEW.model_copy(update={"status": status})
        seen = shown(batch, 50)
        if status in CANCELLABLE:
            assert (seen.status, seen.cancelling_at) == ("cancelling", 50)
        else:
            assert seen.status == status
    assert {BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS} == CANCELLABLE
    assert not OVER & CANCELLABLE
    with pytest.raises(ValueError, match="cannot be finished"):
        NEW.finished(1)
    assert batch_lines.METHOD == "POST"
