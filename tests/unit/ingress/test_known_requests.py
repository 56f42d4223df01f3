"""Requests that are read once while they are repeated."""

import pytest

from deployments.ingress.known_requests import KNOWN_BYTES, KnownRequest, KnownRequests, Sent
from router.config import RouterArgs
from router.keys import Grant
from router.limits_config import Limits
from router.schema import parse
from router.shapes.openai import OPENAI
from router.spaces import Catalogue
from router.strict import parse_args
from tests.support.local_service import ARGS

KEY = Grant("shop")


@pytest.fixture(scope="module")
def args() -> RouterArgs:
    return parse_args(ARGS)


@pytest.fixture
def catalogue(args: RouterArgs) -> Catalogue:
    return Catalogue(args)


def sent(text: str = "hello", *headers: tuple[str, str]) -> Sent:
    return Sent(b'{"input": "%s"}' % text.encode(), "/v1/embeddings", None, headers, KEY.name)


def read(one: Sent) -> KnownRequest:
    limits = Limits()
    return KnownRequest(parse(one.body, {}, limits), OPENAI.read(one.body, limits, False, ""))


def test_a_repeated_request_is_the_one_that_was_read(catalogue: Catalogue) -> None:
    known, one = KnownRequests(), sent()
    assert known.find(one, KEY, catalogue) is None
    known.keep(one, KEY, made := read(one))
    assert known.find(sent(), KEY, catalogue) is made


@pytest.mark.parametrize(
    "other",
    [
        sent("hello."),
        sent("hello", ("x-quality-tier", "best")),
        sent()._replace(path="/v1/route"),
        sent()._replace(key="other"),
    ],
)
def test_another_body_header_path_or_key_is_another_request(
    catalogue: Catalogue, other: Sent
) -> None:
    known = KnownRequests()
    known.find(sent(), KEY, catalogue)
    known.keep(sent(), KEY, read(sent()))
    assert known.find(other, KEY, catalogue) is None


def test_a_reload_of_names_or_permissions_forgets_what_was_read(
    args: RouterArgs, catalogue: Catalogue
) -> None:
    known = KnownRequests()
    known.find(sent(), KEY, catalogue)
    known.keep(sent(), KEY, read(sent()))
    assert known.find(sent(), Grant("shop", collections=frozenset()), catalogue) is None
    assert known.find(sent(), KEY, Catalogue(args)) is None
    assert len(known) == 0


def test_a_long_body_is_not_hashed(catalogue: Catalogue) -> None:
    class Body(bytes):
        def __hash__(self) -> int:
            raise AssertionError("it was hashed")

    long = sent()._replace(body=Body(KNOWN_BYTES + 1))
    assert KnownRequests().find(long, KEY, catalogue) is None


@pytest.mark.parametrize(
    "one",
    [
        sent("hello", ("x-quality-tier", "best" * KNOWN_BYTES)),
        sent()._replace(path="/v1/" + "long" * KNOWN_BYTES),
        sent()._replace(body=b'{"input": ["a", "b"]}'),
        sent()._replace(body=b'{"input": [[1], [2]], "model": "m", "token_ids": "model"}'),
        sent()._replace(body=b'{"input": "hello", "priority": "bulk"}'),
    ],
)
def test_what_takes_much_memory_or_is_rarely_repeated_is_not_kept(
    catalogue: Catalogue, one: Sent
) -> None:
    known = KnownRequests()
    known.find(one, KEY, catalogue)
    known.keep(one, KEY, read(one))
    assert len(known) == 0


def test_only_short_and_recent_requests_are_kept(catalogue: Catalogue) -> None:
    known = KnownRequests(most=2)
    known.find(sent(), KEY, catalogue)
    for text in ("a", "b", "long" * KNOWN_BYTES):
        known.keep(sent(text), KEY, read(sent(text)))
    known.find(sent("a"), KEY, catalogue)
    known.keep(sent("c"), KEY, read(sent("c")))
    kept = [text for text in ("a", "b", "c") if known.find(sent(text), KEY, catalogue)]
    assert (kept, len(known)) == (["a", "c"], 2)
