"""Calibration: which sizes are measured, and that the curve that made the times comes out of
them.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from deployments.tools import calibrate
from deployments.tools.calibrate import CalibrationError, TimedCall, Writer
from deployments.tools.calibrate_cli import main, opinion, replica_environment
from router.calibration import Cell, calls, cells, expected_s
from router.domain import Curve, Load, Model, Work, attention
from router.policy import predict
from router.profile import load_profile
from tests.support.local_service import WORDLLAMA

TRUTH = Curve(0.004, 0.002, 50e-6, 20e-9, 512, 0.003, 100e-6)


class Clockwork:
    """A model that takes exactly what `predict` says, alone or behind a router."""

    def __init__(self, truth: Curve, through_router: bool, span: int | None = None) -> None:
        self._model, self._through_router, self._span = (
            Model("m", 0, 10**6, truth, {}),
            through_router,
            span,
        )

    async def start(self) -> None:
        """It runs."""

    async def measure(
        self, texts: Sequence[str], counts: Sequence[int]
    ) -> tuple[float, float | None]:
        work = Work(sum(counts), max(counts), attention(counts, self._span), len(counts))
        total_s = predict(self._model, Load(), work).total_s
        return total_s - self._model.curve.overhead_s, total_s if self._through_router else None

    def memory_bytes(self) -> int | None:
        return None

    async def stop(self) -> None:
        """It has nothing."""


def words(text: str) -> int:
    return len(text.split()) + 2


async def samples(source: Clockwork, max_tokens: int, span: int | None = None) -> list[TimedCall]:
    rng = random.Random(1)
    sizes = cells(max_tokens, TRUTH.batch_tokens, 64)
    return await calibrate.sample(
        source, Writer(words, rng).write, sizes, TRUTH.batch_tokens, span, 3, rng, lambda cell: None
    )


def test_sizes_are_doubled_up_to_the_context_and_up_to_a_full_batch() -> None:
    assert cells(100, 256, 8) == [
        *(Cell(tokens, texts) for tokens in (8, 16, 32) for texts in (1, 2, 4, 8)),
        *(Cell(64, texts) for texts in (1, 2, 4)),
        Cell(100, 1),
        Cell(100, 2),
    ]


def test_a_batch_is_filled_where_doubling_does_not_fill_it() -> None:
    assert Cell(16, 6) in cells(16, 100, 64)


def test_a_text_longer_than_a_batch_is_measured_alone() -> None:
    assert [cell for cell in cells(4096, 512, 64) if cell.tokens > 512] == [
        Cell(1024, 1),
        Cell(2048, 1),
        Cell(4096, 1),
    ]


def test_texts_are_as_long_as_wanted_and_never_alike() -> None:
    writer = Writer(words, random.Random(0))
    texts = [writer.write(64) for _ in range(200)]
    assert all(words(text) == tokens and 56 <= tokens <= 64 for text, tokens in texts)
    assert len({text[:40] for text, _ in texts}) == 200


def test_texts_of_a_word_are_never_alike_either() -> None:
    writer = Writer(words, random.Random(0))
    assert len({writer.write(3)[0] for _ in range(5000)}) == 5000


@pytest.mark.parametrize("through_router", [False, True], ids=["an engine", "a router"])
async def test_the_curve_that_made_the_times_comes_out(through_router: bool) -> None:
    measured = await samples(Clockwork(TRUTH, through_router), 4096)
    made, medians = calibrate.fitted(measured, TRUTH.batch_tokens, TRUTH.overhead_s)
    assert made.median_error < 0.01
    assert made.curve.overhead_s == pytest.approx(TRUTH.overhead_s, rel=0.01)
    for texts, length in ((1, 16), (2, 50), (1, 512), (32, 16), (64, 8)):
        call = (texts * length, texts * length**2, texts)
        assert made.curve.step(*call) == pytest.approx(TRUTH.step(*call), rel=0.05)
    assert made.curve.s_per_text == pytest.approx(TRUTH.s_per_text, rel=0.1)
    assert len(medians) == len({sample.cell for sample in measured})


def test_a_request_that_was_faster_than_the_overhead_counts_as_it_was() -> None:
    samples = [TimedCall(Cell(8, 1), 8, 64, 0.001, total_s) for total_s in (0.003, 0.004, 0.009)]
    assert [point.seconds for point in calibrate.points(samples, 512, 0.005)] == pytest.approx(
        [0.003, 0.004, 0.009]
    )


async def test_an_engine_that_reads_long_texts_in_windows_is_fitted_where_its_window_is_told() -> (
    None
):
    measured = await samples(Clockwork(TRUTH, True, 512), 4096, 512)
    made, _ = calibrate.fitted(measured, TRUTH.batch_tokens, 0.0)
    assert made.median_error < 0.01


async def test_every_size_is_measured_and_the_order_is_mixed() -> None:
    told = list[Cell]()
    rng, sizes = random.Random(1), cells(64, 256, 64)
    got = await calibrate.sample(
        Clockwork(TRUTH, True), Writer(words, rng).write, sizes, 256, None, 3, rng, told.append
    )
    assert len(told) == calls(sizes, 256, 3)
    assert all(sum(sample.cell == cell for sample in got) == 3 for cell in sizes)
    assert [sample.cell for sample in got] != sorted(sample.cell for sample in got)


def test_too_few_sizes_make_no_curve() -> None:
    with pytest.raises(CalibrationError, match="at least three different sizes"):
        calibrate.fitted([TimedCall(Cell(16, 1), 16, 256, 0.1, None)] * 9, 512, 0.0)


async def test_a_profile_is_one_that_the_router_reads() -> None:
    made, medians = calibrate.fitted(
        await samples(Clockwork(TRUTH, True), 1024), TRUTH.batch_tokens, 0.0
    )
    text = calibrate.profile("m", "a device", "software", "2026-01-01", made, medians, 1000)
    curve = load_profile(json.loads(text), "m")
    assert curve.step(300, 9000) == pytest.approx(made.curve.step(300, 9000), rel=1e-3)
    assert text.count(b"\n") == len(medians) + 11


@pytest.mark.parametrize(
    ("options", "threads"),
    [({}, "1"), ({"num_cpus": 0.25}, "1"), ({"num_cpus": 4}, "4")],
    ids=["default", "a part", "several"],
)
def test_the_engine_gets_the_threads_that_ray_gives_its_replica(
    options: dict[str, float], threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    serve = {"deployments": [{"name": "router"}, {"name": "m", "ray_actor_options": options}]}
    assert replica_environment(serve, "m")["OMP_NUM_THREADS"] == threads


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "one.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "applications": [
                    {
                        "name": "a",
                        "import_path": "deployments.app:build",
                        "args": {
                            "models": {"wordllama-256": WORDLLAMA},
                            "tiers": {"fast": "wordllama-256"},
                        },
                    }
                ]
            }
        )
    )
    return path


@pytest.mark.models
def test_the_command_measures_an_engine_in_a_process_of_its_own(
    config: Path, tmp_path: Path
) -> None:
    wanted = [
        "--model",
        "all",
        "--max-tokens",
        "128",
        "--batch-tokens",
        "512",
        "--repeats",
        "2",
        "-o",
        str(tmp_path / "made"),
    ]
    told = CliRunner().invoke(main, ["--config", str(config), *wanted])
    assert told.exit_code == 0, told.output
    profile = json.loads((tmp_path / "made" / "one-wordllama-256.json").read_text())
    assert load_profile(profile, "wordllama-256").batch_tokens == 512
    assert profile["curve"]["overhead_s"] == 0.004, "only a router can tell"
    assert profile["memory_bytes"] > 50 * 2**20
    assert (tmp_path / "made" / "one-wordllama-256.png").read_bytes().startswith(b"\x89PNG")
    assert "error" in told.output


@pytest.mark.models
@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (["--model", "worldlama", "-o", "x.json"], "there are wordllama-256 and all"),
        (["--model", "all", "-o", "x.json"], "give a folder"),
        (
            ["--model", "wordllama-256", "-o", "x.json", "--base-url", "http://127.0.0.1:9"],
            "no router at http://127.0.0.1:9",
        ),
    ],
    ids=["unknown model", "one file for all", "no router"],
)
def test_the_command_says_what_is_wrong(config: Path, wanted: list[str], why: str) -> None:
    told = CliRunner().invoke(main, ["--config", str(config), *wanted])
    assert told.exit_code != 0
    assert why in told.output


def test_a_student_has_no_replica_to_measure(tmp_path: Path) -> None:
    local = str(Path(__file__).resolve().parents[3] / "configs" / "local.yaml")
    options = ["--config", local, "--model", "minilm-student", "-o", str(tmp_path / "x.json")]
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 2
    assert "has no deployment of 'minilm-student'; there are wordllama-256, " in done.output


@pytest.mark.parametrize(
    ("median", "p95", "said"),
    [
        (0.04, 0.2, "good"),
        (0.08, 0.9, "good for most calls; some took much longer"),
        (0.17, 0.56, "usable, the router corrects it by what it measures; 10% is good: measure"),
        (0.4, 1.5, "poor: budgets would be missed or models passed over; measure again while"),
    ],
)
def test_calibrate_says_whether_the_fit_is_good_and_what_to_do(
    median: float, p95: float, said: str
) -> None:
    assert opinion(median, p95).startswith(said)


def test_what_a_calibration_takes_is_the_time_of_its_calls() -> None:
    truth = Curve(0.0, 0.01, 1e-4, 0.0, 256)
    plan = cells(512, 256, 4)
    one_step = [cell for cell in plan if cell.tokens * cell.texts <= 256]
    (whole,) = set(plan) - set(one_step)
    assert (whole, calls(plan, 256, 3)) == (Cell(512, 1), 4 * len(one_step) + 1)
    once_s = sum(truth.step(cell.tokens * cell.texts) for cell in one_step)
    assert expected_s(truth, 512, 4, None, 3) == pytest.approx(4 * once_s + 2 * truth.step(256))
