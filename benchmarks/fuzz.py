"""Send invalid and odd requests, and count violations.

Three sources, on real sockets against the whole router with fake engines, once open and once with
keys:
- schemathesis generates valid and invalid requests of every documented operation, and checks every
  answer against the document: status, content type, headers, body;
- hypothesis generates bodies and headers: JSON that is almost valid, deep, huge, with NaN,
  surrogates or duplicate keys, or no JSON at all;
- raw bytes are written to the socket: wrong lengths, broken chunks, many headers, no end.
"""

import json
import logging
import random
import re
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from benchmarks.fuzz_cases import BODIES, HEADERS, ODD_HEADERS, ROUTES, raw
from benchmarks.marks import Row, at_most, conclude, numbers, to_file
from router.errors import BudgetUnreachable
from router.keys import hash_of, new_key
from tests.support.local_service import served

HANG_S = 20.0  # without an answer; fake engines answer in milliseconds
DOCUMENTED = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
KEY = new_key(bytes(32))
MODEL: dict[str, Any] = {
    "engine": {"kind": "fake"},
    "dimensions": 8,
    "max_tokens": 512,
    "matryoshka": [4],
}
OPEN: dict[str, Any] = {
    "models": {"small": MODEL, "large": MODEL},
    "tiers": {"fast": "small", "best": "large"},
    "collections": {"docs": "small/8", "both": {"spaces": ["small/8", "large/4"]}},
    "rerankers": {
        "reads": {
            "engine": {"kind": "fake"},
            "template": "{instruction} {query} {document}",
            "instruction": "Find",
            "max_tokens": 512,
        },
        "compares": {"engine": {"kind": "similarity", "model": "small"}},
    },
    "rerank_tiers": {"fast": "reads", "best": "compares"},
}
LOCKED = OPEN | {
    "keys": {
        "some": {
            "hash": hash_of(KEY),
            "tiers": ["fast"],
            "collections": [],
            "requests_per_minute": 600,
            "tokens_per_minute": 20_000,
        },
    }
}
TRACES = re.compile(rb"Traceback|File \"|site-packages|\.py\b")


@dataclass
class FuzzCounts:
    """Counts of answers; `problems` has one entry for each violation."""

    cases: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    failures: int = 0  # answers of 500 and above that nobody asked for
    refusals: int = 0  # 503 budget_unreachable: what `on_budget_miss: reject` asks for
    hangs: int = 0
    slowest_s: float = 0.0

    def answered(self, source: str, status: int, body: bytes, took_s: float, what: str) -> None:
        """Count an answer and its violations."""
        self.cases[source] += 1
        self.statuses[status] += 1
        self.slowest_s = max(self.slowest_s, took_s)
        if is_refusal(status, body):
            self.refusals += 1
        elif status >= 500:
            self.failures += 1
            self.problems.append(f"{source}: {status} for {what}")
        if TRACES.search(body):
            self.problems.append(f"{source}: a trace in the answer to {what}")

    def hung(self, source: str, what: str) -> None:
        """Count a request that was not answered in time."""
        self.cases[source] += 1
        self.hangs += 1
        self.problems.append(f"{source}: no answer within {HANG_S:g} s to {what}")


def is_refusal(status: int, body: bytes) -> bool:
    """Whether a budget that no model can meet was refused, as the request asked."""
    if status != httpx.codes.SERVICE_UNAVAILABLE:
        return False
    try:
        return bool(json.loads(body)["error"]["code"] == BudgetUnreachable.code)
    except (ValueError, KeyError, TypeError):
        return False


def fuzz(cases: int, start: int = 0) -> FuzzCounts:
    """Send about `cases` requests; the same `start` sends the same requests."""
    tally = FuzzCounts()
    for args, headers in ((OPEN, {}), (LOCKED, {"authorization": f"Bearer {KEY}"}), (LOCKED, {})):
        some = cases // 3 if headers or args is OPEN else cases - 2 * (cases // 3)
        with (
            tempfile.TemporaryDirectory() as folder,
            served({**args, "batches": {"folder": folder}}) as (url, _),
        ):
            # it has a warning for each request that is none
            logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
            documented(tally, url, headers, some // 2, start)
            bodies(tally, url, headers, some // 3, start)
            sockets(tally, url, headers, some // 6, start)
            if httpx.get(f"{url}/health", timeout=HANG_S).status_code != httpx.codes.OK:
                tally.problems.append("the service is not healthy after all this")
    return tally


def documented(
    tally: FuzzCounts, url: str, headers: Mapping[str, str], cases: int, start: int
) -> None:
    """Send valid and invalid requests that are generated from the document, and check every answer
    against it.
    """
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    weights = {
        operation.label: 6 if operation.method.upper() == "POST" else 1 for operation in operations
    }
    for operation in operations:
        each = max(2, cases * weights[operation.label] // sum(weights.values()) // 2)
        # nothing can be wrong about a request that has only a path
        may_be_wrong = operation.body or operation.query or operation.headers
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)[: 2 if may_be_wrong else 1]:
            strategy = operation.as_strategy(generation_mode=mode)
            source = f"schemathesis, {mode.value}"

            def one(case: Any, source: str = source) -> None:
                what = f"{case.method} {case.formatted_path} {str(case.body)[:200]}"
                begun_s = time.monotonic()
                try:
                    response = case.call(base_url=url, headers=dict(headers), timeout=HANG_S)
                except Exception as error:
                    if "timed out" in str(error).lower() or "timeout" in str(error).lower():
                        tally.hung(source, what)
                    return  # what cannot be sent at all, e.g. a header with a line break
                tally.answered(
                    source, response.status_code, response.content, time.monotonic() - begun_s, what
                )
                checks = (
                    DOCUMENTED
                    if is_refusal(response.status_code, response.content)
                    else [not_a_server_error, *DOCUMENTED]
                )
                try:
                    case.validate_response(response, checks=checks)
                except FailureGroup as error:
                    tally.problems.append(f"{source}: {what}: {' '.join(str(error).split())[:600]}")

            _each(strategy, each, start, one)


class Reference:
    """The document, for checking answers to requests that schemathesis did not generate."""

    def __init__(self, url: str) -> None:
        self._document = httpx.get(f"{url}/openapi.json", timeout=HANG_S).json()
        self._validators: dict[tuple[str, int], Draft202012Validator] = {}

    def allows(self, path: str, status: int, content_type: str | None, body: bytes) -> bool:
        """Whether this answer to a POST to `path` is documented."""
        if body == b"Invalid HTTP request received.":  # by the server, before the application
            return True
        try:
            data = json.loads(body)
            validator = self._validator(path, status)
        except (ValueError, KeyError):
            return False
        return content_type == "application/json" and bool(validator.is_valid(data))

    def _validator(self, path: str, status: int) -> Draft202012Validator:
        if (path, status) not in self._validators:
            answer = self._document["paths"][path]["post"]["responses"][str(status)]
            if "$ref" in answer:
                answer = self._document["components"]["responses"][str(status)]
            schema = answer["content"]["application/json"]["schema"]
            self._validators[path, status] = Draft202012Validator(
                {**schema, "components": self._document["components"]}
            )
        return self._validators[path, status]


def bodies(tally: FuzzCounts, url: str, headers: Mapping[str, str], cases: int, start: int) -> None:
    """Send bodies and headers that no schema generates, to every route that reads JSON."""
    reference, source = Reference(url), "bodies and headers"
    with httpx.Client(base_url=url, timeout=HANG_S, headers=dict(headers)) as client:

        def one(case: tuple[str, tuple[str, bytes], dict[str, bytes]]) -> None:
            address, (path, body), given = case
            sent_to = address + path.replace("{model}", "small")
            what, begun_s = f"{sent_to} {body[:120]!r} {given}", time.monotonic()
            try:
                answer = client.post(
                    sent_to,
                    content=body,
                    headers=[(name.encode(), value) for name, value in given.items()],
                )
            except httpx.TimeoutException:
                tally.hung(source, what)
            except (httpx.HTTPError, ValueError, UnicodeError):
                return
            else:
                took_s = time.monotonic() - begun_s
                tally.answered(source, answer.status_code, answer.content, took_s, what)
                content_type = answer.headers.get("content-type")
                if not reference.allows(path, answer.status_code, content_type, answer.content):
                    tally.problems.append(
                        f"{source}: {answer.status_code} {content_type} {answer.content[:80]!r} "
                        f"for {what}"
                    )

        addresses = st.sampled_from(["", "", "/in/docs", "/in/docs/query", "/in/nothing"])
        sent = st.sampled_from(tuple(ROUTES)).flatmap(
            lambda path: st.tuples(st.just(path), BODIES[path])
        )
        _each(st.tuples(addresses, sent, HEADERS), cases, start, one)


def sockets(
    tally: FuzzCounts, url: str, headers: Mapping[str, str], cases: int, start: int
) -> None:
    """Send bytes that are hardly HTTP; the server in front may refuse them in its own words, but
    must answer or close.
    """
    host, _, port = url.removeprefix("http://").partition(":")
    rng = random.Random(start)
    key = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    odd = [
        b"%s %s HTTP/1.1\r\nhost: localhost\r\nconnection: close, upgrade\r\n%s%s\r\n"
        % (method, target, key, more)
        for method, target in ((b"GET", b"/v1/models"), (b"POST", b"/v1/embeddings"))
        for more in ODD_HEADERS
    ]
    for sent in [*odd, *(raw(rng, key) for _ in range(cases))]:
        what, begun_s = repr(sent[:160]), time.monotonic()
        try:
            with socket.create_connection((host, int(port)), timeout=HANG_S) as connection:
                connection.settimeout(HANG_S)
                connection.sendall(sent)
                if sent not in odd:
                    connection.shutdown(socket.SHUT_WR)
                received = b""
                while part := connection.recv(65536):
                    received += part
        except TimeoutError:
            tally.hung("raw bytes", what)
            continue
        except OSError:  # closed while it was still being sent to: an answer too
            received = b""
        if sent in odd and not received:
            tally.problems.append(f"raw bytes: no answer to {what}")
        status = int(received[9:12]) if received[:5] == b"HTTP/" and received[9:12].isdigit() else 0
        tally.answered("raw bytes", status, received, time.monotonic() - begun_s, what)


def _each(strategy: Any, cases: int, start: int, one: Callable[[Any], None]) -> None:
    """Call `one` with this many examples, the same in every run."""

    @seed(start)
    @settings(
        max_examples=max(1, cases),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(case: Any) -> None:
        one(case)

    with suppress(Unsatisfiable):  # nothing about a request without parameters can be wrong
        run()


def table(tally: FuzzCounts, took_s: float) -> Iterator[str]:
    """The counts as Markdown."""
    yield "| source | requests |"
    yield "|---|---|"
    for source, count in tally.cases.items():
        yield f"| {source} | {count:,} |"
    yield f"| **all** | **{sum(tally.cases.values()):,}** |"
    families = Counter[str]()
    for status, count in tally.statuses.items():
        families[f"{status // 100}xx" if status else "closed without an answer"] += count
    families["5xx"] -= tally.refusals
    families["503 budget_unreachable, as asked for"] = tally.refusals
    yield ""
    answers = ", ".join(f"{name} {families[name]:,}" for name in sorted(families) if families[name])
    yield f"answers: {answers}; slowest {tally.slowest_s:.2f} s; {took_s:.0f} s in all"
    yield (
        f"5xx: {tally.failures}, hangs: {tally.hangs}, other problems: "
        f"{len(tally.problems) - tally.failures - tally.hangs}"
    )


@click.command()
@click.option("--cases", type=click.IntRange(30), default=3000, show_default=True)
@click.option("--seed", "start", type=int, default=0, show_default=True)
@to_file
def main(cases: int, start: int, file: Path | None) -> None:
    """Send invalid and odd requests; exit 1 if an answer violates the document."""
    begun_s = time.monotonic()
    tally = fuzz(cases, start)
    click.echo("\n".join(table(tally, time.monotonic() - begun_s)))
    for problem, count in Counter(tally.problems).most_common(20):
        click.echo(f"{count} x {problem}", err=True)
    rows = [*numbers("requests", tally.cases), Row("slowest, s", tally.slowest_s)]
    rows += [
        at_most("5xx", tally.failures, 0),
        at_most("hangs", tally.hangs, 0),
        at_most("problems", len(tally.problems), 0),
    ]
    conclude(rows, file)
