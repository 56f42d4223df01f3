"""What a user's files may look like, and what is said of each line that cannot be used."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from deployments.tools.advise.inputs import InputReader, Inputs, Labelled, Pair, sampled
from deployments.tools.advise.rows import InputError
from deployments.tools.corpus import Text

LINES = ['{"id": "a", "text": "one"}', '{"id": "b", "text": "two"}']


def file(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return folder / "rows.parquet"


def test_the_three_formats_are_read_alike(tmp_path: Path) -> None:
    wanted = [Text("a", "one"), Text("b", "zwei, drei\nvier")]
    rows = [text._asdict() for text in wanted]
    jsonl = file(tmp_path, "rows.jsonl", "\ufeff" + "\n\n".join(map(json.dumps, rows)))
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8-sig") as made:
        table = csv.DictWriter(made, ("text", "id"))
        table.writeheader()
        table.writerows(rows)
    for path in (jsonl, tmp_path / "rows.csv", parquet(tmp_path, rows)):
        reader = InputReader(skip_bad=False)
        assert reader.texts(path) == wanted, path
        assert reader.settle() == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.jsonl", "\n".join([*LINES, '{"id": "c", "text"']), "line 3: not JSON"),
        ("x.jsonl", "\n".join([*LINES, "[1]"]), "line 3: it must be a JSON object"),
        ("x.jsonl", "\n".join([*LINES, '{"id": "c"}']), "line 3: 'text' is missing; it has id"),
        ("x.jsonl", "\n".join([*LINES, '{"id": "c", "text": " "}']), "line 3: 'text' is no text"),
        (
            "x.jsonl",
            "\n".join([*LINES, '{"id": "a", "text": "again"}']),
            "line 3: id 'a' is that of {path}, line 1 too",
        ),
        (
            "x.jsonl",
            "\n".join(LINES).encode() + b'\n{"id": "c", "text": "\xff"}',
            "line 3: not UTF-8",
        ),
        (
            "x.csv",
            'id,text\na,one\nb,"two\nlines"\nc\n',
            "line 5: it has 1 columns and the file has 2 (id, text)",
        ),
        ("x.csv", b"id,text\na,one\nb,\xff\xfe\n", "line 3: it is not UTF-8"),
    ],
)
def test_a_broken_line_is_named_and_skipped_only_on_request(
    tmp_path: Path, name: str, text: str | bytes, said: str
) -> None:
    path = file(tmp_path, name, text)
    strict = InputReader(skip_bad=False)
    strict.texts(path)
    with pytest.raises(InputError) as refused:
        strict.settle()
    wanted = f"{path}, {said.format(path=path)}"
    assert str(refused.value).startswith(wanted)
    assert "1 line is broken: fix it, or leave it out with --skip-bad" in str(refused.value)
    loose = InputReader(skip_bad=True)
    assert len(loose.texts(path)) == (1 if b"\xff\xfe" in path.read_bytes() else 2)
    assert loose.settle()[0].startswith(f"skipped {wanted}")


def test_a_broken_row_of_parquet_has_its_number(tmp_path: Path) -> None:
    reader = InputReader(skip_bad=False)
    path = parquet(tmp_path, [{"id": "a", "text": "one"}, {"id": "b", "text": None}])
    reader.texts(path)
    with pytest.raises(InputError, match="row 1: 'text' is no text"):
        reader.settle()


def test_many_broken_lines_are_counted_and_few_are_shown(tmp_path: Path) -> None:
    reader = InputReader(skip_bad=False)
    reader.texts(file(tmp_path, "x.jsonl", "\n".join([*LINES, *["{"] * 40])))
    with pytest.raises(InputError) as refused:
        reader.settle()
    assert len(str(refused.value).splitlines()) == 12
    assert "and 30 more lines" in str(refused.value)
    assert "40 lines are broken" in str(refused.value)


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_an_empty_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="it is empty"):
        InputReader(skip_bad=True).texts(file(tmp_path, name, ""))


def test_a_file_without_one_good_line_is_an_error_even_when_lines_may_be_skipped(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        InputError, match=r"no line of it can be used; the first: .*line 1: not JSON"
    ):
        InputReader(skip_bad=True).texts(file(tmp_path, "x.jsonl", "{\n{\n"))


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"write it as JSON lines \(.jsonl\), CSV"):
        InputReader(skip_bad=False).texts(file(tmp_path, "x.xlsx", "PK"))


def test_pairs_may_come_without_a_heading(tmp_path: Path) -> None:
    bare = file(tmp_path, "a.csv", 'A girl.,"Yes, a girl.",2.5\nOne,Two,0\n')
    headed = file(
        tmp_path, "b.csv", 'sentence1,sentence2,score\nA girl.,"Yes, a girl.",2.5\nOne,Two,0\n'
    )
    for path in (bare, headed):
        assert InputReader(skip_bad=False).pairs(path) == [
            Pair("A girl.", "Yes, a girl.", 2.5),
            Pair("One", "Two", 0.0),
        ]


def test_a_score_that_is_no_number_is_named(tmp_path: Path) -> None:
    reader = InputReader(skip_bad=True)
    path = file(tmp_path, "a.csv", "a,b,score\nx,y,1\nx,z,high\nx,w,nan\nx,v,2\n")
    assert [pair.score for pair in reader.pairs(path)] == [1.0, 2.0]
    assert [note.partition(", ")[2] for note in reader.settle()] == [
        "line 3: its score 'high' is no number",
        "line 4: its score 'nan' is no number",
    ]


def test_scores_that_are_all_alike_cannot_order_anything(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every pair has the score 1"):
        InputReader(skip_bad=False).pairs(file(tmp_path, "a.csv", "a,b,1\nc,d,1\n"))


def test_labels_may_say_which_texts_teach(tmp_path: Path) -> None:
    path = file(tmp_path, "a.csv", "text,category,split\nx,1,train\ny,2,train\nz,1,test\n")
    wanted = [Labelled("x", "1", True), Labelled("y", "2", True), Labelled("z", "1", False)]
    assert InputReader(skip_bad=False).labelled(path) == wanted
    with pytest.raises(InputError, match="no row of 'test'"):
        InputReader(skip_bad=False).labelled(
            file(tmp_path, "b.csv", "text,label,split\nx,1,train\ny,2,train\n")
        )
    with pytest.raises(InputError, match="every text has the label '1'"):
        InputReader(skip_bad=False).labelled(file(tmp_path, "c.csv", "text,label\nx,1\ny,1\n"))


def test_judgements_of_what_is_not_there_are_named(tmp_path: Path) -> None:
    texts = [Text("a", "one"), Text("b", "two")]
    path = file(
        tmp_path,
        "q.tsv",
        "query\tdocument\tgrade\nq1 0 a 2\nq1 b 0\nq9 a 1\nq1 z 1\nq2 a\nq2 b 1\n",
    )
    reader = InputReader(skip_bad=True)
    found = reader.judgements(path, [Text("q1", "?"), Text("q2", "?")], texts)
    assert found == {"q1": {"a": 2, "b": 0}, "q2": {"b": 1}}
    assert [note.partition(", ")[2] for note in reader.settle()] == [
        "line 4: there is no query 'q9'",
        "line 5: there is no document 'z'",
        "line 6: it has 2 columns; write `query document grade`, with the grade 1 where a document "
        "is simply relevant",
    ]


def test_judgements_of_two_columns_are_named_as_such(tmp_path: Path) -> None:
    path = file(tmp_path, "q.tsv", "1\t11\n2\t12\n")
    reader = InputReader(skip_bad=False)
    reader.judgements(path, [Text("1", "?"), Text("2", "?")], [Text("11", "a"), Text("12", "b")])
    with pytest.raises(InputError, match="line 1: it has 2 columns; write `query document grade`"):
        reader.settle()


@pytest.mark.parametrize(
    ("heading", "said"),
    [
        (
            "text1,text2,similarity_score",
            "it has no score or similarity or label; it has text1, text2, similarity_score; rename "
            "'similarity_score' to 'score'",
        ),
        ("text1,text2,points", "it has no score or similarity or label; it has text1, text2, po"),
        ("text1,text2,score", "its 'score' is empty"),
    ],
)
def test_a_missing_column_is_named_with_those_that_there_are(
    tmp_path: Path, heading: str, said: str
) -> None:
    reader = InputReader(skip_bad=False)
    value = "" if heading.endswith(",score") else "1"
    reader.pairs(file(tmp_path, "p.csv", f"{heading}\none,other,{value}\n"))
    with pytest.raises(InputError) as refused:
        reader.settle()
    assert said in str(refused.value)


def test_several_searches_are_told_apart() -> None:
    one = Inputs(
        [Text("a", "one")], [Text("q", "?")], {"q": {"a": 1}}, names={"queries": "x.jsonl"}
    )
    other = Inputs(
        [Text("a", "two")], [Text("q", "!")], {"q": {"a": 1}}, names={"queries": "y.csv"}
    )
    both = Inputs(one.documents, one.queries, one.judgements, names=one.names, more=[other])
    assert list(both.retrieval) == ["x", "y"]
    assert both.digest() != one.digest()
    kept = sampled(both, 30)
    assert [text.text for text in kept.retrieval["y"].documents] == ["two"]


@pytest.mark.parametrize("grade", ["0.5", "inf", "nan"])
def test_a_grade_that_is_no_whole_number_is_named_and_never_rounded(
    tmp_path: Path, grade: str
) -> None:
    path = file(tmp_path, "q.tsv", f"q1 a {grade}\nq1 b 1.0\n")
    reader = InputReader(skip_bad=True)
    assert reader.judgements(path, [Text("q1", "?")], [Text("a", "one"), Text("b", "two")]) == {
        "q1": {"b": 1}
    }
    assert reader.settle() == [f"skipped {path}, line 1: the grade {grade} is not a whole number"]


def test_a_long_document_may_stand_in_a_cell(tmp_path: Path) -> None:
    long = "many words " * 20_000
    assert InputReader(skip_bad=False).texts(file(tmp_path, "a.csv", f"id,text\na,{long}\n")) == [
        Text("a", long)
    ]


def test_a_sample_keeps_what_is_judged_and_says_what_it_left_out() -> None:
    documents = [Text(str(place), f"text {place}") for place in range(100)]
    queries = [Text("q", "?"), Text("unjudged", "?")]
    made = sampled(
        Inputs(documents, queries, {"q": {"97": 1, "98": 0}}, names={"texts": "t.jsonl"}), 30
    )
    ids = {text.id for text in made.documents}
    assert {"97", "98"} <= ids
    assert len(ids) == 30
    assert [query.id for query in made.queries] == ["q"]
    assert made.notes == [
        "1 queries have no relevant document and were left out",
        "t.jsonl: 30 of 100 rows were measured, evenly spaced (--most takes more)",
    ]


def test_other_inputs_have_another_digest() -> None:
    one = Inputs(
        [Text("a", "one")],
        [],
        {"q": {"a": 1}},
        {"p": [Pair("x", "y", 1.0)]},
        {"l": [Labelled("x", "y", None)]},
    )
    digest = one.digest()
    for change in (
        {"documents": [Text("a", "two")]},
        {"judgements": {"q": {"a": 2}}},
        {"pairs": {"p": [Pair("x", "y", 1.1)]}},
        {"labelled": {"l": [Labelled("x", "z", None)]}},
    ):
        other = Inputs(one.documents, one.queries, one.judgements, one.pairs, one.labelled)
        for name, value in change.items():
            setattr(other, name, value)
        assert other.digest() != digest


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (Inputs([Text(str(place), f"{place % 11}") for place in range(40)],
        names={"texts": "t.jsonl"}), "t.jsonl: 11 different"),
        (Inputs(pairs={"p": [Pair("x", "y", place) for place in range(29)]}),
        "p: 29 judged rows tell nothing; 30 is the least"),
        (Inputs(labelled={"l": [Labelled("x", "y", place > 28) for place in range(99)]}),
        "l: 29 judged rows"),
        (Inputs(judgements={"q": {"a": 1}}, names={"queries": "q.jsonl"}),
        "q.jsonl: 1 judged rows"),
    ],
    ids=["texts", "pairs", "labels", "queries"],
)  # fmt: skip
def test_too_little_to_tell_anything_is_said_before_it_is_embedded(
    inputs: Inputs, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        inputs.check()


def test_enough_is_enough() -> None:
    Inputs([Text(str(place), f"text {place}") for place in range(12)]).check()
    Inputs([Text("a", "one")], pairs={"p": [Pair("x", "y", place) for place in range(30)]}).check()
