"""A folder with a config and a corpus for the commands that make fingerprints, adapters and
students.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from router.cli import main
from router.model_config import resolve_path
from tests.support.local_service import WORDLLAMA

WORDS = (
    "river",
    "stone",
    "bread",
    "music",
    "iron",
    "cloud",
    "market",
    "winter",
    "doctor",
    "engine",
    "garden",
    "letter",
)
TEXTS = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[:3] if a != b != c]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


class Project:
    """A folder with a config of two tables, one of which is the other turned around, and a
    corpus.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (table,) = load_file(
            resolve_path("package:wordllama/weights/l2_supercat_256.safetensors")
        ).values()
        turn = np.linalg.qr(np.random.default_rng(0).standard_normal((256, 256)))[0]
        save_file(
            {"table": (table.astype(np.float32) @ turn.astype(np.float32))},
            folder / "turned.safetensors",
        )
        turned = {
            **WORDLLAMA,
            "engine": {"kind": "static", "weights": str(folder / "turned.safetensors")},
            "matryoshka": [128],
        }
        self.args: dict[str, Any] = {
            "models": {"plain": dict(WORDLLAMA), "turned": turned},
            "tiers": {"fast": "plain"},
        }
        rows = ({"id": text.replace(" ", "_"), "text": text} for text in TEXTS)
        (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.write()

    def write(self) -> None:
        application = {"name": "router", "import_path": "deployments.app:build", "args": self.args}
        (self.folder / "config.yaml").write_text(
            yaml.safe_dump({"applications": [application]}, sort_keys=False)
        )

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def fingerprints(self, *more: str) -> None:
        for model in self.args["models"]:
            arguments = [
                "--config",
                self.path("config.yaml"),
                "--model",
                model,
                "-o",
                self.path(f"{model}.json"),
                *more,
            ]
            made = run("fingerprint", *arguments)
            assert made.exit_code == 0, made.output

    def name_fingerprints(self) -> None:
        for model, config in self.args["models"].items():
            config["fingerprint"] = self.path(f"{model}.json")
        self.write()
