"""`distill` from a config, through a running router, and from a plain server of embeddings."""

import io
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

from router import fingerprint, student
from router.cli import main
from tests.http.test_space_commands import TEXTS, WORDS, Project
from tests.support.local_service import served

PIECES = [*WORDS, *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["distill", *arguments])


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.fingerprints()
    made.name_fingerprints()
    model = {"type": "WordPiece", "vocab": {piece: place for place, piece in enumerate(PIECES)}}
    (tmp_path / "pieces.json").write_text(json.dumps({"model": model}))
    return made


def arguments(project: Project, *more: str) -> list[str]:
    return [
        "--to",
        "plain/128",
        "--vocabulary",
        project.path("pieces.json"),
        "-o",
        project.path("student"),
        *more,
    ]


class Plain(BaseHTTPRequestHandler):
    """A server of embeddings and of nothing else; what it does not know it refuses."""

    def do_GET(self) -> None:
        self.send_error(404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert body.keys() == {"input", "model"}
        rows = []
        for text in body["input"]:
            words = [
                np.random.default_rng(list(word.encode())).standard_normal(16)
                for word in text.split()
            ]
            rows.append(3.0 * np.sum(words, axis=0))
        data = [{"index": place, "embedding": row.tolist()} for place, row in enumerate(rows)]
        said = json.dumps({"data": data[::-1]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def plain_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Plain)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("origin", ["config", "router"])
def test_a_student_finds_what_its_teacher_finds(project: Project, origin: str) -> None:
    project.args["models"]["plain"]["matryoshka"] = [128, 256]
    project.write()
    own = arguments(project, "--texts", project.path("texts.jsonl"), "--json")
    if origin == "config":
        made = run(*own, "--config", project.path("config.yaml"))
    else:
        with served(project.args) as (url, _):
            made = run(*own, "--base-url", url)
    assert made.exit_code == 0, made.output
    said = json.loads(made.stdout)
    one = student.load(project.folder / "student" / "student.npz")
    proof = one.about.proof
    assert proof is not None
    assert (said["space"], said["judged_by"]) == ("plain/128", "neighbours")
    assert said["recall_kept_unseen"] == proof.unseen.recall
    assert said["recall_kept_fitted"] == proof.fitted.recall
    assert proof.fitted.recall > 0.8
    assert 0.5 < said["overlap_at_10"] <= 1.0
    assert one.about.teacher_fingerprint == fingerprint.load(project.folder / "plain.json").digest
    assert (project.folder / "student" / "student.png").stat().st_size > 5000


def test_an_interrupted_command_embeds_nothing_twice(project: Project) -> None:
    project.args["models"]["plain"]["matryoshka"] = [128, 256]
    project.write()
    own = arguments(project, "--texts", project.path("texts.jsonl"))
    first = run(*own, "--config", project.path("config.yaml"))
    assert first.exit_code == 0, first.output
    file = project.folder / "student" / "student.npz"
    made = student.load(file)
    (work,) = (project.folder / "student" / "work").iterdir()
    kept = sorted(work.iterdir())
    # What was embedded again would now fail.
    save_file({"table": np.zeros((1, 256), np.float32)}, project.path("empty.safetensors"))
    engine = {"kind": "static", "weights": project.path("empty.safetensors")}
    project.args["models"]["plain"]["engine"] = engine
    project.write()
    again = run(*own, "--config", project.path("config.yaml"))
    assert again.exit_code == 0, again.output
    assert sorted(work.iterdir()) == kept
    assert student.load(file).fingerprint == made.fingerprint
    assert student.load(file).about == made.about


class Terminal(io.StringIO):
    """A stream that draws what it is given."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_each_training_from_nothing_to_all_with_the_time_left(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.args["models"]["plain"]["matryoshka"] = [128, 256]
    project.write()
    texts = ["--general", project.path("texts.jsonl"), "--texts", project.path("texts.jsonl")]
    given = ["--config", project.path("config.yaml"), "--json"]
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    main(["distill", *arguments(project, *texts, *given)], standalone_mode=False)
    lines = re.split(r"[\r\n]", shown.getvalue())
    for what in ("general texts", "your texts"):
        drawn = [line for line in lines if line.startswith(f"training on {what}: ")]
        steps = [re.search(r" (\d+)/(\d+) \[\S+<\S+,", line) for line in drawn]
        assert all(steps), drawn
        done, totals = ([int(step[place]) for step in steps if step] for place in (1, 2))
        assert (len(set(totals)), done[0], done[-1]) == (1, 0, totals[0])
        assert done == sorted(done)


def test_a_general_student_of_any_server_is_gone_on_from(project: Project) -> None:
    rows = ({"text": text, "licence": "MIT"} for text in TEXTS[::2])
    (project.folder / "general.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print_of = ["--fingerprint", project.path("plain.json")]
    with plain_server() as url:
        to = ["--base-url", url, "--to", "bag", "--vocabulary", project.path("pieces.json")]
        refused = run(*to, "--general", project.path("general.jsonl"), "-o", project.path("g"))
        assert "give it as --fingerprint" in refused.output
        general = run(
            *to, *print_of, "--general", project.path("general.jsonl"), "-o", project.path("g")
        )
        assert general.exit_code == 0, general.output
        assert "it was judged on no collection" in general.output
        own = run(
            *to,
            *print_of,
            "--from",
            project.path("g/student.npz"),
            "--texts",
            project.path("texts.jsonl"),
            "-o",
            project.path("o"),
        )
        assert own.exit_code == 0, own.output
    about = student.load(project.folder / "o" / "student.npz").about
    assert (about.general_texts, about.licences) == (len(TEXTS[::2]), {"MIT": len(TEXTS[::2])})
    assert about.proof is not None
    assert about.proof.unseen.recall > 0.8
    fitted = ["--from", project.path("o/student.npz"), "--texts", project.path("texts.jsonl")]
    with plain_server() as url:
        to[1] = url
        again = run(*to, *print_of, *fitted, "-o", project.path("again"))
    assert again.exit_code != 0
    assert "was fitted on texts of a collection" in again.output


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "give --general, --texts or both"),
        (["--texts", "{texts}", "--qrels", "{texts}"], "give --queries too"),
        (["--general", "{texts}", "--queries", "{texts}"], "give --texts too"),
        (["--general", "{texts}", "--from", "{texts}"], "omit --general"),
        (["--texts", "{texts}", "--from", "{texts}"], "is not a student"),
        (["--texts", "{texts}", "--epochs", "0"], "needs epochs"),
        (["--texts", "{few}"], "only 0 queries are there"),
    ],
    ids=["no texts", "qrels", "queries", "both", "not a student", "no epochs", "few texts"],
)
def test_what_cannot_be_distilled_is_refused(project: Project, more: list[str], said: str) -> None:
    (project.folder / "few.jsonl").write_text('{"text": "iron bread"}\n')
    named = {"texts": project.path("texts.jsonl"), "few": project.path("few.jsonl")}
    filled = [argument.format(**named) for argument in more]
    made = run(*arguments(project, *filled), "--config", project.path("config.yaml"))
    assert made.exit_code != 0
    assert said in made.output
