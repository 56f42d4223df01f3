"""What our log lines carry, and what they leave out."""

import logging
import logging.config
import pickle
from logging.handlers import MemoryHandler
from pathlib import Path

import numpy as np
import pytest

from deployments.dispatch.wire import Call
from deployments.engines.base import Batch, Embedded, EngineDead, EngineError, EngineFailed
from deployments.engines.fake import FakeEngine
from deployments.replica.host import Host
from deployments.telemetry.logs import REQUEST_IDS, ContextFilter, at_once, install, kept, where
from router import engine_config

SECRET = "zq7marigold"


def failing() -> Exception:
    """An error as libraries raise them, the text in all of its parts."""
    try:
        try:
            raise KeyError(f"{SECRET} {len(SECRET)}")
        except KeyError as error:
            raise EngineError(f"cannot embed {SECRET} {len(SECRET)}") from error
    except EngineError as error:
        return error


def test_where_names_types_and_lines_of_the_whole_chain_and_no_message() -> None:
    told = where(failing())
    assert f"{SECRET} 11" not in told
    assert told.index("KeyError") < told.index("which led to") < told.rindex("EngineError")
    assert "test_logs.py" in told


def test_a_library_that_sets_up_logging_leaves_serves_log_where_it_was(tmp_path: Path) -> None:
    file = logging.FileHandler(tmp_path / "replica.log")
    buffered = MemoryHandler(1000, target=file)  # what Serve writes a replica's log with
    log = logging.getLogger("ray.serve")
    log.addHandler(buffered)
    try:
        log.error("before")
        with kept():
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
            assert buffered.target is None  # else there is nothing to undo any more
        log.error("after")
        assert buffered.target is file
        assert (tmp_path / "replica.log").read_text() == "before\nafter\n"
    finally:
        log.removeHandler(buffered)
        file.close()


@pytest.mark.parametrize(("access_log", "written"), [(False, "one\ntwo\n"), (True, "")])
def test_lines_are_in_serves_log_at_once(tmp_path: Path, access_log: bool, written: str) -> None:
    from ray.serve._private.logging_utils import log_access_log_filter

    file = logging.FileHandler(tmp_path / "replica.log")
    buffered = MemoryHandler(1000, logging.ERROR, target=file)
    if not access_log:
        buffered.addFilter(log_access_log_filter)
    log = logging.getLogger("ray.serve")
    level, filters = log.level, log.filters[:]
    log.setLevel(logging.INFO)
    log.addHandler(buffered)
    try:
        install(False)
        log.info("one")
        log.info("two")
        assert (tmp_path / "replica.log").read_text() == written
        log.warning("three")
        assert (tmp_path / "replica.log").read_text() == "one\ntwo\nthree\n"
        log.removeHandler(buffered)
        buffered = MemoryHandler(1000, logging.ERROR, target=file)  # as a new `logging_config` has
        log.addHandler(buffered)
        at_once()
        log.warning("four")
        assert (tmp_path / "replica.log").read_text().endswith("four\n")
    finally:
        log.setLevel(level)
        log.filters[:] = filters
        log.removeHandler(buffered)
        file.close()


def test_where_ends_with_errors_that_cause_each_other() -> None:
    one, other = ValueError("a"), KeyError("b")
    one.__cause__, other.__cause__ = other, one
    assert where(one).count("which led to") == 1


class Failing(FakeEngine):
    """Raises what it is given."""

    def __init__(self, error: Exception) -> None:
        super().__init__(engine_config.FakeEngineConfig(kind="fake"), 4, 100, 100)
        self.error = error

    async def embed(self, batch: Batch) -> Embedded:
        raise self.error


def call() -> Call:
    return Call(None, np.array([1], np.int32), [SECRET], "query", [None], ("request-1",))


@pytest.mark.parametrize(
    "error", [failing(), ValueError(f"no {SECRET}")], ids=["engine-error", "any-other"]
)
async def test_what_leaves_a_replica_has_the_engines_words_only_as_detail(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EngineFailed) as caught:
        await Host(Failing(error), "replica").embed(call())
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert SECRET in caught.value.detail
    assert pickle.loads(pickle.dumps(caught.value)).detail == caught.value.detail
    assert f"{SECRET} 11" not in caplog.text
    assert "the engine failed" in caplog.text


async def test_the_death_of_an_engine_leaves_without_its_causes_which_the_log_has_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dead = EngineDead("it was stopped")
    dead.__cause__ = ValueError(SECRET)
    host = Host(Failing(dead), "replica")
    for _ in range(2):
        with pytest.raises(EngineDead) as caught:
            await host.embed(call())
        assert caught.value.__cause__ is None
    (said,) = caplog.messages
    assert said.startswith(
        "it was stopped; this replica answers no more\nValueError\nwhich led to\n"
    )
    assert SECRET not in said


async def test_an_engine_that_was_told_to_stop_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = Host(Failing(EngineDead("the engine was stopped")), "replica")
    await host.stop()
    with pytest.raises(EngineDead):
        await host.embed(call())
    assert not caplog.messages


def test_records_carry_the_requests_whose_work_is_done() -> None:
    record = logging.LogRecord("ray.serve", logging.ERROR, "", 1, "message", None, None)
    assert ContextFilter(traced=False).filter(record)
    assert "request_ids" not in record.__dict__
    token = REQUEST_IDS.set(("a", "b"))
    assert ContextFilter(traced=True).filter(record)
    REQUEST_IDS.reset(token)
    assert record.__dict__["request_ids"] == ("a", "b")
    assert "trace_id" not in record.__dict__
