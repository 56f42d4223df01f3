"""The replay of a decision log: what was decided can be decided again, exactly, and under another
policy otherwise.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from deployments.tools.replay_cli import main
from router.decision_log import (
    LogEntry,
    LogError,
    Logged,
    entry_line,
    lost_line,
    read,
    setting_line,
)
from router.domain import Load, OnMiss, Reason, Tier
from router.replay import REFUSED, Other, redecide, replay
from router.routing_config import RoutingConfig
from tests.support.decision_entries import ENGLISH, MODELS, POLICY, context, entry, written

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
