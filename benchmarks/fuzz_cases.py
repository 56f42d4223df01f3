"""Requests that `benchmarks fuzz` sends besides documented ones: bodies and headers as hypothesis
strategies, and raw bytes.
"""

import json
import random
from collections.abc import Collection
from typing import Any

from hypothesis import strategies as st

from router.batches import BatchBody
from router.rerank_schema import FIELDS as RERANK_FIELDS
from router.schema import FIELDS
from router.shapes.cohere import CohereEmbedRequest
from router.shapes.ollama import OllamaEmbedRequest
from router.shapes.tei import TeiEmbedRequest

# what Serve decodes on its way, and handshakes for another protocol
ODD_HEADERS = (
    *(
        name + b": \xff\r\n"
        for name in (
            b"x-request-id",
            b"serve_multiplexed_model_id",
            b"x-request-timeout-seconds",
            b"x-request-disconnect-disabled",
            b"x-session-id",
            b"traceparent",
        )
    ),
    b"upgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"upgrade: websocket\r\n",
    b"upgrade: h2c\r\n",
)


TEXT = st.text(max_size=40) | st.sampled_from(
    ["", "\0", "\ufeff", "\ufdfa" * 20, "a" * 5000, "１２", "‮abc", "😀" * 50]
)
NUMBER = (
    st.integers() | st.floats() | st.sampled_from([2**63, -(2**63), 10**400, 1e308, -0.0, 1e-320])
)
LEAF = st.none() | st.booleans() | NUMBER | TEXT
VALUE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
RIGHT = st.sampled_from(
    ["fast", "small", "docs", "small/8", "base64", "query", "end", "bulk", 8, 50]
)
SPLICES = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-",
    b"0x1",
    b"01",
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\\u00"',
    b'"\xff"',
    b"'a'",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"9" * 5000,
    b'"a",' * 100,
    b"\x00",
    b"\xef\xbb\xbf",
    b"//c\n",
    b"True",
    b"nan",
]


def _dumped(value: object) -> bytes:
    return json.dumps(value, allow_nan=True).encode("utf-8", "surrogatepass")


@st.composite
def _spliced(draw: st.DrawFn, nearly: st.SearchStrategy[Any]) -> bytes:
    """JSON with an invalid part, or with a duplicate key."""
    body = _dumped(draw(nearly))
    at, splice = draw(st.integers(0, len(body))), draw(st.sampled_from(SPLICES))
    kept = draw(st.integers(at, min(len(body), at + 8)))
    return body[:at] + splice + body[kept:]


A_TEXT = st.text(min_size=1, max_size=40)
SOME_TEXTS = st.lists(A_TEXT, min_size=1, max_size=5)
GOOD = st.fixed_dictionaries(
    {"input": A_TEXT | SOME_TEXTS},
    optional={
        "model": st.sampled_from(["auto", "fast", "best", "SMALL", None]),
        "dimensions": st.sampled_from([4, 8, None]),
        "encoding_format": st.sampled_from(["float", "base64", "int8", "ubinary"]),
        "latency_budget_ms": st.sampled_from([5, 0.5, 1e6]),
        "on_budget_miss": st.sampled_from(["degrade", "serve", "reject"]),
        "space": st.sampled_from(["docs", "both", "large/4", "small/4", None]),
        "input_type": st.sampled_from(["query", "document", "clustering"]),
        "language": st.sampled_from(["en", "zh-Hant"]),
        "truncate": st.sampled_from(["none", "end", "start"]),
        "priority": st.sampled_from(["interactive", "bulk"]),
    },
)
TEI = {"texts", "raw_scores", "return_text", "truncation_direction"}
# what is posted to a path: the fields that a body may have, and bodies that are answered
ROUTES: dict[str, tuple[Collection[str], st.SearchStrategy[Any]]] = {
    **dict.fromkeys(
        ("/v1/embeddings", "/embeddings", "/v1/route", "/openai/deployments/{model}/embeddings"),
        (FIELDS, GOOD),
    ),
    "/v2/embed": (CohereEmbedRequest.model_fields, st.fixed_dictionaries({"texts": SOME_TEXTS})),
    "/embed": (
        TeiEmbedRequest.model_fields,
        st.fixed_dictionaries({"inputs": A_TEXT | SOME_TEXTS}),
    ),
    "/api/embed": (
        OllamaEmbedRequest.model_fields,
        st.fixed_dictionaries({"input": A_TEXT | SOME_TEXTS}),
    ),
    **dict.fromkeys(
        ("/v1/rerank", "/rerank"),
        (
            TEI | set(RERANK_FIELDS),
            st.fixed_dictionaries({"query": A_TEXT, "documents": SOME_TEXTS})
            | st.fixed_dictionaries({"query": A_TEXT, "texts": SOME_TEXTS}),
        ),
    ),
    "/v1/batches": (
        BatchBody.model_fields,
        st.just(
            {
                "input_file_id": "file-1",
                "endpoint": "/v1/embeddings",
                "completion_window": "24h",
            }
        ),
    ),
}


def bodies_of(fields: Collection[str], good: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Valid and invalid bodies of a route."""
    nearly = st.fixed_dictionaries({}, optional=dict.fromkeys(sorted(fields), VALUE | RIGHT))
    first = min(fields)
    return (
        good.map(_dumped)
        | good.map(_dumped)
        | good.map(_dumped)
        | st.binary(max_size=200)
        | nearly.map(_dumped)
        | VALUE.map(_dumped)
        | _spliced(nearly)
        | st.tuples(nearly, VALUE).map(
            lambda two: (
                _dumped(two[0])[:-1]
                + f',"{first}":'.encode()
                + _dumped(two[1])
                + f',"{first}":"b"}}'.encode()
            )
        )
        | nearly.map(lambda value: json.dumps(value).encode("utf-16"))
        | nearly.map(lambda value: json.dumps(value).encode("utf-32-be"))
        | st.integers(1, 60_000).map(
            lambda depth: b'{"input":' + b"[" * depth + b"]" * depth + b"}"
        )
    )


LINE = st.binary(max_size=60).map(
    lambda value: bytes(byte for byte in value if byte not in b"\r\n\0")
)
BODIES = {path: bodies_of(*route) for path, route in ROUTES.items()}
HEADER_VALUE = LINE | st.sampled_from(
    [
        b"fast",
        b"5",
        b"1e9",
        b"-1",
        b"nan",
        b"small/8",
        b"small/999999999999",
        b"\xe9\xff",
        b"a" * 4000,
        b"9" * 400,
    ]
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "x-quality-tier",
            "x-latency-budget-ms",
            "x-embedding-space",
            "x-request-id",
            "content-type",
            "accept",
            "origin",
            "api-key",
            "authorization",
            "accept-encoding",
            "traceparent",
            "cookie",
            "x-forwarded-for",
            "content-encoding",
            "expect",
            "range",
        ]
    ),
    HEADER_VALUE,
    max_size=4,
)


def raw(rng: random.Random, key: bytes) -> bytes:
    """One request as bytes, with an error in it."""
    body = b'{"input":"a"}'
    lengths = rng.choice(
        [
            b"content-length: 13\r\n",
            b"content-length: 5\r\n",
            b"content-length: 500\r\n",
            b"content-length: -1\r\n",
            b"content-length: 13\r\ncontent-length: 14\r\n",
            b"content-length: 13, 13\r\n",
            b"content-length: 99999999999999999999\r\n",
            b"",
            b"content-length: 13\r\ntransfer-encoding: chunked\r\n",
            b"transfer-encoding: chunked\r\n",
            b"content-length: \xb2\r\n",
            b"transfer-encoding: gzip, chunked\r\n",
            b"content-length: 0x0d\r\n",
            b"content-length: +13\r\n",
        ]
    )
    if b"chunked" in lengths:
        chunk = rng.choice([b"d", b"d", b"ffffffff", b"zz", b"d;" + b"x" * 9000])
        body = chunk + b"\r\n" + body + rng.choice([b"\r\n0\r\n\r\n", b""])
    more = rng.choice(
        [
            b"",
            b"".join(
                b"x-%d: %s\r\n" % (index, b"v" * rng.randrange(50))
                for index in range(rng.randrange(300))
            ),
            b"x: " + b"y" * rng.randrange(70_000) + b"\r\n",
            b"no colon\r\n",
            b": no name\r\n",
            b"x y: z\r\n",
            b"x: a\r\n b\r\n",
            b"x: \x00\r\n",
            b"host: a\r\nhost: b\r\n",
            b"authorization: Bearer a\r\nauthorization: Bearer b\r\n",
        ]
    )
    target = rng.choice(
        [
            b"/v1/embeddings",
            b"/v1/embeddings/",
            b"//v1//embeddings",
            b"/v1/models/%00",
            b"/v1/models/%ff%fe",
            b"/v1/models/" + b"a" * 9000,
            b"/v1/../v1/tiers",
            b"*",
            b"http://elsewhere/v1/models",
            b"/v1/models/\xff",
            b"",
            b"/%2e%2e/%2e%2e/etc/passwd",
            b"/?" + b"&" * 500,
        ]
    )
    method = rng.choice(
        [
            b"POST",
            b"POST",
            b"GET",
            b"HEAD",
            b"PUT",
            b"DELETE",
            b"OPTIONS",
            b"TRACE",
            b"CONNECT",
            b"G\x00T",
            b"post",
            b"X" * 500,
        ]
    )
    version = rng.choice([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b""])
    first = b" ".join((method, target, version))
    whole = first + b"\r\nhost: a\r\nconnection: close\r\n" + key + lengths + more + b"\r\n" + body
    return whole[: rng.randrange(1, len(whole))] if rng.random() < 0.2 else whole
