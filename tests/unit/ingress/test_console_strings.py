"""The words of the console: the same in both languages, all of them used, and one for everything
that the router can say.
"""

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import get_args

import pytest

from router.domain import Reason, Why
from router.encoders import EncoderKind, Sides

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deployments" / "ingress" / "console"
FILES = {"en": FOLDER / "english.js", "zh": FOLDER / "chinese.js"}
LINES = {name: path.read_text().partition(" = ")[2].rstrip("\n;") for name, path in FILES.items()}
STRINGS: dict[str, dict[str, str]] = {name: json.loads(lines) for name, lines in LINES.items()}
SOURCES = "\n".join(
    path.read_text()
    for path in FOLDER.iterdir()
    if path.suffix in (".html", ".js") and path not in FILES.values()
)
ERRORS = "".join(path.read_text() for path in (ROOT / "router").glob("*errors*.py"))
PREFIXES = tuple(re.findall(r"`([a-z]+\.)\$\{", SOURCES))


def test_both_languages_say_the_same_things_with_the_same_values() -> None:
    assert list(STRINGS) == ["en", "zh"]
    assert list(STRINGS["en"]) == list(STRINGS["zh"])
    for key, text in STRINGS["en"].items():
        assert text
        assert set(re.findall(r"\{\w+\}", text)) == set(
            re.findall(r"\{\w+\}", STRINGS["zh"][key])
        ), key


def test_no_word_is_written_twice() -> None:
    for name, lines in LINES.items():
        assert len(re.findall(r'^  "[^"]+":', lines, re.MULTILINE)) == len(STRINGS[name])


def test_every_word_is_used_and_every_used_one_exists() -> None:
    called = set(re.findall(r'\bt\("([^"]+)"', SOURCES)) | set(
        re.findall(r'data-i18n(?:-\w+)?="([^"]+)"', SOURCES)
    )
    assert called <= set(STRINGS["en"])
    assert set(PREFIXES) == {
        "code.",
        "encoder.",
        "priority.",
        "outcome.",
        "reason.",
        "sides.",
        "state.",
        "why.",
    }
    assert [
        key for key in STRINGS["en"] if not key.startswith(PREFIXES) and f'"{key}"' not in SOURCES
    ] == []


@pytest.mark.parametrize("language", STRINGS)
def test_there_is_a_word_for_every_reason_and_every_why(language: str) -> None:
    words = set(STRINGS[language])
    assert {word for word in words if word.startswith("reason.")} == {
        f"reason.{reason}" for reason in Reason
    }
    assert {word for word in words if word.startswith("why.")} == {f"why.{why}" for why in Why}
    for prefix, values in (("encoder", get_args(EncoderKind)), ("sides", get_args(Sides))):
        assert {word for word in words if word.startswith(f"{prefix}.")} == {
            f"{prefix}.{value}" for value in values
        }


def test_the_english_of_a_why_is_the_routers_own() -> None:
    assert all(STRINGS["en"][f"why.{why}"] == str(why) for why in Why)


def test_an_error_with_a_translation_is_one_that_there_is() -> None:
    codes = {key.removeprefix("code.") for key in STRINGS["zh"] if key.startswith("code.")}
    assert codes <= set(re.findall(r'"([a-z_]+)"', ERRORS))


def test_every_file_of_the_console_is_packaged() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]["deployments.ingress.console"]
    for path in FOLDER.iterdir():
        assert (
            path.suffix == ".py"
            or path.name == "__pycache__"
            or any(fnmatch(path.name, one) for one in patterns)
        ), path
