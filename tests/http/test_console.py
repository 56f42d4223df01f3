"""The console in a real browser, over a real socket, with the engines of the HTTP tests."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from tests.support import browser as browsers
from tests.support import console as consoles
from tests.support.browser import needs_chromium
from tests.support.console import DESKTOP, Open, embed_example, opened, replay_with
from tests.support.local_service import ARGS, held, served

LOCAL = Path(__file__).resolve().parents[2] / "configs" / "local.yaml"

pytestmark = [needs_chromium, pytest.mark.models]


browser = browsers.browser


base_url = consoles.base_url


@pytest.fixture
def console(browser: Browser, base_url: str) -> Iterator[Open]:
    with (
        browser.new_context(viewport=DESKTOP, locale="en-GB") as context,
        httpx.Client(base_url=base_url, timeout=60) as client,
    ):
        open_ = opened(context, base_url, client)
        yield open_
        assert open_.trouble == []


def press_until(page: Page, selector: str, key: str = "Tab") -> None:
    for _ in range(60):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{key} does not lead to {selector}")


def test_it_loads_from_here_alone_without_an_error_and_shows_the_matrix(console: Open) -> None:
    page = console.page
    expect(page.locator("#state")).to_have_text("live, every 2 s")
    first = page.locator("#matrix tr").first
    for text in ("wordllama-256", "fast", "64, 128 or 256", "32,768 tokens", "1 ready"):
        expect(first).to_contain_text(text)
    embed_example(page)


def test_collections_show_who_may_make_their_vectors(browser: Browser) -> None:
    collections = {"docs": {"spaces": ["wordllama-256/64", "all-minilm-l6-v2/384"]}}
    with (
        served({**ARGS, "collections": collections}) as (url, _),
        browser.new_context(viewport=DESKTOP, locale="en-GB") as context,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        page = opened(context, url, client).page
        shown = page.locator("#collections table")
        expect(shown.locator("caption")).to_have_text("docs: keeps 95.0 % on average")
        expect(shown.locator("tbody tr")).to_have_count(2)
        expect(shown.locator("tbody tr").first).to_contain_text("wordllama-256/64")
        expect(shown.locator("tbody tr").first).not_to_contain_text("%")  # nothing was measured
        client.post(
            "/v1/embeddings", json={"input": "a", "space": "docs", "input_type": "query"}
        ).raise_for_status()
        page.reload()
        expect(shown.locator("caption")).to_have_text("docs: keeps 95.0 % on average")


def test_a_collection_that_was_measured_shows_what_its_queries_keep(browser: Browser) -> None:
    local = yaml.safe_load(LOCAL.read_text())["applications"][0]["args"]
    names = ("wordllama-256", "all-minilm-l6-v2", "minilm-student")
    args = {
        "models": {name: local["models"][name] for name in names},
        "tiers": {"fast": "all-minilm-l6-v2"},
        "collections": {"search": local["collections"]["search"]},
    }
    with (
        served(args) as (url, _),
        browser.new_context(viewport=DESKTOP, locale="en-GB") as context,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        shown = opened(context, url, client).page.locator("#collections table")
        expect(shown.locator("caption")).to_have_text("search: keeps 95.0 % on average")
        query = {"input": "a", "space": "search", "input_type": "query"}
        client.post("/v1/embeddings", json=query).raise_for_status()
        now = "search: keeps 95.0 % on average, now 100.0 %"
        expect(shown.locator("caption")).to_have_text(now)


def test_a_search_is_ranked_where_there_are_rerankers(console: Open, browser: Browser) -> None:
    expect(console.page.locator("#search-part")).to_be_hidden()
    rerankers = {
        "rerankers": {"alike": {"engine": {"kind": "similarity", "model": "wordllama-256"}}},
        "rerank_tiers": {"fast": "alike"},
    }
    with (
        served({**ARGS, **rerankers}) as (url, _),
        browser.new_context(viewport=DESKTOP, locale="en-GB") as context,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        open_ = opened(context, url, client)
        page, rows = open_.page, open_.page.locator("#ranked tbody tr")
        expect(page.locator("#reranker option")).to_have_text(["auto", "fast", "alike"])
        page.fill("#query", "a cat on a mat")
        page.fill("#documents", "stock markets fell\n\nthe cat sat on the mat")
        page.click("#rank")
        expect(page.locator("#search-said")).to_contain_text("alike ranked 2 texts in")
        expect(rows).to_have_count(2)
        expect(rows.first).to_contain_text("the cat sat on the mat")
        expect(page.locator("#ranked caption")).to_have_text("Texts in falling order (cosine)")
        page.fill("#documents", "")
        page.click("#rank")
        expect(page.locator("#search-said")).to_contain_text("documents")
        expect(rows).to_have_count(0)
        page.click("#language")
        expect(page.locator("#search-title")).to_have_text("搜索")
        assert [line for line in open_.trouble if "400" not in line] == []


def test_the_matrix_changes_in_place(console: Open) -> None:
    page = console.page
    page.evaluate("() => { window.before = document.querySelector('#matrix tr') }")
    measured = page.locator("#matrix tr").first.locator(".latency")
    before = measured.inner_text()
    console.embed(input="one more, please", model="fast")
    expect(measured).not_to_have_text(before)
    expect(measured).to_contain_text("p50")
    assert page.evaluate("() => window.before === document.querySelector('#matrix tr')")


def test_it_asks_nothing_while_it_is_paused(browser: Browser, base_url: str) -> None:
    with browser.new_context(locale="en") as context, httpx.Client(base_url=base_url) as client:
        context.clock.install()
        page = opened(context, base_url, client).page
        expect(page.locator("#state")).to_have_text("live, every 2 s")
        page.click("#pause")
        expect(page.locator("#pause")).to_have_text("Resume")
        expect(page.locator("#state")).to_have_text("paused")
        asked = list[str]()
        page.on("request", lambda request: asked.append(request.url))
        context.clock.run_for(30_000)
        assert asked == []
        with page.expect_request("**/v1/tiers"):
            page.click("#pause")


def test_the_playground_works_by_keyboard_alone(console: Open) -> None:
    page = console.page
    press_until(page, "#texts")
    page.keyboard.press("Control+A")
    page.keyboard.type("Wo ist der nächste Bahnhof?\nWie komme ich zum Zug?")
    press_until(page, "#model")
    page.keyboard.type("auto")
    press_until(page, "#budget")
    page.keyboard.type("60000")
    press_until(page, "#embed")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("multilingual-e5-small answered in")
    expect(page.locator("#answer .because")).to_have_text(
        "rule not-english requires this model or a larger one"
    )
    expect(page.locator(".candidates tr", has_text="wordllama-256")).to_contain_text(
        "fits, but a better model fits too"
    )
    cosine = float(page.locator(".alike td.heat").first.inner_text())
    assert 0.5 < cosine < 1
    press_until(page, "#texts", "Shift+Tab")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#answer .facts")).to_contain_text("from the cache 2")


def test_explaining_embeds_nothing(console: Open) -> None:
    page = console.page
    expect(page.locator("#answer .facts")).to_be_visible()  # of the example
    before = console.http.get("/v1/decisions").json()["next"]
    page.fill("#texts", "The committee discussed the annual report in detail.")
    page.click("#explain")
    expect(page.locator("#said")).to_have_text("wordllama-256 would answer")
    expect(page.locator(".candidates tr.chosen")).to_contain_text(
        "no rule applied: the default tier"
    )
    expect(page.locator(".alike")).to_have_count(0)
    assert console.http.get("/v1/decisions").json()["next"] == before


def test_of_two_requests_the_last_one_is_shown_in_whatever_language_the_page_is_by_then(
    console: Open,
) -> None:
    page = console.page
    page.fill("#texts", "\n".join(f"a sentence with the number {number}" for number in range(300)))
    page.focus("#texts")
    page.keyboard.press("Control+Enter")
    page.fill("#texts", "one\ntwo")
    page.keyboard.press("Control+Enter")
    page.click("#language")
    expect(page.locator(".alike tbody tr")).to_have_count(2)
    expect(page.locator("#said")).to_contain_text("回答")
    page.wait_for_load_state("networkidle")
    expect(page.locator(".alike tbody tr")).to_have_count(2)


def test_an_error_is_the_sentence_that_the_service_gave(browser: Browser, base_url: str) -> None:
    with browser.new_context(locale="en") as context, httpx.Client(base_url=base_url) as client:
        page = opened(context, base_url, client).page
        page.select_option("#model", "fast")
        page.fill("#space", "multilingual-e5-small/384")
        page.click("#embed")
        said = client.post(
            "/v1/route", json={"input": "a", "model": "fast", "space": "multilingual-e5-small/384"}
        )
        assert said.status_code == 409
        expect(page.locator("#said.problem")).to_have_text(said.json()["error"]["message"])
        page.fill("#budget", "soon")
        page.click("#embed")
        expect(page.locator("#said.problem")).to_contain_text("a number of milliseconds above 0")


def test_a_text_stays_text_whatever_is_written_in_it(console: Open) -> None:
    page = console.page
    page.fill(
        "#texts",
        "<img src=x "
        'onerror="document.title=1"><b>bold</b>\n</table><script>document.title=2</script>',
    )
    page.click("#embed")
    expect(page.locator(".alike tbody th").first).to_contain_text("<b>bold</b>")
    assert page.locator("#answer img, #answer b, #answer script").count() == 0
    assert page.title() == "embedding-router"


def test_decisions_come_as_they_are_made_and_without_the_text(console: Open) -> None:
    console.embed(input="Dobrý den, kde je nádraží?", latency_budget_ms=60_000)
    # the page embeds its example when it opens, and can get that answer after this one
    row = console.page.locator("#decisions tr", has_text="60.0 s").first
    expect(row).to_contain_text("rule not-english requires this model or a larger one")
    expect(row).to_contain_text("interactive")
    expect(row).to_contain_text("answered")
    assert "nádraží" not in console.page.content()


def test_the_priority_filter_keeps_bulk_out_of_sight(console: Open) -> None:
    console.embed(input="for the night", priority="bulk")
    rows = console.page.locator("#decisions tr")
    expect(rows.filter(has_text="bulk").first).to_be_visible()
    console.page.select_option("#shown-priority", "interactive")
    expect(rows.filter(has_text="bulk")).to_have_count(0)
    console.page.select_option("#shown-priority", "bulk")
    expect(rows.filter(has_text="interactive")).to_have_count(0)
    expect(rows.first).to_contain_text("bulk")


def test_p95_is_of_interactive_requests_alone() -> None:
    with served() as (url, router), httpx.Client(base_url=url, timeout=60) as client:

        def embed(text: str, priority: str) -> None:
            body = {"input": text, "model": "all-minilm-l6-v2", "priority": priority}
            client.post("/v1/embeddings", json=body).raise_for_status()

        def measured() -> tuple[float, int]:
            rows = {row["model"]: row for row in client.get("/v1/tiers").json()["data"]}
            return rows["all-minilm-l6-v2"]["p95_ms"], rows["all-minilm-l6-v2"]["answers"]

        for number in range(5):
            embed(f"a question with the number {number}", "interactive")
        p95_ms, answers = measured()
        until_s = time.monotonic() + 10 * p95_ms / 1000
        with held(router, lambda: time.monotonic() < until_s):
            embed("one of many texts of an ingest", "bulk")
        assert measured() == (p95_ms, answers)
        until_s = time.monotonic() + 10 * p95_ms / 1000
        with held(router, lambda: time.monotonic() < until_s):
            embed("one question that waits as long", "interactive")
        assert measured()[0] > p95_ms
        assert measured()[1] == answers + 1


def test_the_example_is_embedded_at_once_and_compared_by_every_model(console: Open) -> None:
    page = console.page
    expect(page.locator("#said")).to_contain_text("answered in")
    expect(page.locator("#answer .alike")).to_have_count(1)
    page.click("#compare")
    expect(page.locator("#said")).to_have_text("The same texts with 3 models")
    expect(page.locator("#answer .grids .alike")).to_have_count(3)


def test_what_if_has_suggestions(console: Open) -> None:
    console.embed(input="an English sentence about the weather")
    expect(console.page.locator("#policy")).to_have_value(re.compile("default_tier"))
    console.page.click("#try-best")
    expect(console.page.locator("#whatif-said")).to_contain_text("would have moved")
    expect(console.page.locator("#policy")).to_have_value(re.compile("default_tier: best"))
    console.page.click("#try-current")
    expect(console.page.locator("#whatif-said")).to_contain_text("None of the")


def test_what_if_shows_what_would_have_moved(console: Open) -> None:
    page = console.page
    for text in ("a plain text", "another plain text"):
        console.embed(input=text, language="en")
    replay_with(page, "default_tier: fast", "default_tier: best")
    expect(page.locator("#whatif-said")).to_contain_text("requests would have moved")
    moved = page.locator("#whatif-answer tr", has_text="wordllama-256 → multilingual-e5-small")
    expect(moved).to_contain_text("no rule applied: the default tier")
    page.click("#policy-reset")
    expect(page.locator("#policy")).to_have_value(console.http.get("/v1/what-if").text)


def test_a_policy_with_a_mistake_is_answered_with_where_it_is(
    browser: Browser, base_url: str
) -> None:
    with browser.new_context(locale="en") as context, httpx.Client(base_url=base_url) as client:
        page = opened(context, base_url, client).page
        replay_with(page, "min_tokens", "min_token")
        expect(page.locator("#whatif-said.problem")).to_contain_text(
            "min_token: unknown key; did you mean min_tokens?"
        )
