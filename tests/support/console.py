"""The console, opened in a browser."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, ViewportSize, expect

from tests.support.local_service import served

DESKTOP, PHONE = ViewportSize(width=1440, height=1000), ViewportSize(width=390, height=844)
expect.set_options(timeout=20_000)  # for a busy machine


class Open(NamedTuple):
    """The page, the service behind it, and what the browser complained of or asked of others."""

    page: Page
    http: httpx.Client
    trouble: list[str]

    def embed(self, **body: Any) -> None:
        self.http.post("/v1/embeddings", json=body).raise_for_status()


def opened(context: BrowserContext, url: str, client: httpx.Client) -> Open:
    page, trouble = context.new_page(), list[str]()
    page.on(
        "console",
        lambda message: (
            trouble.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith(url + "/") else trouble.append(request.url),
    )
    page.goto(url)
    expect(page.locator("#matrix tr")).to_have_count(3)
    return Open(page, client, trouble)


def embed_example(page: Page) -> None:
    page.click("#embed")
    expect(page.locator(".alike tbody tr")).to_have_count(4)


def replay_with(page: Page, old: str, new: str) -> None:
    expect(page.locator("#policy")).to_have_value(re.compile("default_tier"))
    page.fill("#policy", page.input_value("#policy").replace(old, new))
    page.click("#whatif button[type=submit]")


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """The address of a service with the engines of the HTTP tests, one for a module."""
    with served() as (url, _):
        yield url
