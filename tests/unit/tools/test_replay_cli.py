"""`embedding-router replay`: what it skips, refuses and says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from deployments.tools.replay_cli import main
from tests.support.decision_entries import ENGLISH, MODELS, TIERS, entry, written


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
