"""How a Serve config file is read: what YAML lets pass, and the RayService manifest around it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from deployments.launch.serve_config import ConfigCheck, check, examine
from router.cli import main as cli
from tests.support.serve_file import serve_file


def test_a_file_that_is_no_text_is_one_sentence(tmp_path: Path) -> None:
    for content in (b"\xff\xfe\x00\x00", b"\x8c\xff\x00", b"a: \x00", b"a: '\xc3\x28'"):
        (tmp_path / "binary").write_bytes(content)
        (problem,) = check(tmp_path / "binary")
        assert "\n" not in problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            "a: 1\nb: [1, 2\nc: 3\n",
            "line 3, column 2: while parsing a flow sequence, expected ',' or ']', but got ':'",
            id="open-bracket",
        ),
        pytest.param(
            "a: 1\n\tb: 2\n",
            "line 2, column 1: while scanning for the next token, found character '\\t' that "
            "cannot start any token",
            id="tab",
        ),
        pytest.param(
            "a: !x 1\n",
            "line 1, column 4: could not determine a constructor for the tag '!x'",
            id="tag",
        ),
        pytest.param(
            "a: 1\n---\nb: 1\n",
            "line 2, column 1: expected a single document in the stream, but found another "
            "document",
            id="two-documents",
        ),
        pytest.param("", "the file is empty", id="empty"),
        pytest.param("- a\n", "the file must be a mapping with the key applications", id="list"),
    ],
)
def test_text_that_is_not_a_config_is_refused_with_its_line(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    assert check(path) == [problem]


def test_a_key_given_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(
        "http_options:\n  port: 1\n  host: x\n  port: 2\napplications: []\nhttp_options: {}\n"
    )
    assert check(path) == [
        "line 4: port is given twice, first in line 2; YAML would keep only the last",
        "line 6: http_options is given twice, first in line 1; YAML would keep only the last",
    ]


def test_merge_keys_and_anchors_are_not_keys_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(
        "applications:\n"
        "- {name: a, import_path: 'm:f', route_prefix: /a, runtime_env: &env {env_vars: {A: "
        "'1'}}}\n"
        "- {name: b, import_path: 'm:f', route_prefix: /b, runtime_env: {<<: *env, env_vars: {A: "
        "'2'}}}\n"
    )
    assert examine(path) == ConfigCheck([], [])


def test_a_file_that_is_not_there_is_a_problem_and_no_traceback(tmp_path: Path) -> None:
    assert check(tmp_path / "nothing.yaml") == ["cannot be read: No such file or directory"]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"applications": None},
        {"applications": ["x"]},
        {"applications": [{"deployments": [1]}]},
        {1: 2},
    ],
    ids=str,
)
def test_any_shape_of_file_gives_sentences(tmp_path: Path, data: Any) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(data))
    problems = check(path)
    assert problems
    assert all("\n" not in problem for problem in problems)


def test_the_config_inside_a_rayservice_manifest_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "kuberay.yaml"
    inner = "applications:\n- {name: a, import_path: 'm:f', rout_prefix: /}\n"
    path.write_text(yaml.safe_dump({"kind": "RayService", "spec": {"serveConfigV2": inner}}))
    assert check(path) == [
        "spec.serveConfigV2: applications[0].rout_prefix: unknown key; did you mean route_prefix?"
    ]


def test_models_that_kuberay_would_put_out_of_order_are_refused(tmp_path: Path) -> None:
    path = serve_file(tmp_path)
    assert check(path) == []
    path.write_text(
        yaml.safe_dump({"kind": "RayService", "spec": {"serveConfigV2": path.read_text()}})
    )
    (problem,) = check(path)
    assert "tiers.fast names 'small', which stands after 'large' of tiers.best in models" in problem


def test_ranks_keep_models_in_order_where_kuberay_sorts_them(tmp_path: Path) -> None:
    path = serve_file(tmp_path)
    args = yaml.safe_load(path.read_text())
    for rank, model in enumerate(args["applications"][0]["args"]["models"].values()):
        model["rank"] = rank
    path.write_text(
        yaml.safe_dump({"kind": "RayService", "spec": {"serveConfigV2": yaml.safe_dump(args)}})
    )
    assert examine(path) == ConfigCheck([], ["small", "large"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 20_000, "nested deeper than 64 levels"),
        ("{a: " * 20_000, "nested deeper than 64 levels"),
        ("- " * 20_000, "nested deeper than 64 levels"),
        ("a: " + "59:" * 15_000 + "59", "a number has at most 400 characters"),
        ("a: " + "9" * 5000, "a number has at most 400 characters"),
        ("a: " + "9" * 50, "a whole number has at most 64 bits"),
        ("a: 2001-99-99", "cannot be read as timestamp"),
        ("a: !!timestamp 1", "cannot be read as timestamp"),
        ("a: !!bool x", "cannot be read as bool"),
        ("a: &a [*a]", "part of"),
        ("a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 9)),
         "aliases stand for too much"),
        ("a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 5000)),
         "aliases stand for too much"),
    ],
    ids=lambda value: value[:20],
)  # fmt: skip
def test_yaml_that_nobody_would_write_is_one_sentence(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "serve.yaml").write_text(text)
    for command in (["check-config"], ["run", "--config"]):
        told = CliRunner().invoke(cli, [*command, str(tmp_path / "serve.yaml")])
        assert told.exit_code == 1
        assert why in told.output
        assert len(told.output.splitlines()) == 1
