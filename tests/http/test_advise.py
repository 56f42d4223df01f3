"""`embedding-router advise` against a real router: from files to the report, killed and gone on
with, and read in a browser.
"""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.service.decision_log import open_log
from deployments.tools import figures
from deployments.tools.advise import page
from router.config import DecisionLogConfig
from tests.support import advise_data
from tests.support.advise_command import ARGS, advise
from tests.support.browser import chromium, needs_chromium
from tests.support.fixtures import service_of
from tests.support.local_service import LocalRouter, held
from tests.support.waiting import wait_for

pytestmark = pytest.mark.models

ROOT = Path(__file__).resolve().parents[2]


running = service_of(ARGS)


files = advise_data.files


def command(url: str, files: dict[str, Path], output: Path, *more: str) -> list[str]:
    return [
        "advise",
        "--base-url",
        url,
        "--texts",
        str(files["texts.jsonl"]),
        "--queries",
        str(files["queries.jsonl"]),
        "--qrels",
        str(files["qrels.tsv"]),
        "--pairs",
        str(files["pairs.csv"]),
        "--labels",
        str(files["labels.csv"]),
        "--requests",
        "10",
        "-o",
        str(output),
        *more,
    ]


def parts(output: Path) -> set[Path]:
    return set(output.glob("vectors/*/*/*.parquet"))


@pytest.fixture(scope="module")
def reported(
    running: tuple[str, LocalRouter],
    files: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A report that was killed twice on its way, each time as soon as another part of the vectors
    was there.
    """
    output = tmp_path_factory.mktemp("report")
    arguments = command(
        running[0],
        files,
        output,
        "--budget-ms",
        "50",
        "--gpu-hour",
        "36",
        "--batch",
        "8",
        "--in-flight",
        "1",
    )
    said = output.with_suffix(".said")
    for wanted in (1, 2):

        def enough(wanted: int = wanted) -> bool:
            return len(parts(output)) >= wanted

        with said.open("wb") as stderr, held(running[1], enough):
            process = subprocess.Popen(
                [sys.executable, "-m", "router.cli", *arguments], cwd=ROOT, stderr=stderr
            )
            wait_for(lambda: enough() or process.poll() is not None, f"{wanted} parts")  # noqa: B023  # called here alone
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, said.read_text()
        assert len(parts(output)) == wanted
        assert not (output / "report.json").exists()
    before = {path: path.stat().st_mtime_ns for path in parts(output)}
    ended = advise(*arguments)
    assert ended.exit_code == 0, ended.output
    assert {
        path: path.stat().st_mtime_ns for path in before
    } == before  # what was there was not made again
    return output


@pytest.fixture(scope="module")
def report(reported: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((reported / "report.json").read_text())
    return data


def test_the_better_model_is_found_on_every_task(report: dict[str, Any]) -> None:
    assert report["verdict"].startswith("wordllama-256 (best) is worth it: +")
    # both sides of the price: points, device time, and money where it is given
    assert re.search(
        r"\+\d+\.\d points for English over noise at \d+\.\d times the device time, "
        r"[\d.]+ instead of [\d.]+ per million texts\. By routing\.yaml these texts have [\d.]+ "
        r"points at 100% of the device time of always wordllama-256 \([\d.]+\); by rules made from "
        r"half of them, the other half has [\d.]+, not measurably other than always wordllama-256",
        report["verdict"],
    )
    by_model = {model["name"]: model for model in report["models"]}
    for task in ("queries", "pairs", "labels"):
        assert by_model["wordllama-256"]["by_task"][task] > by_model["noise"]["by_task"][task] + 20
    kinds = {task["name"]: (task["kind"], task["units"]) for task in report["tasks"]}
    assert kinds == {
        "queries": ("retrieval", 60),
        "pairs": ("pairs", 120),
        "labels": ("labels", 240),
    }
    assert set(report["tasks"][0]["more"]["noise"]) == {"recall@10", "recall@100", "MRR"}
    assert report["tasks"][2]["more"]["wordllama-256"]["V-measure"] > 50
    for task in report["tasks"]:
        assert task["slices"][0]["differences"][0]["measured"]


def test_vectors_that_were_kept_are_those_of_the_service(
    running: tuple[str, LocalRouter], files: dict[str, Path], reported: Path
) -> None:
    from deployments.tools.migrate import read_vectors

    texts = [json.loads(line)["text"] for line in files["texts.jsonl"].read_text().splitlines()]
    first = list(dict.fromkeys(texts))
    kept = read_vectors(reported / "vectors" / "wordllama-256" / "document")
    assert len(kept) == len(first)
    body = {"input": first, "model": "wordllama-256", "input_type": "document"}
    rows = httpx.post(f"{running[0]}/v1/embeddings", json=body, timeout=60).json()["data"]
    for place, row in enumerate(rows):
        assert kept[str(place)] == pytest.approx(row["embedding"], abs=1e-6)


def test_latency_throughput_and_price_are_measured(report: dict[str, Any]) -> None:
    for model in report["models"]:
        assert model["requests"] == 10
        assert 0 < model["alone_p50_ms"] <= model["alone_p95_ms"]
        assert model["price_per_million"] == pytest.approx(
            model["device_s_per_million"] / 100, rel=1e-4
        )
        assert model["device_s_per_million"] == pytest.approx(1e6 / model["texts_per_s"], rel=1e-4)
    noise, fast = report["models"]
    assert noise["alone_p50_ms"] >= 20  # what its engine sleeps
    # Percentiles say how many of ten are within the budget, of the same requests.
    for model in (noise, fast):
        if model["together_p95_ms"] <= 50:
            assert model["in_budget"] >= 0.9
        if model["together_p50_ms"] > 50:
            assert model["in_budget"] <= 0.5


def test_cut_vectors_are_measured_where_the_model_was_trained_for_it(
    report: dict[str, Any],
) -> None:
    rows = [(row["model"], row["size"], row["bytes_per_million"]) for row in report["dimensions"]]
    assert rows == [("wordllama-256", size, size * 4_000_000) for size in (64, 128, 256)]
    own = next(model for model in report["models"] if model["name"] == "wordllama-256")
    assert report["dimensions"][-1]["quality"] == pytest.approx(own["quality"], rel=1e-5)


def test_the_rules_replay_a_real_log(
    running: tuple[str, LocalRouter], tmp_path: Path, reported: Path, report: dict[str, Any]
) -> None:
    log = tmp_path / "decisions.jsonl"
    service = running[1].service
    service.log = open_log(DecisionLogConfig(path=str(log)), None)
    answer = httpx.post(
        f"{running[0]}/v1/embeddings",
        json={"input": "an English sentence about the weather"},
        timeout=60,
    )
    assert answer.json()["model"] == "noise"  # as the service is configured
    service.log.close()
    service.log = None
    assert report["routing"]["default_tier"] == "best"
    replayed = advise("replay", str(log), "--policy", str(reported / "routing.yaml"), "--json")
    assert replayed.exit_code == 0, replayed.output
    moved = json.loads(replayed.output)["moved"]
    assert [(way["from"], way["to"], way["requests"]) for way in moved] == [
        ("noise", "wordllama-256", 1)
    ]


def test_rules_of_a_file_stand_for_those_that_a_key_may_not_read(
    files: dict[str, Path], reported: Path, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "routing: {default_tier: fast, min_share: 0.4, rules: "
        "[{name: chinese, when: {languages: [zh]}, floor: best}, "
        "{name: slow, when: {min_tokens: 2000}, floor: fast}]}\n"
    )
    nobody, before = "http://127.0.0.1:9", (reported / "routing.yaml").read_text()
    options = ("--budget-ms", "50", "--gpu-hour", "36", "--policy", str(policy))
    made = advise(*command(nobody, files, reported, *options))
    assert made.exit_code == 0, made.output
    text = (reported / "routing.yaml").read_text()
    assert "min_share: 0.4" in text
    # every rule raises to what is the default now
    assert '# chinese, {"languages": ["zh"]}: the default is wordllama-256 already' in text
    assert "It leaves out all or parts of chinese, slow" in made.output
    (reported / "routing.yaml").write_text(before)
    policy.write_text("routing: {default_tier: balanced}\n")
    refused = advise(*command(nobody, files, reported, *options))
    assert refused.exit_code == 1
    assert "policy.yaml: routing names tier 'balanced'; tiers are fast, best" in refused.output


def test_a_complete_run_makes_its_report_again_without_the_service(
    files: dict[str, Path], reported: Path
) -> None:
    before = json.loads((reported / "report.json").read_text())
    nobody = "http://127.0.0.1:9"
    again = advise(*command(nobody, files, reported, "--budget-ms", "50", "--gpu-hour", "36"))
    assert again.exit_code == 0, again.output
    after = json.loads((reported / "report.json").read_text())
    assert after["tasks"] == before["tasks"]
    assert after["models"] == before["models"]


def test_a_folder_takes_the_measurements_of_one_set_of_texts_only(
    running: tuple[str, LocalRouter], files: dict[str, Path], reported: Path
) -> None:
    refused = advise(
        "advise",
        "--base-url",
        running[0],
        "--labels",
        str(files["labels.csv"]),
        "-o",
        str(reported),
    )
    assert refused.exit_code == 1
    assert (
        "holds the measurements of other texts or models; choose another folder" in refused.output
    )


def test_without_labels_it_says_that_agreement_is_not_quality(
    running: tuple[str, LocalRouter], files: dict[str, Path], tmp_path: Path
) -> None:
    texts = str(files["texts.jsonl"])
    ended = advise(
        "advise", "--base-url", running[0], "--texts", texts, "--requests", "5", "-o", str(tmp_path)
    )
    assert ended.exit_code == 0, ended.output
    assert "Nothing here says which model is better" in ended.output
    assert "agreement, not quality" in ended.output
    found = json.loads((tmp_path / "report.json").read_text())
    task = found["tasks"][0]
    assert (task["kind"], task["slices"][0]["values"]["wordllama-256"]) == ("agreement", 100.0)
    assert task["slices"][0]["values"]["noise"] < 40
    assert task["more"]["wordllama-256"]["rank correlation"] == pytest.approx(100.0, abs=0.01)
    assert found["traffic"] == []
    assert found["routing"]["rules"] == []
    # nothing was measured, so the default stays that of the service
    assert "default_tier: fast" in (tmp_path / "routing.yaml").read_text()


def test_the_page_is_one_file_that_asks_for_nothing(reported: Path) -> None:
    text = (reported / "index.html").read_text()
    for outside in (
        "http://",
        "https://",
        "src=",
        "@import",
        "url(",
        "<script",
        '<link rel="stylesheet',
    ):
        assert outside not in text.replace("http://www.w3.org/", "").replace("url(#", ""), outside
    for colour in figures.COLOURS:
        assert colour not in text


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "us$ and eu$", "$", "a_{b}$^$\\"])
def test_text_from_a_file_cannot_become_markup(report: dict[str, Any], name: str) -> None:
    bad = json.loads(json.dumps(report))
    bad["tasks"][0]["name"] = name
    bad["verdict"] = "<img src=x>"
    for model in bad["models"]:
        model["by_task"][name] = model["by_task"]["queries"]
    for row in [*bad["dimensions"], *bad["traffic"]]:
        row["by_task"][name] = row["by_task"]["queries"]
    drawn = page.draw(bad, "routing: {}")
    assert "<script>" not in drawn
    assert "<img" not in drawn


CUT_OFF = """[...document.querySelectorAll("figure svg")].flatMap((plot) => {
  const frame = plot.getBoundingClientRect();
  return [...plot.querySelectorAll("text")].filter((text) => {
    const own = text.getBoundingClientRect();
    return own.left < frame.left - 1 || own.right > frame.right + 1
    || own.bottom > frame.bottom + 1;
  }).map((text) => text.textContent);
})"""


# cells of which a part is outside their table's frame
HIDDEN = """[...document.querySelectorAll(".scroll")].flatMap((frame) => {
  const outer = frame.getBoundingClientRect();
  return [...frame.querySelectorAll("td, tbody th")].filter((cell) => {
    const own = cell.getBoundingClientRect();
    return own.right > outer.right + 1 || own.left < outer.left - 1
      || cell.scrollWidth > cell.clientWidth + 1;
  }).map((cell) => cell.textContent);
})"""


@needs_chromium
@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (390, "light"), (390, "dark"), (360, "dark")]
)
def test_the_page_opens_in_a_browser(reported: Path, width: int, scheme: Any) -> None:
    file = (reported / "index.html").as_uri()
    with chromium() as browser:
        window = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme
        ).new_page()
        said, asked = list[str](), list[str]()
        window.on("console", lambda message: said.append(message.text))
        window.on("pageerror", lambda error: said.append(str(error)))
        window.on("request", lambda request: asked.append(request.url))
        window.goto(file)
        assert (
            window.evaluate("document.documentElement.scrollWidth") <= width
        )  # only tables scroll, in their own frames
        assert window.locator("h1").inner_text().startswith("wordllama-256 (best) is worth it: +")
        assert window.locator("svg[role=img]").count() == 4
        assert all(
            window.locator("svg[role=img]").evaluate_all(
                "plots => plots.map(plot => plot.ariaLabel.length > 20)"
            )
        )
        paper, ink = window.evaluate(
            "[getComputedStyle(document.body).backgroundColor, "
            "getComputedStyle(document.body).color]"
        )
        bright = sum(map(int, paper[4:-1].split(","))) > sum(map(int, ink[4:-1].split(",")))
        assert bright == (scheme == "light")
        assert window.evaluate(CUT_OFF) == []
        for number in range(window.locator("details").count()):
            window.locator("summary").nth(number).click()
        assert window.locator("details[open]").count() == 3
        assert window.evaluate(HIDDEN) == []
        assert window.locator("td").count() > 50
        heading = "getComputedStyle(document.querySelector('tbody td'), '::before').content"
        assert ("tier" in window.evaluate(heading)) == (width < 960)
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [file]
