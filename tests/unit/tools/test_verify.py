"""`verify` on stored vectors: what a search loses, and what to do about it."""

import asyncio
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner, Result
from pyarrow import parquet

from deployments.replica.offline import Offline
from deployments.tools.align import AlignError
from deployments.tools.corpus import CorpusError, Text
from deployments.tools.migrate import Manifest, digest_of, opened
from deployments.tools.verify import Sample, read_sample, verify
from deployments.tools.verify_cli import report
from router.arrays import Vectors
from router.cli import main
from router.config import RouterArgs
from router.space import Space
from tests.support.minilm import MINILM, with_one_tensor_changed

ROOT = Path(__file__).resolve().parents[3]
SIZE = 16
SPACE = Space("stored", SIZE)


def unit(rows: Vectors) -> Vectors:
    made: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return made.astype(np.float32)


def sample(count: int, size: int = SIZE) -> Sample:
    rows = np.random.default_rng(0).standard_normal((count, size)).astype(np.float32)
    return Sample([Text(str(row), f"text {row}") for row in range(count)], unit(rows))


def noisy(vectors: Vectors, share: float) -> Vectors:
    noise = np.random.default_rng(1).standard_normal(vectors.shape) / vectors.shape[1] ** 0.5
    return unit(vectors + share * noise)


def turned(vectors: Vectors) -> Vectors:
    size = vectors.shape[1]
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((size, size)))[0]
    return unit(vectors @ turn)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda stored: stored, "keep"),
        (lambda stored: noisy(stored, 0.005), "keep"),  # as another precision does
        (turned, "bridge"),
        (lambda stored: noisy(turned(stored), 0.3), "migrate"),
        (lambda stored: stored[::-1].copy(), "migrate"),
    ],
    ids=["the same", "rounded", "turned", "turned and changed", "of other texts"],
)
async def test_the_verdict_is_that_of_the_change(
    change: Callable[[Vectors], Vectors], verdict: str
) -> None:
    given = sample(600)
    found = await verify(given, SPACE, change(given.vectors), 0.95)
    assert found.verdict == verdict
    assert found.kept.recall_low <= found.kept.recall <= found.kept.recall_high


async def test_a_text_is_not_searched_with_itself() -> None:
    given = sample(200)
    found = await verify(given, SPACE, given.vectors[::-1].copy(), 0.95)
    assert found.kept.recall < 0.1  # ten of 199 by chance; its own row would be one more of ten


async def test_cosines_that_fell_do_not_matter_where_the_search_is_the_same() -> None:
    given = sample(300)
    shift = np.zeros(SIZE, np.float32)
    scale = np.ones(SIZE, np.float32)
    scale[0] = 1.2
    found = await verify(given, SPACE, unit(given.vectors * scale + shift), 0.5)
    assert np.quantile(found.cosines, 0.01) < 0.999
    assert found.verdict == "keep"


async def test_a_language_that_changed_is_not_hidden_by_the_others() -> None:
    given = sample(2000)
    chinese = [Text(str(row), f"第{row}条中文的句子写在这里") for row in range(40)]
    texts = [Text(text.id, f"this is sentence number {text.id}") for text in given.texts]
    given = Sample([*chinese, *texts[40:]], given.vectors)
    now = given.vectors.copy()
    now[:40] = now[:40][::-1]
    found = await verify(given, SPACE, now, 0.95)
    assert found.kept.recall_low > 0.95
    assert found.by_language["zh"].recall_high < 0.95
    assert found.verdict != "keep"


def two_languages(chinese: int, count: int = 1600) -> Sample:
    given = sample(count)
    texts = [Text(text.id, f"this is sentence number {text.id}") for text in given.texts]
    for row in range(0, count, count // chinese):
        texts[row] = Text(str(row), f"第{row}条中文的句子写在这里")
    return Sample(texts, given.vectors)


@pytest.mark.parametrize("chinese", [20, 40, 400])
async def test_a_bridge_must_carry_each_language_that_has_enough_texts(chinese: int) -> None:
    given = two_languages(chinese)
    rows = [row for row, text in enumerate(given.texts) if not text.text.isascii()]
    assert len(rows) == chinese
    now = turned(given.vectors)
    found = await verify(given, SPACE, now, 0.8)
    assert (found.verdict, set(found.bridged_by_language)) == ("bridge", {"zh", "en"})
    now[rows] = unit(np.random.default_rng(5).standard_normal((chinese, SIZE)).astype(np.float32))
    found = await verify(given, SPACE, now, 0.8)
    assert found.bridged_by_language["zh"].recall_high < 0.8
    assert found.verdict == "migrate"


async def test_too_few_texts_are_not_judged() -> None:
    given = sample(99)
    with pytest.raises(AlignError, match="99 different texts are too few to judge"):
        await verify(given, SPACE, given.vectors, 0.95)


async def test_no_bridge_is_tried_with_fewer_texts_than_dimensions() -> None:
    given = sample(150, size=256)
    found = await verify(given, Space("stored", 256), turned(given.vectors), 0.95)
    assert found.verdict == "migrate"
    assert found.bridged is None
    assert found.not_bridged == (
        "150 texts cannot tell 256 dimensions apart; a --sample of 384 texts can"
    )
    last = list(report(found, Space("stored", 256)))[-1]
    assert last.startswith("migrate: ")
    assert f"a bridge was not tried: {found.not_bridged}" in last


@pytest.mark.parametrize("size", [100, 256])
async def test_a_sample_of_the_size_that_is_named_is_enough_for_a_bridge(size: int) -> None:
    given = sample(size * 3 // 2, size)
    assert (await verify(given, Space("stored", size), turned(given.vectors), 0.95)).bridged


async def test_a_verdict_about_a_server_that_gets_no_prompts_says_so() -> None:
    given = sample(600)
    for now, is_said in ((turned(given.vectors), True), (given.vectors, False)):
        found = await verify(given, SPACE, now, 0.95)
        text = "\n".join(report(found, SPACE, prompted=False))
        assert ("if the model has prompts, verify through a router" in text) is is_said


async def test_a_text_that_stands_often_is_one_text() -> None:
    given = sample(120)
    given = Sample([Text(str(row), f"text {row % 60}") for row in range(120)], given.vectors)
    with pytest.raises(AlignError, match="60 different texts are too few to judge"):
        await verify(given, SPACE, given.vectors, 0.95)


def write(path: Path, **columns: Any) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def test_rows_are_read_evenly_from_a_file_or_a_folder(tmp_path: Path) -> None:
    ids, vectors = [str(row) for row in range(300)], np.eye(300, dtype=np.float32)
    texts = [f"text {id}" for id in ids]
    whole = write(tmp_path / "whole.parquet", id=ids, text=texts, vector=vectors.tolist())
    folder = tmp_path / "parts"
    folder.mkdir()
    for start in (0, 100, 200):
        some = slice(start, start + 100)
        write(folder / f"part-{start:03}.parquet", id=ids[some], vector=vectors[some].tolist())
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"id": id, "text": f"text {id}"}) + "\n" for id in reversed(ids))
    )
    one = read_sample(whole, None, "text", 100)
    other = read_sample(folder, tmp_path / "texts.jsonl", "text", 100)
    assert len(one.texts) == 100
    assert one.texts == other.texts
    assert (one.texts[0].id, one.texts[-1].id) == ("0", "299")
    np.testing.assert_array_equal(one.vectors, other.vectors)
    assert [int(row.argmax()) for row in one.vectors] == [int(text.id) for text in one.texts]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": ["a"], "vector": [[1.0]]}, "no column 'text'; it has id, vector; --texts"),
        ({"text": ["a"]}, "no column 'id' and no column 'vector'; it has text"),
        ({"id": ["a", "b"], "text": ["x", "y"], "vector": [[1.0], None]}, "id 'b' is missing"),
        (
            {"id": ["a", "b"], "text": ["x", "y"], "vector": [[1.0], [1.0, 2.0]]},
            "id 'b' has 2 dimensions, and that of the first row has 1",
        ),
        ({"id": ["a"], "text": ["x"], "vector": [[0.0, 0.0]]}, "'a' is zero or not finite"),
        ({"id": ["a"], "text": ["x"], "vector": [[float("nan")]]}, "'a' is zero or not finite"),
        ({"id": ["a"], "text": ["x"], "vector": ["abc"]}, "is no list of numbers"),
        ({"id": ["a"], "text": ["x"], "vector": [1.5]}, "is no list of numbers"),
        ({"id": ["a"], "text": [None], "vector": [[1.0]]}, "'text' of id 'a' is no text"),
    ],
    ids=[
        "no text",
        "no id",
        "no vector",
        "two sizes",
        "zero",
        "nan",
        "letters",
        "one",
        "null text",
    ],
)
def test_a_bad_index_gets_a_sentence_of_its_own(
    tmp_path: Path, columns: dict[str, Any], said: str
) -> None:
    with pytest.raises(CorpusError, match=said.replace("(", r"\(")):
        read_sample(write(tmp_path / "index.parquet", **columns), None, "text", 100)


def of_index(
    folder: Path, texts: Path, ids: list[str], vectors: Vectors, id_field: str | None = None
) -> Path:
    """A folder as `index` writes it."""
    part_rows = 50
    made = Manifest("m/16", None, digest_of(texts), "text", id_field, len(ids), part_rows)
    with opened(folder, made) as parts:
        for rows in parts.ranges():
            parts.write(rows, ids[rows.start : rows.stop], vectors[rows.start : rows.stop])
    return folder


def test_texts_of_a_corpus_that_grew_are_found_by_the_field_that_index_read(
    tmp_path: Path,
) -> None:
    given, corpus = sample(120), tmp_path / "c.jsonl"
    rows = [{"sku": str(119 - row), "text": f"text {119 - row}"} for row in range(120)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ids = [row["sku"] for row in rows]  # they are also numbers of other rows
    folder = of_index(tmp_path / "index", corpus, ids, given.vectors, "sku")
    with corpus.open("a") as file:
        file.write(json.dumps({"sku": "new", "text": "a new text"}) + "\n")
    found = read_sample(folder, corpus, "text", 100)
    assert [text.text for text in found.texts] == [f"text {text.id}" for text in found.texts]
    for text, vector in zip(found.texts, found.vectors, strict=True):
        np.testing.assert_allclose(vector, given.vectors[ids.index(text.id)], atol=1e-6)


def test_parts_of_a_document_share_its_id_in_a_folder_of_index(tmp_path: Path) -> None:
    given = sample(120)
    ids = [f"doc{row // 3}" for row in range(120)]
    corpus = tmp_path / "c.jsonl"
    rows = [{"id": id, "text": text.text} for id, text in zip(ids, given.texts, strict=True)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = of_index(tmp_path / "m", corpus, ids, given.vectors)
    for most in (120, 100, 7):
        found = read_sample(folder, corpus, "text", most)
        assert len(found.texts) == most
        for text, vector in zip(found.texts, found.vectors, strict=True):
            row = int(text.text.removeprefix("text "))
            np.testing.assert_allclose(vector, given.vectors[row], atol=1e-6)
            assert text.id == ids[row]
    part = max(folder.glob("part-*"))
    part.rename(tmp_path / "away")
    with pytest.raises(CorpusError, match=r"has 100 of 120 rows; go on with the command"):
        read_sample(folder, corpus, "text", 120)
    (tmp_path / "away").rename(part)
    corpus.write_text("".join(json.dumps(row) + "\n" for row in [*rows[1:], rows[0]]))
    with pytest.raises(CorpusError, match=r"40 ids stand in several rows .* the very file"):
        read_sample(folder, corpus, "text", 120)


def test_rows_whose_id_stands_once_are_judged_among_others(tmp_path: Path) -> None:
    given = sample(130)
    ids = [*("same" for _ in range(10)), *(f"d{row}" for row in range(120))]
    vectors = given.vectors.tolist()
    path = write(tmp_path / "own.parquet", id=ids, vector=vectors)
    texts = [text.text for text in given.texts]
    read = read_sample(path, write(tmp_path / "t.parquet", id=ids, text=texts), "text", 1000)
    assert [text.id for text in read.texts] == ids[10:]


@pytest.mark.parametrize("damaged", ["id", "vector"])
def test_damaged_pages_of_an_index_get_a_sentence(tmp_path: Path, damaged: str) -> None:
    rows = [f"a-rather-long-identifier-{row}" for row in range(100)]
    path = write(tmp_path / "i.parquet", id=rows, text=rows, vector=[[1.0] * SIZE] * 100)
    column = parquet.ParquetFile(path).metadata.row_group(0).column(0 if damaged == "id" else 2)
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 60] = b"\xff" * 60
    path.write_bytes(bytes(content))
    with pytest.raises(CorpusError, match=r"i.parquet is damaged: .*; write it again"):
        read_sample(path, None, "text", 100)


def test_an_index_without_rows_says_so(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"id": [], "text": [], "vector": []}
    with pytest.raises(CorpusError, match=r"index\.parquet has no rows"):
        read_sample(write(tmp_path / "index.parquet", **columns), None, "text", 100)


def test_an_empty_folder_and_texts_of_other_ids_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no Parquet files"):
        read_sample(tmp_path, None, "text", 100)
    index = write(tmp_path / "index.parquet", id=["a"], vector=[[1.0]])
    (tmp_path / "texts.jsonl").write_text('{"id": "b", "text": "x"}\n')
    with pytest.raises(CorpusError, match="none of the ids"):
        read_sample(index, tmp_path / "texts.jsonl", "text", 100)


MODEL = {
    "tokenizer": MINILM,
    "dimensions": 384,
    "max_tokens": 256,
    "fingerprint": str(ROOT / "configs" / "fingerprints" / "all-minilm-l6-v2.json"),
}


def config_of(folder: Path, **engine: Any) -> Path:
    engine = {"kind": "transformers", "source": MINILM, "pooling": "mean", **engine}
    args = {
        "models": {"all-minilm-l6-v2": {**MODEL, "engine": engine}},
        "tiers": {"fast": "all-minilm-l6-v2"},
    }
    application = {"name": "r", "import_path": "deployments.app:build", "args": args}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({"applications": [application]}))
    return file


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 short texts with MiniLM's vectors in float32."""
    folder = tmp_path_factory.mktemp("stored")
    with (ROOT / "tests" / "data" / "language" / "banking77-test.csv").open(newline="") as file:
        texts = sorted({row[0] for row in csv.reader(file)}, key=len)[:120]
    config = yaml.safe_load(config_of(folder).read_text())["applications"][0]["args"]

    async def embedded() -> Vectors:
        async with Offline(RouterArgs.model_validate(config), "all-minilm-l6-v2") as engine:
            return await engine.embed(texts, "document")

    vectors = asyncio.run(embedded())
    ids = [str(row) for row in range(len(texts))]
    return write(folder / "index.parquet", id=ids, text=texts, vector=vectors.tolist())


def command(index: Path, config: Path, space: str = "all-minilm-l6-v2/384") -> Result:
    arguments = ["--index", str(index), "--config", str(config), "--space", space, "--json"]
    return CliRunner().invoke(main, ["verify", *arguments])


@pytest.mark.models
@pytest.mark.parametrize(
    ("change", "verdict", "exit_code"),
    [
        (lambda folder: {}, "keep", 0),
        (lambda folder: {"dtype": "bfloat16"}, "keep", 0),
        (lambda folder: {"pooling": "cls"}, "migrate", 4),
        (lambda folder: {"source": with_one_tensor_changed(folder)}, "migrate", 4),
    ],
    ids=["float32", "bfloat16", "another pooling", "one tensor changed"],
)
def test_minilm_as_it_may_be_served(
    stored: Path,
    tmp_path: Path,
    change: Callable[[Path], dict[str, Any]],
    verdict: str,
    exit_code: int,
) -> None:
    done = command(stored, config_of(tmp_path, **change(tmp_path)))
    assert done.exit_code == exit_code, done.output
    said = json.loads(done.stdout)
    assert (said["verdict"], said["texts"]) == (verdict, 120)
    low, high = said["recall_lost_interval"]
    assert low <= said["recall_lost"] <= high
    assert (said["recall_lost"] < 0.05) is (verdict == "keep")


@pytest.mark.models
@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("all-minilm-l7/384", "there is no model 'all-minilm-l7'; there are all-minilm-l6-v2"),
        ("all-minilm-l6-v2/256", "all-minilm-l6-v2 has no vectors of 256 dimensions"),
    ],
    ids=["an unknown model", "a size that it has not"],
)
def test_a_space_that_is_not_served(stored: Path, tmp_path: Path, space: str, said: str) -> None:
    done = command(stored, config_of(tmp_path), space)
    assert done.exit_code == 1
    assert said in done.stderr


def test_an_index_of_another_size(tmp_path: Path) -> None:
    index = write(tmp_path / "index.parquet", id=["a"], text=["x"], vector=[[1.0, 0.0]])
    done = command(index, config_of(tmp_path))
    assert done.exit_code == 1
    assert "vectors of 2 dimensions, and all-minilm-l6-v2/384 has 384" in done.stderr


def test_one_source_of_vectors_is_named(tmp_path: Path) -> None:
    index = write(tmp_path / "index.parquet", id=["a"], text=["x"], vector=[[1.0, 0.0]])
    done = CliRunner().invoke(main, ["verify", "--index", str(index), "--space", "a/2"])
    assert done.exit_code == 2
    assert "either --config or --base-url" in done.stderr
