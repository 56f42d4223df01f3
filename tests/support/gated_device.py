"""A device behind vLLM's scheduler whose steps end when a test lets them."""

import threading
from concurrent.futures import Future
from typing import Any

from tests.support.waiting import WAIT_S, wait_for

WIDTH = 1024


def gated_device() -> type[Any]:
    """A new executor of vLLM; imports vLLM. Every step of its `open` class ends at once."""
    import torch
    from vllm.v1.executor.uniproc_executor import UniProcExecutor
    from vllm.v1.outputs import ModelRunnerOutput

    class Step(Future[Any]):
        """A step that ends when it is released, with vectors or an error."""

        def __init__(self, tokens: dict[str, int]) -> None:
            super().__init__()
            self.tokens = tokens
            self.error: Exception | None = None
            self.released = threading.Event()

        def result(self, timeout: float | None = None) -> Any:
            assert self.released.wait(WAIT_S)
            if self.error is not None:
                raise self.error
            places = {name: place for place, name in enumerate(self.tokens)}
            rows: list[Any] = list(torch.ones(len(places), WIDTH).unbind(0))
            return ModelRunnerOutput(
                req_ids=list(places), req_id_to_index=places, pooler_output=rows
            )

        def end(self, error: Exception | None = None) -> None:
            self.error = error
            self.released.set()

    class GatedDevice(UniProcExecutor):  # type: ignore[misc,unused-ignore]
        """Keeps its steps with texts, in the order in which they were sent."""

        open = True
        steps: list[Step] = []  # noqa: RUF012  # one engine of each class

        def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
            cls, step = type(self), Step(dict(scheduler_output.num_scheduled_tokens))
            if step.tokens:
                cls.steps.append(step)
            if cls.open or not step.tokens:
                step.end()
            return step if non_block else step.result()

        @classmethod
        def step(cls, number: int) -> Step:
            """The step of this number, once it was sent."""
            wait_for(lambda: len(cls.steps) > number, f"step {number}")
            return cls.steps[number]

    return GatedDevice
