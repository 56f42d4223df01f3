"""The decision log and its replay: what was decided can be decided again, exactly, and under
another policy otherwise.
"""

import asyncio
import errno
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from deployments.service.decision_log import DecisionLog, open_log
from deployments.tools.replay_cli import main
from router import config
from router.decision_log import (
    ANSWERED,
    DecisionContext,
    LogEntry,
    LogError,
    Logged,
    entry_line,
    lost_line,
    read,
    setting_line,
)
from router.domain import Curve, Features, Load, Model, OnMiss, Reason, Request, Tier, Work
from router.errors import BudgetUnreachable
from router.policy import decide
from router.replay import REFUSED, Other, redecide, replay
from router.routing_config import RoutingConfig
from router.rules import Floor, Policy
from router.schema import parse
from router.strict import parse_args
from tests.support.local_service import ARGS, LocalRouter
from tests.support.waiting import wait_for

TIERS = {Tier.FAST: "small", Tier.BALANCED: "middle", Tier.BEST: "large"}
MODELS = {
    name: Model(
        name,
        rank,
        512,
        Curve(0.001 * 4**rank, 0.0, 1e-5 * 4**rank, 1e-9, 2048, 0.002),
        {"en": 60.0 + rank, "default": 50.0},
    )
    for rank, name in enumerate(TIERS.values())
}
POLICY = Policy(
    "middle",
    (
        Floor("foreign", "large", not_languages=frozenset({"en"})),
        Floor("long", "large", min_tokens=200),
    ),
)
ENGLISH = Features(40, "en", "Latn", False, False)


def context(policy: Policy = POLICY) -> DecisionContext:
    return DecisionContext(MODELS, policy, TIERS, False, None)


def entry(
    features: Features = ENGLISH,
    tokens: int = 10,
    budget_s: float | None = None,
    target: str | None = None,
    tier: Tier | None = Tier.AUTO,
    loads: Mapping[str, Load] | None = None,
    policy: Policy = POLICY,
    models: Mapping[str, Model] = MODELS,
    on_miss: OnMiss = OnMiss.DEGRADE,
    actual_s: float | None = 0.01,
) -> LogEntry:
    """A request that arrived at 100 and was decided a millisecond later."""
    request = Request(
        dict.fromkeys(models, Work(tokens, tokens, tokens * tokens)),
        features,
        None if budget_s is None else 100.0 + budget_s,
        target,
        on_miss=on_miss,
    )
    given_loads = loads or dict.fromkeys(models, Load())
    decision = decide(policy, request, models, given_loads, 100.001)
    return LogEntry(
        0.0,
        100.0,
        100.001,
        request,
        tier,
        budget_s is not None,
        models,
        given_loads,
        decision,
        ANSWERED,
        actual_s,
    )


def written(*entries: LogEntry, of: DecisionContext | None = None) -> list[bytes]:
    return [
        setting_line(of or context(), "r"),
        *(entry_line(each, of or context(), "r") for each in entries),
    ]


some_loads = st.fixed_dictionaries(
    {
        name: st.builds(
            Load,
            st.integers(0, 3),
            st.integers(0, 10**6),
            st.floats(0, 1),
            st.floats(0.5, 100),
            st.none() | st.floats(0, 90),
            st.floats(0.1, 10),
            st.lists(st.floats(0, 9), max_size=2).map(tuple),
            st.floats(1, 10),
        )
        for name in MODELS
    }
)


@given(
    loads=some_loads,
    budget_s=st.none() | st.floats(0.0001, 5),
    tokens=st.integers(1, 600),
    language=st.sampled_from([None, "en", "de"]),
    target=st.sampled_from([None, *MODELS]),
    on_miss=st.sampled_from(OnMiss),
    factor=st.floats(0.01, 100),
)
def test_any_logged_request_is_read_as_it_was_and_decided_as_it_was(
    loads: dict[str, Load],
    budget_s: float | None,
    tokens: int,
    language: str | None,
    target: str | None,
    on_miss: OnMiss,
    factor: float,
) -> None:
    learned = {
        **MODELS,
        "large": replace(
            MODELS["large"], curve=replace(MODELS["large"].curve, base_s=0.003 * factor)
        ),
    }
    made = entry(
        replace(ENGLISH, language=language),
        tokens,
        budget_s,
        target,
        loads=loads,
        models=learned,
        on_miss=on_miss,
    )
    [logged] = read(written(made, of=context()))
    assert logged == Logged(context(), made)
    assert redecide(logged) == made.decision
    assert replay([logged]).changed == 0


def test_what_an_adapter_makes_of_a_model_travels_with_the_request() -> None:
    as_seen = {**MODELS, "small": replace(MODELS["small"], rank=7, quality={"en": 12.0})}
    [logged] = read(written(entry(models=as_seen)))
    assert logged.entry.models == as_seen
    assert logged.context.models == MODELS


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([b"{}\n"], "line 1 .*'kind' is missing"),
        ([b"no json\n"], "line 1 "),
        ([*written(entry()), b'{"kind":"other","router":"r"}\n'], "line 3 .*no kind 'other'"),
        (written(entry())[1:], "line 1 .*its setting is missing"),
        (
            [written()[0].replace(b'"format":1', b'"format":2')],
            "its format is 2, this version reads 1",
        ),
        (
            [written()[0].replace(b'"policy":{', b'"policy":{"kind":"priced",')],
            "line 1 .*`policy: priced`, which was removed in 0.2",
        ),
    ],
    ids=["not a record", "not JSON", "unknown kind", "no setting", "a later format", "priced"],
)
def test_a_line_that_is_not_of_a_log_is_named(lines: list[bytes], why: str) -> None:
    with pytest.raises(LogError, match=why):
        list(read(lines))


def test_a_last_line_that_was_cut_short_is_passed_over() -> None:
    lines = written(entry(), entry())
    assert len(list(read([*lines[:-1], lines[-1][:40]]))) == 1


def test_routers_that_share_a_file_keep_their_own_settings() -> None:
    other = context(replace(POLICY, default="large"))
    lines = [
        setting_line(context(), "a"),
        setting_line(other, "b"),
        entry_line(entry(), context(), "a"),
        entry_line(entry(policy=other.policy), other, "b"),
        lost_line(3, "a"),
    ]
    assert [logged.context.policy.default for logged in read(lines)] == ["middle", "large"]
    assert replay(read(lines)).changed == 0


def test_another_policy_moves_the_requests_that_its_rules_catch() -> None:
    log = list(read(written(entry(), entry(replace(ENGLISH, language="de")), entry(tokens=300))))
    summary = replay(log, Other(RoutingConfig.model_validate({"default_tier": "fast"})))
    assert summary.before.models == {"large": 2, "middle": 1}
    assert summary.after.models == {"small": 3}
    assert summary.moved == {("large", "small"): {"auto": 2}, ("middle", "small"): {"auto": 1}}
    assert summary.before.quality == pytest.approx((61 + 50 + 62) / 3)
    assert summary.after.quality == pytest.approx((60 + 50 + 60) / 3)
    assert summary.after.p95_s is not None
    assert summary.before.p95_s is not None
    assert summary.after.p95_s < summary.before.p95_s


def mixed_log() -> list[LogEntry]:
    """Three English requests, two Chinese ones and one mixed; `large` is better outside English."""
    models = {
        name: replace(model, quality={"en": 80.0, "default": 40.0 + 10.0 * model.rank})
        for name, model in MODELS.items()
    }
    chinese = replace(ENGLISH, language="zh", script="Hani")
    foreign = [chinese, chinese, replace(ENGLISH, language=None, script="Hani", mixed=True)]
    return [entry(each, models=models) for each in (ENGLISH, ENGLISH, ENGLISH, *foreign)]


def test_replay_says_which_languages_and_scripts_move_and_where_quality_falls() -> None:
    log = [Logged(context(), each) for each in mixed_log()]
    summary = replay(log, Other(RoutingConfig.model_validate({"default_tier": "balanced"})))
    found = {(one.dimension, one.value): one for one in summary.slices}
    # the mixed text has no language, so `foreign` never raised it: it does not move
    assert set(found) == {("language", "zh"), ("script", "Hani")}
    assert found["language", "zh"][2:] == (2, 2, 60.0, 50.0)
    assert found["script", "Hani"][2:4] == (3, 2)
    assert found["script", "Hani"].quality_before == pytest.approx(170 / 3)
    assert found["script", "Hani"].quality_after == 50.0
    assert all(one.falls for one in summary.slices)
    assert [one["falls"] for one in summary.as_dict()["slices"]] == [True, True]


def test_replay_warns_where_quality_falls_and_only_there(tmp_path: Path) -> None:
    log, policy = tmp_path / "log.jsonl", tmp_path / "routing.yaml"
    log.write_bytes(b"".join(line + b"\n" for line in written(*mixed_log())))
    policy.write_text("routing: {default_tier: balanced}\n")
    told = CliRunner().invoke(main, [str(log), "--policy", str(policy)])
    assert told.exit_code == 0, told.output
    assert (
        "warning: by the config's figures quality falls for Chinese 60.00 -> 50.00, Han script "
        "56.67 -> 50.00" in told.output
    )
    policy.write_text("routing: {default_tier: best}\n")
    better = CliRunner().invoke(main, [str(log), "--policy", str(policy)])
    assert "English" in better.output
    assert "warning" not in better.output


def test_a_default_budget_counts_for_those_who_gave_none_and_only_for_them() -> None:
    log = list(
        read(
            written(
                entry(replace(ENGLISH, language="de")),
                entry(replace(ENGLISH, language="de"), budget_s=1.0),
            )
        )
    )
    rules = {
        "rules": [{"name": "foreign", "when": {"not_languages": ["en"]}, "floor": "best"}],
        "default_tier": "balanced",
    }
    summary = replay(log, Other(RoutingConfig.model_validate({**rules, "default_budget_ms": 10})))
    assert summary.moved == {("large", "middle"): {"budget": 1}}


def test_an_explicit_tier_follows_the_tiers_of_the_other_policy() -> None:
    log = list(read(written(entry(target="large", tier=Tier.BEST))))
    other = Other(RoutingConfig(), {Tier.FAST: "small", Tier.BEST: "middle"})
    assert redecide(log[0], other.context(log[0].context)).model == "middle"
    strict = Other(RoutingConfig(strict_tiers=True)).context(log[0].context)
    tight = Logged(log[0].context, log[0].entry._replace(
        request=log[0].entry.request._replace(deadline_s=100.002), own_budget=True,
    ))  # fmt: skip
    assert redecide(tight).model == "small"
    assert redecide(tight, strict).model == "large"


def test_refusals_and_misses_are_counted() -> None:
    refused = entry(budget_s=0.0001, on_miss=OnMiss.REJECT, actual_s=None)._replace(
        outcome="budget_unreachable"
    )
    log = [refused, entry(budget_s=0.005, actual_s=0.2), entry()]
    summary = replay([Logged(context(), each) for each in log])
    assert refused.decision.reason is Reason.OVER_BUDGET
    assert summary.before.models == {"middle": 1, REFUSED: 1, "small": 1}
    assert summary.before.misses == 1
    assert summary.measured.misses == 1
    assert summary.budgets == 2


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (
            Other(RoutingConfig(), {Tier.FAST: "huge"}),
            "'huge'; the models of the log are small, middle, large",
        ),
        (
            Other(RoutingConfig.model_validate({"default_tier": "best"}), {Tier.FAST: "small"}),
            "tier 'best'; the tiers are fast",
        ),
    ],
    ids=["a model that the log does not know", "a tier that is not mapped"],
)
def test_a_policy_for_other_models_is_refused(other: Other, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        replay([Logged(context(), entry())], other)


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


def whole(path: Path) -> list[Logged]:
    with path.open("rb") as lines:
        return list(read(lines))


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
    log = DecisionLog(path, 10**9, "r", most_waiting=1000)
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


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(b"".join(written(entry(), entry(replace(ENGLISH, language="de")))))
    return path


@pytest.mark.parametrize("broken", [b'{"kind": "requ\n', b"\x00\x00\n", b"\xff\n"])
def test_the_command_skips_a_broken_line_and_says_which(logged: Path, broken: bytes) -> None:
    lines = logged.read_bytes().splitlines(keepends=True)
    logged.write_bytes(b"".join([*lines[:2], broken, *lines[2:]]))
    told = CliRunner().invoke(main, [str(logged)])
    assert told.exit_code == 0, told.output
    assert "2 requests" in told.output
    assert "skipped broken line 3" in told.stderr


def test_requests_whose_setting_is_in_a_broken_line_are_skipped_too(logged: Path) -> None:
    own = [line.replace(b'"router":"r"', b'"router":"s"') for line in written(entry())]
    logged.write_bytes(logged.read_bytes() + own[0][:50] + b"\n" + own[1])
    told = CliRunner().invoke(main, [str(logged)])
    assert told.exit_code == 0, told.output
    assert "2 requests" in told.output
    assert "skipped broken lines 4, 5" in told.stderr


def test_what_is_no_log_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("hello\n")
    told = CliRunner().invoke(main, [str(tmp_path / "notes")])
    assert told.exit_code == 1
    assert "line 1 is not of a decision log" in told.output


def test_the_command_says_that_nothing_moves_under_the_same_policy(logged: Path) -> None:
    told = CliRunner().invoke(main, [str(logged)])
    assert told.exit_code == 0, told.output
    assert "2 requests" in told.output
    assert "every request goes where it went, for the same reason" in told.output


def test_the_command_fails_when_this_version_decides_otherwise(logged: Path) -> None:
    logged.write_bytes(logged.read_bytes().replace(b'"reason":"auto"', b'"reason":"tier"'))
    told = CliRunner().invoke(main, [str(logged)])
    assert told.exit_code == 1
    assert "1 decisions differ" in told.output


@pytest.mark.parametrize("whole", [False, True], ids=["a policy alone", "a whole config"])
def test_the_command_reads_another_policy(logged: Path, tmp_path: Path, whole: bool) -> None:
    routing = {"default_tier": "fast", "rules": []}
    policy: dict[str, object] = {"routing": routing}
    if whole:
        fake = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 512}
        policy = {
            "applications": [
                {
                    "name": "a",
                    "import_path": "deployments.app:build",
                    "args": {
                        "models": dict.fromkeys(MODELS, fake),
                        "tiers": {str(tier): model for tier, model in TIERS.items()},
                        **policy,
                    },
                }
            ]
        }
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(policy, sort_keys=False))
    told = CliRunner().invoke(main, [str(logged), "--policy", str(other), "--json"])
    assert told.exit_code == 0, told.output
    assert [(one["from"], one["to"]) for one in json.loads(told.output)["moved"]] == [
        ("middle", "small"),
        ("large", "small"),
    ]
    assert (
        "middle -> small: 1 (1 auto)"
        in CliRunner().invoke(main, [str(logged), "--policy", str(other)]).output
    )


def test_a_policy_with_an_unknown_key_is_refused_by_name(logged: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("routing: {default_teir: fast}")
    told = CliRunner().invoke(main, [str(logged), "--policy", str(other)])
    assert told.exit_code == 1
    assert "default_teir" in str(told.exception)


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
