"""vLLM's log is kept in a file and read for the phases of a start; its console stays quiet."""

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest

from deployments.engines.vllm_log import StartLog


@pytest.fixture
def vllm_logger() -> Iterator[logging.Logger]:
    """vLLM's logger as it sets it up where VLLM_LOGGING_LEVEL is ERROR."""
    logger = logging.getLogger("vllm")
    before = logger.level, logger.handlers[:], logger.propagate
    console = logging.StreamHandler()
    logger.handlers, logger.propagate = [console], False
    logger.setLevel(logging.ERROR)
    yield logger
    for handler in logger.handlers:
        handler.close()
    logger.level, logger.handlers, logger.propagate = before


SAID = (
    "Time spent downloading weights for Qwen/Qwen3-Embedding-0.6B: 12.500000 seconds",
    "Loading weights took 3.00 seconds",
    "torch.compile took 31.25 s in total",
    "Graph capturing finished in 9 secs, took 0.40 GiB",
    "Encoder graph capturing finished in 70 secs, took 0.40 GiB (3 graphs)",
)


def test_the_phases_of_a_start_are_what_vllm_says_and_the_rest_is_loading(
    vllm_logger: logging.Logger, tmp_path: Path
) -> None:
    log = StartLog(tmp_path / "vllm.log")
    log.attach()
    for line in SAID:
        logging.getLogger("vllm.v1.worker").info(line)
    assert log.doing == SAID[-1]
    phases = log.phases()
    assert (phases["download"], phases["compile"], phases["warm_up"]) == (12.5, 31.25, 9.0)
    assert set(phases) == {"import", "download", "load", "compile", "warm_up"}
    assert all(seconds >= 0 for seconds in phases.values())
    logging.getLogger("vllm").info("torch.compile took 5 s in total")
    assert log.phases()["compile"] == 31.25  # nothing is read after the start


def test_everything_from_info_on_is_kept_in_the_file_and_the_console_stays_as_it_was(
    vllm_logger: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    StartLog(tmp_path / "vllm.log").attach()
    logging.getLogger("vllm.v1").info("Using FLASH_ATTN attention backend")
    logging.getLogger("vllm.v1").error("CUDA error")
    kept = (tmp_path / "vllm.log").read_text()
    assert "FLASH_ATTN" in kept
    assert "CUDA error" in kept
    assert "FLASH_ATTN" not in capsys.readouterr().err


def test_without_a_file_the_phases_are_read_all_the_same(vllm_logger: logging.Logger) -> None:
    log = StartLog(None)
    log.attach()
    logging.getLogger("vllm").info("torch.compile took 2.5 s in total")
    assert log.phases()["compile"] == 2.5


def test_a_start_goes_on_where_its_log_cannot_be_read_or_kept(
    vllm_logger: logging.Logger, tmp_path: Path
) -> None:
    file = tmp_path / "no such folder" / "vllm.log"
    log, said = StartLog(file), StringIO()
    ours, shown = logging.getLogger("ray.serve"), logging.StreamHandler(said)
    ours.addHandler(shown)
    try:
        log.attach()
    finally:
        ours.removeHandler(shown)
    assert said.getvalue().startswith("vLLM's log is not kept: ")
    assert str(file) in said.getvalue()
    vllm_logger.removeHandler(vllm_logger.handlers[0])  # the console reports such lines itself
    for line, arguments in (
        ("torch.compile took %d s in total", ("many",)),
        ("torch.compile took 1.2.3 s in total", ()),
        ("%s and %s", ("one",)),
        ("%(name)s", ({"other": 1},)),
        ("\n", ()),
        ("torch.compile took 2.5 s in total", ()),
    ):
        vllm_logger.info(line, *arguments)
    assert log.phases()["compile"] == 2.5


def test_vllm_still_says_these_lines() -> None:
    """An upgrade that words them otherwise would leave phases at 0."""
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    for file, words in (
        ("model_executor/model_loader/weight_utils.py", "Time spent downloading weights for %s"),
        ("compilation/monitor.py", "torch.compile took %.2f s in total"),
        ("v1/worker/gpu/model_runner.py", "Graph capturing finished in %.0f secs"),
    ):
        assert words in (root / file).read_text(), file
