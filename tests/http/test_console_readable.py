"""The console in two languages, on a large and a small screen, and with and without a key."""

import re
from typing import Literal

import httpx
import pytest
from playwright.sync_api import Browser, ViewportSize, expect

from router.keys import hash_of, new_key
from tests.support import browser as browsers
from tests.support import console as consoles
from tests.support.browser import needs_chromium
from tests.support.console import DESKTOP, PHONE, embed_example, opened, replay_with
from tests.support.local_service import ARGS, served

pytestmark = [needs_chromium, pytest.mark.models]
TOO_DIM = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
  const out = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3
    && child.textContent.trim());
    if (!own && !node.matches("input, select, textarea")) continue;
    if (!node.checkVisibility() || node.closest("option, datalist, noscript, .skip")) continue;
    const under = [];
    for (let above = node; above;
    above = above.parentElement) under.unshift(getComputedStyle(above).backgroundColor);
    const ground = paint(["#fff", ...under]), ink = paint(["#fff", ...under,
    getComputedStyle(node).color]);
    const [low, high] = [light(ground), light(ink)].sort((a, b) => a - b),
    contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) out.push(`${node.tagName}.${node.className} ${node.textContent.slice(0,
    30)}: ${contrast.toFixed(2)}`);
  }
  return out;
}"""
SQUEEZED = """() => [...document.querySelectorAll("caption")]
  .filter((node) => node.checkVisibility()
  && node.offsetWidth < 0.9 * node.closest("table").offsetWidth).map((node) => node.textContent)"""
NAMED = "button, input, select, textarea, a, table, [role=region], dialog"
NAMELESS = """(named) => [...document.querySelectorAll(named)].filter((node) => {
  const by = (node.getAttribute("aria-labelledby") ?? "").split(" ").filter(Boolean)
    .map((id) => document.getElementById(id));
  const names = [...by, ...(node.labels ?? []), node.matches("button, a") ? node : null,
  node.querySelector("caption")];
  return !(node.getAttribute("aria-label") || names.some((one) => one?.textContent.trim()));
}).map((node) => node.outerHTML.slice(0, 80))"""


USER, ADMIN = new_key(b"user" * 8), new_key(b"admi" * 8)
LOCKED = ARGS | {
    "keys": {"user": {"hash": hash_of(USER)}, "admin": {"hash": hash_of(ADMIN), "admin": True}}
}


browser = browsers.browser


base_url = consoles.base_url


def test_it_speaks_the_browsers_language_and_the_other_one_and_remembers(
    browser: Browser, base_url: str
) -> None:
    with browser.new_context(locale="zh-CN") as context, httpx.Client(base_url=base_url) as client:
        page = opened(context, base_url, client).page
        expect(page.locator("#matrix-title")).to_have_text("模型")
        expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
        page.fill("#texts", "The committee discussed the annual report in detail.")
        page.click("#explain")
        expect(page.locator(".candidates tr.chosen")).to_contain_text("没有规则适用")
        page.click("#language")
        expect(page.locator("#matrix-title")).to_have_text("Models")
        expect(page.locator(".candidates tr.chosen")).to_contain_text("no rule applied")
        page.reload()
        expect(page.locator("#matrix-title")).to_have_text("Models")
        expect(page.locator("html")).to_have_attribute("lang", "en")


@pytest.mark.parametrize(
    ("size", "locale", "scheme"),
    [
        (PHONE, "en", "light"),
        (PHONE, "zh-CN", "dark"),
        (DESKTOP, "en", "dark"),
        (DESKTOP, "zh-CN", "light"),
    ],
    ids=["phone", "phone in Chinese", "desktop", "desktop in Chinese"],
)
def test_everything_fits_is_named_and_can_be_read(
    browser: Browser,
    base_url: str,
    size: ViewportSize,
    locale: str,
    scheme: Literal["light", "dark"],
) -> None:
    with (
        browser.new_context(
            viewport=size, locale=locale, color_scheme=scheme, reduced_motion="reduce"
        ) as context,
        httpx.Client(base_url=base_url, timeout=60) as client,
    ):
        open_ = opened(context, base_url, client)
        page = open_.page
        open_.embed(input="a text that is late", latency_budget_ms=0.001)
        page.fill("#texts", "\n".join([page.input_value("#texts"), "x" * 500, *"abcdefgh"]))
        page.click("#embed")
        expect(page.locator(".alike tbody tr")).to_have_count(12)
        replay_with(page, "default_tier: fast", "default_tier: best")
        expect(page.locator("#whatif-answer table")).to_have_count(2)
        expect(page.locator("#decisions .chip.bad").first).to_be_attached()
        assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
        assert page.evaluate(TOO_DIM) == []
        assert page.evaluate(SQUEEZED) == []
        assert page.evaluate(NAMELESS, NAMED) == []


def test_it_asks_for_a_key_where_one_is_needed_and_says_where_it_must_be_an_admins(
    browser: Browser,
) -> None:
    size = ViewportSize(width=1280, height=900)
    with served(LOCKED) as (url, _), browser.new_context(viewport=size, locale="en") as context:
        page = context.new_page()
        page.goto(url)
        expect(page.locator("#key-dialog")).to_be_visible()
        box = page.locator("#key-dialog").bounding_box()
        assert box is not None
        assert box["x"] + box["width"] / 2 == pytest.approx(size["width"] / 2, abs=20)
        assert box["y"] + box["height"] / 2 == pytest.approx(size["height"] / 2, abs=20)
        expect(page.locator("#state")).to_have_text("waiting for an API key")
        page.keyboard.type("er-no-such-key")
        page.keyboard.press("Enter")
        expect(page.locator("#key-problem")).to_contain_text("the API key is missing or not valid")
        page.fill("#key-value", USER)
        page.keyboard.press("Enter")
        expect(page.locator("#key-dialog")).to_be_hidden()
        expect(page.locator("#matrix tr")).to_have_count(3)
        for place in ("#decisions-problem", "#whatif-said"):
            expect(page.locator(place)).to_contain_text("An admin key is needed for this.")
        embed_example(page)

        page.reload()  # the tab still has it
        expect(page.locator("#matrix tr")).to_have_count(3)
        assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 1]

        page.click("#key")
        page.fill("#key-value", ADMIN)
        page.keyboard.press("Enter")
        # the example is embedded with each page that is opened, and once by hand
        expect(page.locator("#decisions tr")).to_have_count(3)
        expect(page.locator("#decisions-problem")).to_be_hidden()
        expect(page.locator("#policy")).to_have_value(re.compile("default_tier"))
        page.click("#key")
        page.click("#key-forget")
        expect(page.locator("#key-dialog")).to_be_visible()
