"""`distill` from a config, through a running router, and from a plain server of embeddings."""

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

from router import fingerprint, student
from router.cli import main
from tests.support.local_service import served
from tests.support.plain_server import fingerprint_of, plain_server
from tests.support.space_project import TEXTS, WORDS, Project

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
    rows = "".join(json.dumps({"text": f"about {text}"}) + "\n" for text in TEXTS)
    (project.folder / "general.jsonl").write_text(rows)
    texts = ["--general", project.path("general.jsonl"), "--texts", project.path("texts.jsonl")]
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
    print_of = ["--fingerprint", project.path("bag.json")]
    fingerprint.save(fingerprint_of(), project.folder / "bag.json")
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


@pytest.mark.parametrize("other", ["another model", "another size", "a prompt"])
def test_a_student_of_a_server_that_is_not_its_fingerprint_is_not_made(
    project: Project, other: str
) -> None:
    made = fingerprint_of("query: ") if other == "a prompt" else fingerprint_of()
    if other == "another model":
        made = fingerprint.make("bag", made.probes, made.vectors[:, ::-1])
    if other == "another size":
        made = fingerprint.load(project.folder / "plain.json")
    file = project.folder / "given.json"
    fingerprint.save(made, file)
    with plain_server() as url:
        given = ["--base-url", url, "--to", "bag", "--fingerprint", str(file)]
        texts = ["--texts", project.path("texts.jsonl")]
        refused = run(*arguments(project), *given, *texts)
    assert refused.exit_code == 1, refused.output
    assert f"bag: its vectors are not those of {file}" in refused.output
    assert "if the model has prompts, distill through a router" in refused.output
    assert not list((project.folder / "student").glob("*.npz"))


def test_general_texts_that_are_in_the_collection_are_left_out(project: Project) -> None:
    own = [f"The {text} is here to stay. Nobody saw the {text} before." for text in TEXTS[:150]]
    found = ["a general text", own[0], "The river stone bread is here to stay.", *TEXTS[200:300]]
    asked = [f"a question about {text}" for text in TEXTS[:20]]
    for name, texts in {"own": own, "general": [*found, asked[3]], "asked": asked}.items():
        rows = [json.dumps({"text": text}) + "\n" for text in texts]
        (project.folder / f"{name}.jsonl").write_text("".join(rows))
    project.args["models"]["plain"]["matryoshka"] = [128, 256]
    project.write()
    given = [
        *("--config", project.path("config.yaml"), "--queries", project.path("asked.jsonl")),
        *("--general", project.path("general.jsonl"), "--texts", project.path("own.jsonl")),
    ]
    made = run(*arguments(project), *given, "--json")
    assert made.exit_code == 0, made.output
    said = json.loads(made.stdout)
    assert (said["general_texts"], said["general_texts_left_out"]) == (101, 3)
    shown = run(*arguments(project), *given)
    assert "3 general texts were left out: they are also in your documents or queries" in (
        shown.output
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "give --general, --texts or both"),
        (["--texts", "{texts}", "--qrels", "{texts}"], "give --queries too"),
        (["--general", "{texts}", "--queries", "{texts}"], "give --texts too"),
        (["--general", "{texts}", "--from", "{texts}"], "omit --general"),
        (["--texts", "{texts}", "--from", "{texts}"], "is not a student"),
        (["--texts", "{texts}", "--epochs", "0"], "needs epochs"),
        (["--texts", "{few}"], "a tenth of your 1 texts would be the queries"),
        (["--texts", "{none}"], "none.jsonl has no texts"),
        (["--texts", "{none}", "--queries", "{texts}"], "none.jsonl has no texts"),
        (["--general", "{few}", "--texts", "{more}"], "no general text is left"),
    ],
    ids=[
        "no texts",
        "qrels",
        "queries",
        "both",
        "not a student",
        "no epochs",
        "few texts",
        "an empty file",
        "an empty file with queries",
        "general texts that are own ones",
    ],
)
def test_what_cannot_be_distilled_is_refused(project: Project, more: list[str], said: str) -> None:
    (project.folder / "few.jsonl").write_text('{"text": "iron bread"}\n')
    (project.folder / "none.jsonl").write_text("\n")
    own = (project.folder / "texts.jsonl").read_text() + '{"text": "iron bread"}\n'
    (project.folder / "more.jsonl").write_text(own)
    named = {name: project.path(f"{name}.jsonl") for name in ("texts", "few", "none", "more")}
    filled = [argument.format(**named) for argument in more]
    made = run(*arguments(project, *filled), "--config", project.path("config.yaml"))
    assert made.exit_code != 0
    assert said in made.output
