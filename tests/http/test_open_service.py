"""A service without keys answers its own machine and its own pages only."""

import httpx
import pytest

from deployments.ingress.auth import Access
from router.errors import InvalidApiKey
from router.exposure import is_loopback, require_local
from router.keys import EVERYTHING
from router.strict import ConfigError, parse_args
from tests.support.local_service import served
from tests.support.locked_service import KEYS, LOCKED, OPEN, http_request


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://localhost:3000"}, False),
        ({"origin": "http://localhost.evil.example"}, False),
        ({"origin": ""}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "https://app.example.com"}, True),
        ({"origin": "https://app.example.com"}, True),
        ({"origin": "http://localhost:PORT", "sec-fetch-site": "same-origin"}, True),
        ({"origin": "http://127.0.0.1:PORT"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({}, True),
    ],
    ids=str,
)
def test_pages_of_other_origins_do_not_have_an_open_service_work(
    headers: dict[str, str], allowed: bool
) -> None:
    with served(OPEN | {"cors": {"origins": ["https://app.example.com"]}}) as (url, _):
        port = url.rpartition(":")[2]
        sent = {name: value.replace("PORT", port) for name, value in headers.items()}
        for path in ("/v1/embeddings", "/v1/route", "/v1/what-if"):
            answer = httpx.post(
                url + path,
                content=b'{"input": "hello"}',
                headers={"content-type": "text/plain", **sent},
            )
            assert answer.headers["x-content-type-options"] == "nosniff"
            if not allowed:
                told = answer.json()["error"]
                assert (answer.status_code, told["code"]) == (403, "origin_not_allowed")
                assert "cors.origins" in told["message"]
            else:
                assert answer.status_code != 403
        assert httpx.get(f"{url}/v1/models", headers=sent).status_code == (200 if allowed else 403)


def test_a_link_to_the_console_is_followed_and_keys_and_auth_none_go_first() -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    evil = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    with served(OPEN) as (url, _):
        assert httpx.get(f"{url}/", headers=link).status_code == 200
        assert httpx.get(f"{url}/v1/models", headers=link).status_code == 403
    with served(OPEN | {"auth": "none"}) as (url, _):
        assert httpx.get(f"{url}/v1/models", headers=evil).status_code == 200
    with served(LOCKED) as (url, _):
        with_key = {"authorization": f"Bearer {KEYS['all']}", **evil}
        assert httpx.get(f"{url}/v1/models", headers=with_key).status_code == 200


def test_an_open_service_answers_its_own_machine_only() -> None:
    access = Access(parse_args(OPEN))
    for peer in ("127.0.0.1", "::1", "127.8.9.10", "::ffff:127.0.0.1"):
        assert access.caller(http_request("/v1/models", {}, peer)) is EVERYTHING
    for peer in ("10.0.0.7", "192.168.1.1", "fe80::1", "::ffff:10.0.0.7", "example"):
        with pytest.raises(InvalidApiKey, match=r"write `auth: none`"):
            access.caller(http_request("/v1/models", {}, peer))
    assert (
        Access(parse_args(OPEN | {"auth": "none"})).caller(
            http_request("/v1/models", {}, "10.0.0.7")
        )
        is EVERYTHING
    )


@pytest.mark.parametrize(
    "host", ["localhost:8000", "LOCALHOST", "localhost.", "127.0.0.1:8000", "[::1]:8000", "[::1]"]
)
def test_an_open_service_is_asked_for_by_its_machines_own_names(host: str) -> None:
    assert (
        Access(parse_args(OPEN)).caller(http_request("/v1/models", {"host": host}, "127.0.0.1"))
        is EVERYTHING
    )


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8000",
        "localhost.evil.example",
        "0.0.0.0:8000",
        "127.0.0.1.nip.io",
        "[::1",
        "",
        "a:b",
    ],
)
def test_a_page_whose_name_was_bent_to_this_machine_reads_nothing_of_an_open_service(
    host: str,
) -> None:
    with pytest.raises(InvalidApiKey, match="call it as localhost"):
        Access(parse_args(OPEN)).caller(http_request("/v1/decisions", {"host": host}, "127.0.0.1"))
    assert (
        Access(parse_args(OPEN | {"auth": "none"})).caller(
            http_request("/v1/models", {"host": host}, "127.0.0.1")
        )
        is EVERYTHING
    )
    with_key = http_request("/v1/models", {"host": host, "api-key": KEYS["all"]}, "127.0.0.1")
    assert Access(parse_args(LOCKED)).caller(with_key).name == "all"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "gpu-7.example.com", None, ""])
def test_other_addresses_than_loopback_need_keys_or_a_word(host: str | None) -> None:
    with pytest.raises(ConfigError, match="add `keys:`"):
        require_local(parse_args(OPEN), host, "http_options.host")
    require_local(parse_args(OPEN | {"auth": "none"}), host, "http_options.host")
    require_local(parse_args(LOCKED), host, "http_options.host")
    assert not is_loopback(host)
