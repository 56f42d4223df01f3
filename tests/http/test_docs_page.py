"""/docs: a table of contents, commands that work as they stand, the way back, and dark screens."""

import html
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import pytest

from deployments.ingress.asgi import HttpRequest
from deployments.ingress.docs_page import base_of
from tests.support.browser import chromium, needs_chromium
from tests.support.local_service import ARGS, served

# cells of the first columns (fields, statuses) that take more than one line
BROKEN = """[...document.querySelectorAll("td:first-child, th:first-child")].filter((cell) => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  const ends = [...range.getClientRects()].map((box) => box.bottom);
  return Math.max(...ends) - Math.min(...ends) > 8;
}).map((cell) => cell.textContent)"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(ARGS) as (base, _):
        yield base


@pytest.fixture(scope="module")
def page(url: str) -> str:
    return httpx.get(f"{url}/docs", timeout=60).text


def test_every_part_is_in_the_table_of_contents(page: str) -> None:
    parts = re.findall(r'<section id="([^"]+)"', page)
    assert len(parts) == len(set(parts)) > 10
    assert re.findall(r'<a href="#([^"]+)"', page) == parts
    assert '<a href="./">Back to the console</a>' in page


def commands(page: str, kind: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for section in re.findall(r"<section .*?</section>", page, re.DOTALL):
        path = re.search(r"<code>([^<]+)</code>", section)
        text = re.search(rf"<summary>{kind}</summary><pre>(.*?)</pre>", section, re.DOTALL)
        if path and text:
            found.setdefault(html.unescape(path[1]), html.unescape(text[1]))
    return found


def test_the_commands_of_the_page_work_as_they_stand(url: str, page: str) -> None:
    for kind, run in (("curl", ["bash", "-c"]), ("Python", [sys.executable, "-c"])):
        for path in ("/v1/embeddings", "/openai/deployments/{model}/embeddings"):
            text = commands(page, kind)[path]
            assert url in text
            ended = subprocess.run([*run, text], capture_output=True, text=True, timeout=120)
            assert ended.returncode == 0, ended.stderr
            assert "embedding" in ended.stdout, ended.stdout
        assert "/v1/tiers" in commands(page, kind)


def test_code_in_descriptions_is_shown_as_code(page: str) -> None:
    assert "<code>context_length_exceeded</code>: " in page
    assert "`" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({"host": "router.example:9000"}, "http://router.example:9000"),
        ({"host": "[::1]:9000"}, "http://[::1]:9000"),
        ({"host": "a.example", "x-forwarded-proto": "https"}, "https://a.example"),
        ({"host": "a.example", "x-forwarded-proto": "gopher"}, "http://a.example"),
        ({"host": "a b; rm -rf ~"}, "http://localhost:8000"),
        ({}, "http://localhost:8000"),
    ],
    ids=str,
)
def test_examples_have_the_address_at_which_the_page_was_requested(
    headers: dict[str, str], base: str
) -> None:
    async def never() -> Any:
        raise AssertionError("the body is not read")

    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": "/docs", "headers": sent}
    assert base_of(HttpRequest(scope, never, True)) == base
    scope |= {"root_path": "/some", "path": "/some/docs"}
    assert base_of(HttpRequest(scope, never, True)) == f"{base}/some"


@needs_chromium
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("dark", 390)])
def test_it_follows_the_screen(url: str, scheme: Literal["light", "dark"], width: int) -> None:
    with chromium() as browser:
        window = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme
        ).new_page()
        trouble = list[str]()
        window.on("console", lambda message: trouble.append(message.text))
        window.goto(f"{url}/docs")
        assert window.evaluate("document.documentElement.scrollWidth") <= width
        assert window.evaluate(BROKEN) == []
        paper = window.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, paper[4:-1].split(","))) > 400) == (scheme == "light")
        window.get_by_role("link", name="Back to the console").click()
        window.wait_for_url(f"{url}/")
    assert not [said for said in trouble if "Content Security" in said]
