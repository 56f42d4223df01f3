import base64
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from router.answers import Routing
from router.config import Limits
from router.encoding import encode, estimated_bytes, quantise
from router.schema import EncodingFormat
from router.shapes.form import AnswerContent
from router.shapes.table import FORMS

ROUTING = Routing(
    model="small",
    tier="fast",
    reason="rule:long",
    space="small/3",
    language=None,
    tokens=7,
    predicted_ms=1.5,
    degraded=False,
    cached=1,
    truncated=[1],
    adapter=None,
    encoder="native",
    expected_recall=None,
    canary=False,
)
FORMATS: list[EncodingFormat] = ["float", "base64", "int8", "uint8", "binary", "ubinary"]
DTYPES = {"base64": "<f4", "int8": "i1", "uint8": "u1", "binary": "i1", "ubinary": "u1"}
finite = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 20)),
    elements=st.floats(-1.0, 1.0, width=32, allow_subnormal=False),
)


def decode(body: bytes, encoding_format: str) -> npt.NDArray[Any]:
    """As a client reads it."""
    embeddings = [item["embedding"] for item in json.loads(body)["data"]]
    if encoding_format == "float":
        return np.array(embeddings, dtype=np.float32)
    return np.stack(
        [np.frombuffer(base64.b64decode(text), DTYPES[encoding_format]) for text in embeddings]
    )


def send(vectors: Any, encoding_format: EncodingFormat) -> npt.NDArray[Any]:
    return decode(
        encode(np.asarray(vectors, dtype=np.float32), encoding_format, ROUTING, 7), encoding_format
    )


@pytest.mark.parametrize("encoding_format", FORMATS)
@pytest.mark.parametrize("rows", [1, 3], ids=["one", "many"])
def test_the_response_is_openai_s_with_routing_beside_it(
    encoding_format: EncodingFormat, rows: int
) -> None:
    body = json.loads(encode(np.eye(3, dtype=np.float32)[:rows], encoding_format, ROUTING, 7))
    assert list(body) == ["object", "data", "model", "usage", "routing"]
    assert [(item["object"], item["index"], list(item)) for item in body["data"]] == [
        ("embedding", index, ["object", "index", "embedding"]) for index in range(rows)
    ]
    assert body["object"] == "list"
    assert body["model"] == "small"
    assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert body["routing"] == {
        "model": "small",
        "tier": "fast",
        "reason": "rule:long",
        "space": "small/3",
        "language": None,
        "tokens": 7,
        "predicted_ms": 1.5,
        "degraded": False,
        "cached": 1,
        "truncated": [1],
        "adapter": None,
        "encoder": "native",
        "expected_recall": None,
        "canary": False,
    }


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
@given(
    hnp.arrays(
        np.float32, (2, 5), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    )
)
def test_floats_come_back_bit_for_bit(
    encoding_format: EncodingFormat, vectors: npt.NDArray[np.float32]
) -> None:
    assert send(vectors, encoding_format).tobytes() == vectors.tobytes()


def test_a_slice_and_big_endian_numbers_are_sent_as_what_they_mean() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2]
    for encoding_format in ("float", "base64"):
        assert (send(vectors, encoding_format) == vectors).all()
        big = encode(vectors.astype(">f4"), encoding_format, ROUTING, 7)
        assert (decode(big, encoding_format) == vectors).all()


def test_base64_is_little_endian_float32() -> None:
    body = json.loads(encode(np.array([[1.0, -2.0]], dtype=np.float32), "base64", ROUTING, 7))
    assert base64.b64decode(body["data"][0]["embedding"]) == bytes.fromhex("0000803f000000c0")


@given(finite)
def test_int8_scales_each_vector_by_its_own_largest_value(vectors: npt.NDArray[np.float32]) -> None:
    sent = send(vectors, "int8").astype(np.float64)
    largest = np.abs(vectors.astype(np.float64)).max(axis=1, keepdims=True)
    assert (np.abs(sent).max(axis=1, keepdims=True)[largest > 0] == 127).all()
    assert (np.abs(sent * largest / 127 - vectors) <= largest / 254 * (1 + 1e-5)).all()


def test_int8_keeps_cosine() -> None:
    vectors = np.random.default_rng(0).standard_normal((20, 384), dtype=np.float32)
    sent = send(vectors, "int8").astype(np.float64)

    def cosines(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit @ unit.T

    np.testing.assert_allclose(cosines(sent), cosines(vectors.astype(np.float64)), atol=0.002)


@given(finite)
def test_uint8_is_int8_moved_by_128(vectors: npt.NDArray[np.float32]) -> None:
    assert (send(vectors, "uint8").astype(int) - 128 == send(vectors, "int8")).all()


def test_a_zero_vector_stays_zero_in_eight_bits() -> None:
    assert send(np.zeros((1, 4)), "int8").tolist() == [[0, 0, 0, 0]]
    assert send(np.zeros((1, 4)), "uint8").tolist() == [[128, 128, 128, 128]]


def test_binary_packs_signs_first_dimension_highest() -> None:
    vectors = [[1, -1, 1, 0, -0.5, 0.5, -1, 1, 0.1, -1]]
    assert send(vectors, "ubinary").tolist() == [[0b10100101, 0b10000000]]
    assert send(vectors, "binary").tolist() == [[0b10100101 - 128, 0]]


@given(finite)
def test_binary_is_the_definition_of_cohere_and_sentence_transformers(
    vectors: npt.NDArray[np.float32],
) -> None:
    bits = np.packbits(vectors > 0, axis=1)
    assert (send(vectors, "ubinary") == bits).all()
    assert (send(vectors, "binary") == (bits.astype(int) - 128).astype(np.int8)).all()


@pytest.mark.parametrize("encoding_format", FORMATS)
def test_encoding_leaves_the_vectors_alone(encoding_format: EncodingFormat) -> None:
    vectors = np.array([[0.5, -0.25, 0.0]], dtype=np.float32)
    vectors.flags.writeable = False
    quantise(vectors, encoding_format)
    encode(vectors, encoding_format, ROUTING, 7)
    assert vectors.tolist() == [[0.5, -0.25, 0.0]]


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize(
    ("handler", "body"),
    [
        *(("embed", {"input": ["a"], "encoding_format": kind}) for kind in FORMATS),
        *(("cohere_embed", {"texts": ["a"], "embedding_types": [kind]}) for kind in FORMATS),
        ("cohere_embed", {"texts": ["a"], "embedding_types": FORMATS}),
        ("ollama_embed", {"input": ["a"]}),
        ("tei_embed", {"inputs": ["a"]}),
    ],
    ids=str,
)
def test_the_size_of_an_answer_is_known_before_it_is_written(
    handler: str, body: dict[str, Any], count: int
) -> None:
    incoming = FORMS[handler].read(json.dumps(body).encode(), Limits(), False, "")
    vectors = np.random.default_rng(1).normal(0, 0.05, (count, 2048)).astype(np.float32)
    size = len(incoming.write(AnswerContent(vectors, ROUTING, 7, "id")))
    assert 0.6 * size - 600 <= estimated_bytes(count, 2048, incoming.bytes_each) <= 1.5 * size
