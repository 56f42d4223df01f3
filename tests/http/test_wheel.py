"""The wheel, installed without this checkout: it holds every file that the packages read."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("router", "deployments")
CODE = {".md", ".py", ".pyc"}  # and texts for developers


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no `build/` of an earlier layout gets into it."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(source))
    return next(built.glob("embedding_router-*.whl"))


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, env={**os.environ, "PIP_NO_INDEX": "1"})


def test_every_file_that_is_no_code_is_in_the_wheel(wheel: Path) -> None:
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in CODE
    }
    assert len(wanted) > 5
    with ZipFile(wheel) as archive:
        assert wanted <= set(archive.namelist())


def test_the_console_and_the_report_open_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    target, runner = tmp_path / "installed", tmp_path / "runner"
    pip("install", "--no-deps", "--target", str(target), str(wheel))
    runner.mkdir()
    (runner / "tests").symlink_to(ROOT / "tests")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.installed"],
        cwd=runner,
        env={**os.environ, "PYTHONPATH": str(target), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(Path(path).is_relative_to(target) for path in found["packages"]), found["packages"]
    assert found["opened"].keys() > {"/", "/console/console.css", "/console/console.js"}
    assert set(found["opened"].values()) == {200}
    assert found["page"].startswith("<!doctype html>")
    assert found["advise"].startswith("<!doctype html>")
