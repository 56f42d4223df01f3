"""What stops `embedding-router advise` is said in one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest

from deployments.tools import advise_cli
from router.fingerprint import Fingerprint, Probe
from tests.support import advise_data
from tests.support.advise_command import ARGS, advise
from tests.support.fixtures import service_of
from tests.support.local_service import LocalRouter

pytestmark = pytest.mark.models


running = service_of(ARGS)


files = advise_data.files


def test_other_weights_under_the_same_name_do_not_go_on_with_a_run(
    running: tuple[str, LocalRouter],
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proofs = [
        Fingerprint("noise", [Probe(text, "query", None, text)], np.ones((1, 64), np.float32))
        for text in ("a", "b")
    ]
    arguments = [
        "advise",
        "--base-url",
        running[0],
        "--labels",
        str(files["labels.csv"]),
        "--requests",
        "5",
        "-o",
        str(tmp_path),
    ]
    monkeypatch.setitem(running[1].service.fingerprints, "noise", proofs[0])
    assert advise(*arguments).exit_code == 0
    part = sorted((tmp_path / "vectors" / "noise" / "symmetric").glob("*.parquet"))[-1]
    assert (
        json.loads((part.parent / "manifest.json").read_text())["fingerprint"] == proofs[0].digest
    )
    part.unlink()  # as if it had been killed before
    monkeypatch.setitem(running[1].service.fingerprints, "noise", proofs[1])
    refused = advise(*arguments)
    assert refused.exit_code == 1
    assert f"its fingerprint was {proofs[0].digest} and is {proofs[1].digest}" in refused.output
    assert not part.exists()


def test_a_broken_line_stops_it_before_anything_is_asked(
    files: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "labels.csv"
    broken.write_text(files["labels.csv"].read_text() + "only one column\n")
    refused = advise(
        "advise",
        "--base-url",
        "http://127.0.0.1:9",
        "--labels",
        str(broken),
        "-o",
        str(tmp_path / "out"),
    )
    assert refused.exit_code == 1
    assert (
        f"{broken}, line 242: it has 1 columns and the file has 2 (text, label)" in refused.output
    )
    assert "--skip-bad" in refused.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give texts to measure with: --texts, --search, --pairs or --labels"),
        (["--queries", "queries.jsonl"], "need --texts, the documents that are searched"),
        (
            ["--queries", "queries.jsonl", "--qrels", "qrels.tsv"],
            "need --texts, the documents that are searched",
        ),
        (["--texts", "texts.jsonl", "--qrels", "qrels.tsv"], "--qrels needs --queries"),
        (
            ["--texts", "texts.jsonl", "--texts", "texts.jsonl"],
            "--texts is given twice; for several searches write --search TEXTS QUERIES QRELS",
        ),
        (
            ["--labels", "labels.csv", "--model", "no-such"],
            "the service has no model or tier 'no-such'; its models are noise, wordllama-256, its "
            "tiers fast, best",
        ),
        (
            ["--labels", "labels.csv", "--model", "noise"],
            "--model leaves one model to measure (noise), and a comparison takes two; name another "
            "too: wordllama-256",
        ),
        (["--labels", "labels.csv", "--model", "fast"], "one model to measure (noise)"),
        (
            ["--labels", "labels.csv", "--labels", "labels.csv"],
            "two files of queries, pairs or labels have the name 'labels'",
        ),
    ],
)
def test_what_is_missing_is_one_sentence(
    running: tuple[str, LocalRouter],
    files: dict[str, Path],
    tmp_path: Path,
    options: list[str],
    said: str,
) -> None:
    given = [str(files.get(option, option)) for option in options]
    refused = advise("advise", "--base-url", running[0], *given, "-o", str(tmp_path / "out"))
    assert refused.exit_code in (1, 2)
    assert said in " ".join(refused.output.split())


def test_a_missing_package_is_one_sentence(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advise_cli, "NEEDED", (*advise_cli.NEEDED, "not_installed_anywhere"))
    refused = advise("advise", "--labels", str(files["labels.csv"]), "-o", str(tmp_path))
    assert refused.exit_code == 1
    assert (
        "advise needs not_installed_anywhere, not installed here: in a "
        "checkout of this project, pip install -e '.[advise]'" in refused.output
    )
