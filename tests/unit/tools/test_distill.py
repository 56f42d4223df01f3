from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from deployments.tools.align import AlignError, Material
from deployments.tools.corpus import Text
from deployments.tools.distill import (
    Progress,
    Teacher,
    Words,
    distil_general,
    distil_own,
    general_start,
    in_collection,
    own_texts,
    sentences_of,
    start_of,
)
from deployments.tools.migrate import locked
from deployments.tools.vector_store import Embed
from router import student
from router.arrays import Vectors
from router.cli import main
from router.schema import Side
from router.space import Space

SIZE = 24
WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeio" for c in "lmnrst"]
TOKENS = Words(WORDS)
RNG = np.random.default_rng(0)


def sentence(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, 6, replace=False))


DOCUMENTS = [Text(str(row), sentence(np.random.default_rng(row))) for row in range(200)]
QUERIES = [Text(f"q{row}", " ".join(DOCUMENTS[row * 4].text.split()[:4])) for row in range(50)]
JUDGED = {f"q{row}": {str(row * 4)} for row in range(50)}
GIVEN = Material(DOCUMENTS, DOCUMENTS, QUERIES, JUDGED)


class Meaning:
    """A teacher that adds up its words, longer words counting more."""

    def __init__(self, size: int = SIZE) -> None:
        self.seen: list[tuple[str, Side]] = []
        self._size = size

    async def __call__(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
        self.seen += [(text, side) for text in texts]
        rows = []
        for text in texts:
            row = np.full(self._size, 0.1)
            for word in text.split():
                row += np.random.default_rng(list(word.encode())).standard_normal(self._size)
            rows.append(row)
        made = np.array(rows)
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def teacher(embed: Meaning | None = None) -> Teacher:
    return Teacher(embed or Meaning(), Space("large", SIZE), "digest")


@pytest.mark.models
async def test_a_student_learns_from_vectors_alone_and_is_judged_twice() -> None:
    made = (await distil_own(teacher(), GIVEN, None, TOKENS, None)).student
    proof = made.about.proof
    assert proof is not None
    assert proof.fitted.recall > 0.9
    assert proof.unseen.recall > 0.9
    assert proof.judged_by == "judgements"
    assert made.about.teacher_fingerprint == "digest"
    assert (made.about.own_texts, made.about.general_texts) == (200, 0)
    assert made.about.overlap is not None
    assert 0.5 < made.about.overlap <= 1.0


@pytest.mark.models
async def test_the_teacher_is_never_shown_the_queries_before_the_student_is_made() -> None:
    embed = Meaning()
    await distil_own(teacher(embed), GIVEN, None, TOKENS, None)
    trained = {text for text, side in embed.seen if side == "query"} - {q.text for q in QUERIES}
    assert trained == {document.text for document in DOCUMENTS} | set(WORDS)


@pytest.mark.models
async def test_words_of_documents_left_out_are_not_in_the_vocabulary_of_their_judge() -> None:
    secret = [Text(str(row), f"secret{row} secret{row} dal") for row in range(200)]
    queries = [Text(f"q{row}", f"secret{row * 4}") for row in range(50)]
    given = Material(secret, secret, queries, JUDGED)
    proof = (await distil_own(teacher(), given, None, TOKENS, None)).student.about.proof
    assert proof is not None
    assert proof.fitted.recall > 0.9
    assert proof.unseen.recall < 0.2


@pytest.mark.models
async def test_a_general_student_is_judged_without_being_fitted() -> None:
    texts = [sentence(RNG) for _ in range(1500)]
    start = await general_start(teacher(), TOKENS, texts, ["MIT"] * 1500)
    general = (await distil_general(teacher(), start)).student
    assert general.about.proof is None
    assert (general.about.general_texts, general.about.licences) == (1500, {"MIT": 1500})
    judged = (await distil_own(teacher(), GIVEN, start_of(general), Words([]), 0)).student
    proof = judged.about.proof
    assert proof is not None
    assert proof.fitted == proof.unseen
    assert proof.unseen.recall > 0.9
    assert judged.about.own_texts == 0
    np.testing.assert_allclose(
        judged.encode(["dal ber", "kin"]), general.encode(["dal ber", "kin"]), atol=0.02
    )


@pytest.mark.models
async def test_a_student_that_exists_is_gone_on_from() -> None:
    texts = [sentence(RNG) for _ in range(300)]
    general = await general_start(teacher(), TOKENS, texts, ["MIT"] * 300)
    first = (await distil_general(teacher(), general)).student
    own = (await distil_own(teacher(), GIVEN, start_of(first), Words([]), 3)).student
    assert own.about.general_texts == 300
    assert own.about.own_texts == 200
    assert own.tokenizer.get_vocab_size() == first.tokenizer.get_vocab_size()
    assert own.fingerprint != first.fingerprint


class Counted(Progress):
    """What was to be trained on, and what was."""

    def __init__(self) -> None:
        self.expected, self.seen = list[int](), 0

    def expect(self, texts: int) -> None:
        self.expected.append(texts)

    def done(self, texts: int) -> None:
        self.seen += texts


@pytest.mark.models
async def test_the_whole_training_is_known_before_its_first_step() -> None:
    texts, general, own, alone = (
        [sentence(RNG) for _ in range(600)],
        Counted(),
        Counted(),
        Counted(),
    )
    start = await general_start(teacher(), TOKENS, texts, ["MIT"] * 600, general)
    await distil_own(teacher(), GIVEN, start, TOKENS, None, own)
    await distil_own(teacher(), GIVEN, None, TOKENS, None, alone)
    assert general.expected == [general.seen] == [15 * 600]
    assert own.expected == [own.seen]
    assert alone.expected == [alone.seen] == [2 * own.seen]  # twice the epochs
    assert own.seen > 3 * len(DOCUMENTS)  # the folds too


class Gone:
    """A teacher that is no longer there."""

    async def __call__(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
        raise AssertionError(f"{len(texts)} texts were embedded again")


@pytest.mark.models
async def test_the_general_stage_is_not_done_twice(tmp_path: Path) -> None:
    texts = [sentence(RNG) for _ in range(300)]

    async def made(
        embed: Embed, given: list[str], shown: Counted, work: Path = tmp_path
    ) -> student.Student:
        one = Teacher(embed, Space("large", SIZE), "digest")
        start = await general_start(one, TOKENS, given, ["MIT"] * len(given), shown, work)
        return (await distil_general(one, start)).student

    first = await made(Meaning(), texts, Counted())
    again = Counted()
    assert (await made(Gone(), texts, again)).fingerprint == first.fingerprint
    assert again.seen == 0
    with pytest.raises(AssertionError, match="embedded again"):
        await made(Gone(), texts[1:], again)
    other = await made(Meaning(), texts, again, tmp_path / "other")
    assert other.fingerprint == first.fingerprint
    assert again.seen == 15 * 300


async def test_without_general_texts_there_is_nothing_to_judge_as_it_is() -> None:
    with pytest.raises(AlignError, match="needs epochs"):
        await distil_own(teacher(), GIVEN, None, TOKENS, 0)


def test_a_sentence_belongs_to_its_document() -> None:
    text = "The first sentence of this text. 第一句。第二句。 Short."
    assert [part.text for part in sentences_of([Text("7", text)])] == [
        text,
        "The first sentence of this text.",
        "第一句。",
        "第二句。",
    ]
    assert {part.id for part in sentences_of([Text("7", text)])} == {"7"}


def test_sentences_that_were_joined_without_a_space_are_sentences_too() -> None:
    text = (
        "It kept 3.5 of what Node.js 20.1 has.The next one (as seen above)."
        "Neither of them was at p < 0.05."
        "Our last sentence of an abstract."
    )
    assert [part.text for part in sentences_of([Text("7", text)])][1:] == [
        "It kept 3.5 of what Node.js 20.1 has.",
        "The next one (as seen above).",
        "Neither of them was at p < 0.05.",
        "Our last sentence of an abstract.",
    ]


def test_a_query_that_stands_in_a_document_is_not_fitted_on() -> None:
    documents = [
        Text("1", "How do I return an article of kind seven?  Send it back within thirty days."),
        Text("2", "how do i return an article of kind seven"),
        Text("3", "How do I return an article of kind seven and eight?"),
    ]
    queries = [Text("q", "How do I return an article of kind seven?")]
    found = own_texts(Material(documents, documents, queries, None))
    assert [text.text for text in found] == [
        documents[0].text,
        "Send it back within thirty days.",
        documents[2].text,
    ]
    general = ["how do I return an article of kind seven!", "another"]
    assert in_collection(general, Material(documents, documents, queries, None)) == {general[0]}


async def test_a_collection_of_queries_alone_leaves_nothing_to_fit_on() -> None:
    with pytest.raises(AlignError, match="all documents are queries too"):
        await distil_own(teacher(), Material(QUERIES, QUERIES, QUERIES, None), None, TOKENS, None)


@pytest.mark.parametrize("held", [True, False], ids=["locked", "below a file"])
def test_a_folder_that_cannot_be_had_is_said_before_anything_is_done(
    tmp_path: Path, held: bool
) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "one"}\n')
    folder = tmp_path / "student" if held else texts / "student"
    options = ["--base-url", "http://127.0.0.1:9", "--to", "m", "--texts", str(texts)]
    with locked(folder) if held else nullcontext():
        done = CliRunner().invoke(main, ["distill", *options, "-o", str(folder)])
    said = "another process is writing there" if held else "Not a directory"
    assert (done.exit_code, said in done.output) == (1, True), done.output
