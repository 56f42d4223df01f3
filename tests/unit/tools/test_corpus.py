from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from deployments.tools.corpus import (
    CorpusError,
    Text,
    as_id,
    count_rows,
    read_judgements,
    read_texts,
)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("lines", "ids"),
    [
        ('{"id": "a", "text": "x"}\n\n{"id": 7, "text": "y"}\n', ["a", "7"]),
        ('{"_id": "a", "text": "x", "title": "t"}\n{"_id": "b", "text": "y"}', ["a", "b"]),
        ('{"text": "x"}\n{"text": "y"}\n', ["0", "1"]),
    ],
    ids=["id", "BEIR", "no id"],
)
def test_json_lines_are_read_with_their_ids(tmp_path: Path, lines: str, ids: list[str]) -> None:
    path = write(tmp_path / "c.jsonl", lines)
    assert list(read_texts(path)) == [Text(ids[0], "x"), Text(ids[1], "y")]
    assert count_rows(path) == 2


def test_parquet_is_read_like_json_lines(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"key": [1, 2], "body": ["x", "naïve"]}), tmp_path / "c.parquet")
    assert list(read_texts(tmp_path / "c.parquet", "body", "key")) == [
        Text("1", "x"),
        Text("2", "naïve"),
    ]
    assert count_rows(tmp_path / "c.parquet") == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.jsonl", '{"text": "x"}\n{"body": "y"}\n', "row 1: 'text' is no text; it has body"),
        ("c.jsonl", '{"text": ""}\n', "row 0: 'text' is no text"),
        ("c.jsonl", '{"text": 3}\n', "row 0: 'text' is no text"),
        ("c.jsonl", '{"text": "x"}\n{"text": \n', "line 2: not JSON"),
        ("c.jsonl", '["x"]\n', "line 1: it must be a JSON object"),
        ("c.csv", "text\nx\n", "write texts as JSON lines"),
        ("c.parquet", "no parquet", "c.parquet: "),
    ],
    ids=["no text", "empty text", "a number", "not JSON", "a list", "csv", "not parquet"],
)
def test_what_is_no_text_is_named_with_its_row(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    with pytest.raises(CorpusError, match=r"(?s).*") as refused:
        list(read_texts(write(tmp_path / name, content)))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "lines",
    [
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td3\t2\n",
        "q1 0 d1 1\nq1 0 d2 0\nq2 0 d3 1\n\n",
        "q1\t0\td1\t1\r\nq1\t0\td2\t0\r\nq2 \t Q0\td3\t1\t\r\n",
    ],
    ids=["BEIR", "TREC", "TREC with tabs"],
)
def test_judgements_are_read_without_those_that_say_no(tmp_path: Path, lines: str) -> None:
    assert read_judgements(write(tmp_path / "qrels", lines)) == {"q1": {"d1"}, "q2": {"d3"}}


@pytest.mark.parametrize("text", [b'{"text": "\xff"}\n', b"\x80\x02 binary\n"])
def test_what_is_no_text_at_all_is_said_to_be_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "c.jsonl").write_bytes(text)
    with pytest.raises(CorpusError, match="line 1: not UTF-8"):
        list(read_texts(tmp_path / "c.jsonl"))
    (tmp_path / "qrels").write_bytes(b"q1 d1 1\n" + text + b"\xff \xff 1\n")
    with pytest.raises(CorpusError, match="line 2: it must be `query document score`"):
        read_judgements(tmp_path / "qrels")


def test_an_id_with_spaces_is_whole_between_tabs(tmp_path: Path) -> None:
    lines = "query\tdocument\tscore\nq1\tdoc 1\t1\nthe q 2\tdoc 2\t1\n"
    found = read_judgements(write(tmp_path / "qrels", lines))
    assert found == {"q1": {"doc 1"}, "the q 2": {"doc 2"}}


@pytest.mark.parametrize("line", ["q1 d2", "q1 1", "q1 a d 2 1", "q1\td 1 1"])
def test_a_line_that_is_no_judgement_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(CorpusError, match="line 2"):
        read_judgements(write(tmp_path / "qrels", f"q1 d1 1\n{line}\n"))


def test_only_a_heading_is_skipped(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="line 1"):
        read_judgements(write(tmp_path / "qrels", "q1 0 doc 1 1\nq1 0 d2 1\n"))


@pytest.mark.parametrize(
    ("value", "id"),
    [("a", "a"), (7, "7"), (-3, "-3"), (1.0, "1"), (b"caf\xc3\xa9", "café"), (2**60, str(2**60))],
    ids=repr,
)
def test_an_id_is_text_or_a_whole_number(value: object, id: str) -> None:
    assert as_id(value) == id


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (True, "is neither text nor a whole number"),
        (1.5, "is neither text nor a whole number"),
        (float("nan"), "is neither text nor a whole number"),
        (1e300, "is neither text nor a whole number"),
        ({"x": 1}, "is neither text nor a whole number"),
        (["a"], "is neither text nor a whole number"),
        (b"\xff", "is not UTF-8"),
        ("", "is empty"),
        ("  ", "is empty"),
        (b"", "is empty"),
    ],
    ids=repr,
)
def test_any_other_id_is_refused(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        as_id(value)


def test_an_id_that_is_refused_is_named_with_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", '{"id": "a", "text": "x"}\n{"id": false, "text": "y"}\n')
    with pytest.raises(CorpusError, match=r"c.jsonl, row 1: its id False is neither text"):
        list(read_texts(path))


def test_damaged_pages_are_said(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    parquet.write_table(pa.table({"text": [f"the text {row}" for row in range(200)]}), path)
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 60 + content[64:])
    with pytest.raises(CorpusError, match=r"c.parquet is damaged: .*; write it again"):
        list(read_texts(path))
