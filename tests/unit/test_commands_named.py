"""Every command that docs, images and cluster files name can be typed: its program has an entry
point, its options exist, and the files of the repository that it names are there.
"""

import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from ray.scripts.scripts import cli as ray_cli
from ray.serve.scripts import cli as serve_cli

from benchmarks.__main__ import NAMES
from deployments.launch.serve_config import check
from router.cli import main as own_cli

ROOT = Path(__file__).resolve().parents[2]
GROUPS: dict[str, click.Command] = {"embedding-router": own_cli, "serve": serve_cli, "ray": ray_cli}
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    ROOT / "requirements" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
CONFIGS = [ROOT / "cluster.yaml", *sorted((ROOT / "configs").rglob("*.yaml"))]
IMAGES = [ROOT / "Dockerfile", ROOT / "Dockerfile.cpu"]
# the checkout where it lies in an image or on a node
HERE = ("~/embedding-router/", "/opt/embedding-router/", "")
# first folders of the repository; other paths are a user's
OURS = ("configs", "requirements", "deployments", "benchmarks", "router", "docs", "cluster.yaml")
# what a text says for something of the user's
FREE = re.compile(r"FILE|FOLDER|THIS|\.\.\.|REPLACE|<")


def blocks(page: Path) -> Iterator[str]:
    """Lines of shell blocks, and commands in the text."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```(?:sh|shell|bash|console)\n(.*?)```", text, re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for code in re.findall(r"`([^`]+)`", prose):
        yield " ".join(code.split())


def commented(path: Path) -> Iterator[str]:
    """Commands in comments, alone on a line that is indented."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"#   ?(\S.*)", line):
            yield re.split(r"  +", found[1])[0]


def scalars(node: Any) -> Iterator[str]:
    """Every text of a YAML tree."""
    if isinstance(node, dict):
        for value in node.values():
            yield from scalars(value)
    elif isinstance(node, list):
        if node and all(isinstance(one, str) for one in node):
            yield shlex.join(node)
        for value in node:
            yield from scalars(value)
    elif isinstance(node, str):
        yield node


def instructions(image: Path) -> Iterator[tuple[str, str]]:
    """Each instruction of a Dockerfile and its argument, on one line."""
    lines = re.sub(r"^#.*\n", "", image.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in lines.splitlines():
        if line.strip():
            name, _, argument = line.partition(" ")
            yield name, argument.strip()


def split(line: str) -> Iterator[list[str]]:
    """The commands of a line of shell, each as words, without what it sets beforehand."""
    try:
        words = list(shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="&|;()"))
    except ValueError:  # prose with one quotation mark
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if word and set(word) <= set("&|;()"):
            if command:
                yield command
            command = []
        elif command or not (re.match(r"[A-Z_]+=", word) or word in ("exec", "then", "do")):
            command.append(word)


def named() -> Iterator[tuple[str, list[str]]]:
    """Every command and where it is."""
    sources: list[tuple[Path, Iterator[str]]] = [(page, blocks(page)) for page in PAGES]
    sources += [(path, commented(path)) for path in [*CONFIGS, *IMAGES]]
    sources += [(path, scalars(yaml.safe_load(path.read_text()))) for path in CONFIGS[:1]]
    sources += [
        (path, scalars(yaml.safe_load(path.read_text())))
        for path in CONFIGS
        if path.name == "kuberay.yaml"
    ]
    for image in IMAGES:
        found = [
            shlex.join(json.loads(argument)) if name == "CMD" else argument
            for name, argument in instructions(image)
            if name in ("RUN", "CMD")
        ]
        sources.append((image, iter(found)))
    for path, lines in sources:
        for line in lines:
            for command in split(line):
                yield path.relative_to(ROOT).as_posix(), command
                if command[:2] == ["ray", "exec"]:  # ray exec FILE 'COMMAND'
                    yield from (
                        (path.relative_to(ROOT).as_posix(), one) for one in split(command[-1])
                    )


@cache
def commands() -> list[tuple[str, tuple[str, ...]]]:
    return sorted({(where, tuple(command)) for where, command in named()})


def of(*programs: str) -> list[tuple[str, tuple[str, ...]]]:
    return [one for one in commands() if one[1][0] in programs]


def unknown_option(command: click.Command, words: list[str]) -> str | None:
    """A word that this command does not take; None where it takes all."""
    context = click.Context(command)
    while words and isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        if found is None:
            return None if words[0].startswith("-") or FREE.search(words[0]) else words[0]
        command, words = found, words[1:]
    known = {"-h", "--help"}
    for parameter in command.params:
        known |= {*parameter.opts, *parameter.secondary_opts}
    for word in words:
        option = word.partition("=")[0]
        if re.fullmatch(r"--?[a-z][\w-]*", option) and option not in known:
            return option
    return None


def test_there_are_commands_of_all_kinds() -> None:
    assert len(of("embedding-router")) > 20
    assert {"docs/deploy.md", "cluster.yaml", "Dockerfile", "README.md"} <= {
        where for where, _ in commands()
    }
    for program in ("embedding-router", "serve", "ray", "python", "make", "hf", "pip", "docker"):
        assert of(program), program


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("embedding-router run --cofig x", "--cofig"),
        ("embedding-router chek-config x", "chek-config"),
        ("serve run configs/local.yaml", None),
        ("serve deploy --addres x", "--addres"),
        ("embedding-router keys new --json", None),
        ("ray up cluster.yaml --no-such", "--no-such"),
    ],
)
def test_a_word_that_a_command_does_not_take_is_found(words: str, wrong: str | None) -> None:
    program, *rest = words.split()
    assert unknown_option(GROUPS[program], rest) == wrong


@pytest.mark.parametrize("program", GROUPS)
def test_commands_and_their_options_exist(program: str) -> None:
    scripts = {one.name for one in metadata.entry_points(group="console_scripts")}
    assert program in scripts
    for where, command in of(program):
        wrong = unknown_option(GROUPS[program], list(command[1:]))
        assert wrong is None, f"{where}: {' '.join(command)} has no {wrong}"


def test_benchmarks_and_their_options_exist() -> None:
    found = [one for one in of("python") if one[1][1:3] == ("-m", "benchmarks")]
    assert found
    for where, command in found:
        name, *words = command[3:] or ["--help"]
        if name == "NAME" or name.startswith("-"):
            continue
        assert name in NAMES, f"{where}: {' '.join(command)}"
        main = import_module(f"benchmarks.{name}").main
        wrong = unknown_option(main, words) if isinstance(main, click.Command) else None
        assert wrong is None, f"{where}: {' '.join(command)} has no {wrong}"


def test_files_of_ours_that_commands_name_exist() -> None:
    checked = 0
    for where, command in commands():
        for word in command[1:] if command[0] != "python" else ():
            path = next((word.removeprefix(h) for h in HERE if word.startswith(h)), word)
            if path.partition("/")[0] not in OURS or FREE.search(path) or path.endswith(":"):
                continue
            assert list(ROOT.glob(path)), f"{where}: {path}"
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("image", IMAGES, ids=lambda one: one.name)
def test_what_an_image_copies_exists_and_is_not_ignored(image: Path) -> None:
    ignored = set((ROOT / ".dockerignore").read_text().split())
    sources = [
        source
        for name, argument in instructions(image)
        if name == "COPY"
        for source in argument.split()[:-1]
        if not source.startswith("--")
    ]
    assert "." in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.partition("/")[0] not in ignored
    # what the build itself needs, and what the image runs
    for needed in ("pyproject.toml", "README.md", "configs", "router", "deployments"):
        assert needed not in ignored


@pytest.mark.parametrize("image", IMAGES, ids=lambda one: one.name)
def test_what_an_image_starts_would_start(image: Path) -> None:
    """A container listens on every address, which a config without keys does not allow."""
    (command,) = [json.loads(argument) for name, argument in instructions(image) if name == "CMD"]
    given = dict(zip(command[2::2], command[3::2], strict=True))
    host = "127.0.0.1" if given.get("--auth") == "none" else given["--host"]
    assert check(ROOT / given["--config"], host) == []
