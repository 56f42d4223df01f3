"""What is asked of the service: new texts, as many as it has devices."""

from pathlib import Path
from typing import Any

import numpy as np

from deployments.tools.advise import latency
from deployments.tools.client import EmbeddingAnswer
from tests.support.advise_plan import MODELS, plan


class Listener:
    """A client that remembers what it was asked, and answers at once."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []
        self.batches: dict[str, int] = {}

    async def embed(self, texts: list[str], **options: Any) -> EmbeddingAnswer:
        self.texts += [(options["model"], text) for text in texts]
        if options.get("priority") != "interactive":
            self.batches[options["model"]] = self.batches.get(options["model"], 0) + 1
        return EmbeddingAnswer(np.ones((len(texts), 2), np.float32), "", None, len(texts))


async def listened(folder: Path, devices: float) -> tuple[Listener, list[latency.Round]]:
    service, made = Listener(), plan()
    few = made.__class__(
        {"query": ("one", "two"), "symmetric": (), "document": ("three",)},
        tuple(each._replace(devices=devices) for each in made.candidates),
        made.tokens,
        made.predicted_s,
        {},
    )
    return service, await latency.measure(service, few, folder, 5)  # type: ignore[arg-type]


async def test_no_text_of_a_second_run_was_asked_in_the_first(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    first, _ = await listened(tmp_path / "first", 1.0)
    second, _ = await listened(tmp_path / "second", 1.0)

    assert len(first.texts) > 900
    assert len(set(first.texts) & set(second.texts)) < 5  # seven digits may meet by chance
    # Under its number every model is asked the same texts in the same rounds.
    asked = {
        model: sorted(text.split()[1] for name, text in first.texts if name == model)
        for model in MODELS
    }
    assert asked["small"] == asked["middle"] == asked["large"]


async def test_every_device_gets_its_share_of_batches(tmp_path: Path) -> None:
    service, rounds = await listened(tmp_path, 8.0)

    assert service.batches == dict.fromkeys(MODELS, 8 * latency.BATCHES * latency.ROUNDS)
    assert {one.texts for one in rounds} == {8 * latency.BATCHES * latency.BATCH_TEXTS}
