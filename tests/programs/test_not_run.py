"""What pytest says of tests that were not run, and which skips CI accepts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launched import ROOT
from tests.support.not_run import LIST_FILE, listed
from tests.support.side_by_side import scope_of

SKIPPED = """
import pytest

@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.skipif(True, reason="the tool is not installed: `make system` installs it")
def test_with_a_tool(n): pass

@pytest.mark.long
def test_for_an_hour(): pass

def test_quick(): pass
"""


def run(
    folder: Path, *options: str, ci: bool, list_file: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    # The tests inside need no other plugin than those that `options` name.
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("CI", None)
    environment.pop(LIST_FILE, None)
    if list_file is not None:
        environment[LIST_FILE] = str(list_file)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.not_run",
         "-c", str(folder / "pytest.ini"), *options],
        cwd=folder,
        env=environment | ({"CI": "true"} if ci else {}),
        capture_output=True,
        text=True,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = long: takes long\n")
    (tmp_path / "test_some.py").write_text(SKIPPED)
    return tmp_path


def test_the_summary_says_what_was_not_run_and_how_to_run_it(folder: Path) -> None:
    done = run(folder, "-m", "not long", ci=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 skipped: the tool is not installed: `make system` installs it" in done.stdout
    assert "1 marked long: make test-long" in done.stdout


def test_a_file_collects_the_lists_of_several_runs(folder: Path, tmp_path: Path) -> None:
    listing = tmp_path / "not-run"
    for _ in range(2):
        done = run(folder, "-m", "not long", ci=False, list_file=listing)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "marked long" not in done.stdout
    lines = listing.read_text().splitlines()
    assert lines.count("1 marked long: make test-long") == 2
    assert len(lines) == 4


def test_a_test_with_two_marks_is_run_by_the_command_of_the_longest(folder: Path) -> None:
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = \n    long: l\n    models: m\n")
    both = SKIPPED.replace("@pytest.mark.long", "@pytest.mark.models\n@pytest.mark.long")
    (folder / "test_some.py").write_text(both)
    for asked in ("not long", "not models"):
        assert "1 marked long: make test-long" in run(folder, "-m", asked, ci=False).stdout


def test_workers_side_by_side_count_each_of_them_once(folder: Path) -> None:
    (folder / "test_other.py").write_text("import pytest; pytest.importorskip('not_there')\n")
    done = run(folder, "-p", "xdist", "-n", "2", "-m", "not long", ci=True)
    assert done.returncode == 1
    assert "2 skipped: the tool is not installed: `make system` installs it" in done.stdout
    assert "1 skipped: could not import 'not_there'" in done.stdout
    assert "1 marked long: make test-long" in done.stdout
    assert done.stdout.split("does not list")[-1].count("test_some.py::test_with_a_tool[1]") == 1


def test_files_stay_together_and_services_take_turns() -> None:
    assert scope_of("tests/unit/test_a.py::test_b[x::y]") == "tests/unit/test_a.py"
    assert {scope_of(f"tests/{folder}/test_a.py::test_b") for folder in ("serve", "vllm")} == {
        "services"
    }


def test_ci_fails_on_a_skip_that_is_not_listed(folder: Path) -> None:
    done = run(folder, ci=True)
    assert done.returncode == 1
    assert "test_some.py::test_with_a_tool[1]" in done.stdout.split("does not list")[-1]


def test_ci_fails_on_a_file_that_is_not_collected(folder: Path) -> None:
    (folder / "test_some.py").write_text("import pytest; pytest.importorskip('not_there')\n")
    assert run(folder, ci=True).returncode == 1


def test_ci_accepts_a_skip_that_is_listed(folder: Path) -> None:
    test, entry = next(iter(listed().items()))
    path, _, name = test.partition("::")
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_text(f"import pytest\n\ndef {name}(): pytest.skip('not here')\n")
    done = run(folder, path, ci=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"1 skipped: not here ({entry['run']})" in done.stdout


@pytest.mark.parametrize("test", listed())
def test_every_listed_test_exists_and_has_a_reason(test: str) -> None:
    path, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")
    assert listed()[test].keys() == {"test", "reason", "run"}
