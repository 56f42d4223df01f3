"""The file of the decision log, which routers share, rotate and may find full."""

import asyncio
import errno
import json
import os
from pathlib import Path

import pytest

from deployments.service.decision_log import DecisionLog, open_log
from router import config
from router.decision_log import ANSWERED, read
from router.errors import BudgetUnreachable
from router.replay import replay
from router.schema import parse
from router.strict import parse_args
from tests.support.decision_entries import context, entry, whole
from tests.support.local_service import ARGS, LocalRouter
from tests.support.waiting import wait_for


def test_a_log_is_written_whole_and_rotates(tmp_path: Path) -> None:
    path, one = tmp_path / "new" / "decisions.jsonl", entry()
    log = DecisionLog(path, 20_000, "r")
    for _ in range(60):
        log.add(context(), one)
    log.close()
    older = path.with_name("decisions.jsonl.1")
    assert 20_000 <= older.stat().st_size <= 25_000
    for file in (older, path):
        assert all(logged.entry == one for logged in whole(file))


def test_two_routers_may_write_one_file(tmp_path: Path) -> None:
    path, same = tmp_path / "log", context()
    logs = [DecisionLog(path, 10**9, name) for name in "ab"]
    for _ in range(200):
        for log in logs:
            log.add(same, entry())
    for log in logs:
        log.close()
    assert len(whole(path)) == 400


def test_when_one_router_rotates_the_other_follows(tmp_path: Path) -> None:
    path, same = tmp_path / "log", context()
    for turn in range(30):
        log = DecisionLog(path, 8_000, str(turn))
        other = DecisionLog(path, 8_000, f"other {turn}")
        for _ in range(4):
            log.add(same, entry())
            other.add(same, entry())
        log.close()
        other.close()
    assert len(whole(path)) > 0
    assert path.stat().st_size + path.with_name("log.1").stat().st_size < 2 * 8_000 + 12_000


def test_requests_that_are_not_written_are_counted(tmp_path: Path) -> None:
    path, same, one, added = tmp_path / "log", context(), entry(), 1050
    log = DecisionLog(path, 10**9, "r", max_waiting=1000)
    for _ in range(added):
        log.add(same, one)
    log.close()
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    kinds = [record["kind"] for record in records]
    assert (
        kinds.count("request")
        + sum(record["requests"] for record in records if record["kind"] == "lost")
        == added
    )


def test_a_log_that_can_no_longer_be_written_does_not_fill_the_memory(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log", 1, "r")
    log.add(context(), entry())
    (tmp_path / "log").unlink()
    (tmp_path / "log").mkdir()  # the next file cannot be opened
    log.add(context(), entry())
    log.close()
    log.add(context(), entry())
    assert not log.waiting
    assert log.lost > 0
    assert log.failures > 0


class Disk:
    """A disk with so many bytes left; a write that does not fit is cut, as the kernel does it."""

    def __init__(self, left: int) -> None:
        self.left, self.others = left, b""

    def write(self, file: int, data: bytes) -> int:
        if self.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(file, data[: self.left])
        self.left -= written
        if written < len(data) and self.others:
            with Path(f"/proc/self/fd/{file}").open("ab") as other:
                other.write(self.others)
        return written


@pytest.mark.parametrize("left", [0, 1, 100, 1500, 4000, 7777])
def test_a_full_disk_leaves_no_half_line_and_the_log_goes_on(tmp_path: Path, left: int) -> None:
    path, disk, same = tmp_path / "log", Disk(left), context()
    log = DecisionLog(path, 10**9, "r", disk.write)
    for _ in range(20):
        log.add(same, entry())
    wait_for(lambda: log.failures > 1, "two failed writes")
    assert path.read_bytes()[-1:] in (b"", b"\n")
    disk.left = 10**9
    wait_for(lambda: not log.waiting, "the log to be written again")
    log.add(same, entry())
    log.close()
    assert len(whole(path)) == 21
    assert log.lost == 0
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_half_a_line_before_another_routers_is_one_broken_line(tmp_path: Path) -> None:
    path, disk, same = tmp_path / "log", Disk(10**9), context()
    other = DecisionLog(path, 10**9, "other")
    other.add(same, entry())
    other.close()
    disk.left, disk.others = 30, path.read_bytes()
    log = DecisionLog(path, 10**9, "r", disk.write)
    log.add(same, entry())
    wait_for(lambda: log.failures > 0, "a failed write")
    disk.left = 10**9
    log.close()
    broken = list[int]()
    with path.open("rb") as lines:
        found = list(read(lines, broken.append))
    assert len(broken) == 1
    assert len(found) == 3


@pytest.mark.models
def test_a_service_logs_what_it_decided_and_never_the_text(tmp_path: Path) -> None:
    async def serve() -> None:
        router = LocalRouter(parse_args(ARGS))
        await router.start()
        service = router.service
        service.log = open_log(config.DecisionLogConfig(path="decisions.jsonl"), str(tmp_path))
        for body in (
            {"input": "where is the secret word", "model": "fast"},
            {"input": ["secret", "two"], "latency_budget_ms": 500},
            {"input": "ein secret", "language": "de"},
        ):
            await service.embed(parse(json.dumps(body).encode(), {}, service.args.limits))
        hurried = {"input": "secret", "latency_budget_ms": 0.0001, "on_budget_miss": "reject"}
        with pytest.raises(BudgetUnreachable):
            await service.embed(parse(json.dumps(hurried).encode(), {}, service.args.limits))
        service.log.close()
        await router.stop()

    asyncio.run(serve())
    path = tmp_path / "decisions.jsonl"
    assert b"secret" not in path.read_bytes()
    log = whole(path)
    assert [one.entry.outcome for one in log] == [
        ANSWERED,
        ANSWERED,
        ANSWERED,
        "budget_unreachable",
    ]
    assert all((one.entry.actual_s or 0) > 0 for one in log if one.entry.outcome == ANSWERED)
    assert replay(log).changed == 0
