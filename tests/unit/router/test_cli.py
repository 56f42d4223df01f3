"""The command line: what each command prints, its exit status, and that asking for help imports
nothing heavy.
"""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from router import cli
from router.strict import ConfigError

pytestmark = pytest.mark.usefixtures("kept_tokenizers")

GOOD = "applications:\n- {name: a, import_path: 'their.module:app'}\n"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments), prog_name="embedding-router")


def test_help_lists_every_command_with_its_line() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name, entry in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.summary)}$", result.output, re.MULTILINE)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_in_the_table_exists(name: str) -> None:
    module, _, function = cli.COMMANDS[name].target.partition(":")
    assert isinstance(getattr(import_module(module), function), click.Command)


def test_help_imports_neither_ray_nor_the_deployments() -> None:
    code = (
        "import sys; from router.cli import main; main(['--help'], standalone_mode=False); "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'ray', 'deployments', "
        "'pydantic', 'vllm', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_is_one_line() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"embedding-router \S.*\n", result.output)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(
            ["chek-config"],
            "There is no command 'chek-config'; did you mean check-config?",
            id="unknown-command",
        ),
        pytest.param(["check-config"], "Missing argument 'FILE...'", id="no-file"),
        pytest.param(["--versoin"], "No such option", id="unknown-option"),
    ],
)
def test_wrong_usage_is_a_sentence_and_status_two(arguments: list[str], sentence: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr


def typed(name: str) -> dict[str, click.Command]:
    """A command by what one types for it, or those below it, as of `keys`."""
    module, _, function = cli.COMMANDS[name].target.partition(":")
    command = getattr(import_module(module), function)
    inner = command.commands if isinstance(command, click.Group) else {"": command}
    return {f"{name} {each}".strip(): one for each, one in inner.items()}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_knows_json_and_help(name: str) -> None:
    for line, command in typed(name).items():
        assert any("--json" in one.opts for one in command.params), line
        assert command.help, line


def test_an_address_that_is_none_is_refused_before_anything_is_done() -> None:
    asking = [
        line
        for name in cli.COMMANDS
        for line, command in typed(name).items()
        if any(one.name == "base_url" for one in command.params)
    ]
    assert len(asking) > 5
    for line in asking:
        for address in ("localhost:8000", "127.0.0.1", "ftp://a/", "http://", "http://[::1", ""):
            result = run(*line.split(), "--base-url", address)
            assert result.exit_code == 2, (line, address)
            said = f"{address!r} is no address of a router, which looks like http://127.0.0.1:8000"
            assert said in " ".join(result.stderr.split()), (line, address)


def test_a_good_file_is_named_with_its_models() -> None:
    file = str(Path(__file__).resolve().parents[3] / "configs" / "qwen3.yaml")
    result = run("check-config", file)
    assert (result.exit_code, result.stderr) == (0, "")
    assert (
        result.stdout
        == f"{file}: ok, 3 models: qwen3-embedding-0.6b, qwen3-embedding-4b, qwen3-embedding-8b; "
        "2 rerankers: qwen3-reranker-0.6b, qwen3-reranker-4b\n"
    )


@pytest.mark.models
def test_students_are_counted_beside_models_and_rerankers() -> None:
    file = str(Path(__file__).resolve().parents[3] / "configs" / "local.yaml")
    result = run("check-config", file)
    assert result.exit_code == 0, result.output
    assert "; 1 student: minilm-student\n" in result.stdout
    (listed,) = json.loads(run("check-config", "--json", file).stdout)
    assert listed["students"] == ["minilm-student"]
    assert not set(listed["students"]) & set(listed["models"])


def test_one_bad_file_of_several_fails_and_all_are_reported(tmp_path: Path) -> None:
    good, bad, absent = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "absent.yaml"
    good.write_text(GOOD)
    bad.write_text(GOOD + "http_option: {}\nport: 1\n")
    result = run("check-config", str(bad), str(absent), str(good))
    assert result.exit_code == 1
    assert result.stdout == f"{good}: ok, no model in it\n"
    assert [line.split(": ")[:2] for line in result.stderr.splitlines()] == [
        [str(bad), "http_option"],
        [str(bad), "port"],
        [str(absent), "cannot be read"],
    ]


def test_a_config_error_in_any_command_is_its_sentences_and_status_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "fails", cli.CommandEntry(f"{__name__}:fails", "Fails."))
    result = run("fails")
    assert (result.exit_code, result.stderr) == (1, "one\ntwo\n")


def test_a_command_whose_package_is_absent_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        cli.COMMANDS,
        "needy",
        cli.CommandEntry("package_that_is_absent.inner:main", "Needs a package."),
    )
    result = run("needy")
    assert result.exit_code == 1
    assert (
        result.stderr
        == "Error: needy needs the package 'package_that_is_absent', which is not installed\n"
    )


@click.command()
def fails() -> None:
    raise ConfigError(["one", "two"])
