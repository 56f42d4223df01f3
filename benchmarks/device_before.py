"""The stepping thread of version 0.1, for comparison: it prepares every text itself, through
LLMEngine, and the device waits meanwhile.
"""

import asyncio
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from deployments.engines.vllm_backends import Encoded
from deployments.engines.vllm_core import Core, EngineCall, same_for_all
from deployments.engines.vllm_in_process import InProcess
from router.arrays import TokenIds, Vectors


class Before(InProcess):
    """An engine that takes jobs, adds their texts, steps and waits, one after the other."""

    async def encode(self, ids: Mapping[int, TokenIds], vectors: Vectors) -> Encoded:
        """Give the ids to the thread as lists."""
        job = EngineCall(
            sum(map(len, ids.values())), vectors, asyncio.get_running_loop().create_future()
        )
        texts: Any = [(row, text.tolist()) for row, text in ids.items()]
        job.requests, job.left = texts, len(texts)
        self._jobs.add(job)
        self.queued_tokens += job.tokens
        self._inbox.put(job)
        await job.future
        return Encoded(job.failed)

    def _step(self, core: Core, tell: Callable[..., None]) -> None:
        from vllm.inputs import tokens_input

        engine = self.engine
        assert engine is not None
        params, names = same_for_all(engine.vllm_config, self._pooling), map(str, count())
        running: dict[str, tuple[EngineCall, int]] = {}
        while True:
            wait, done = not running, list[EngineCall]()
            while wait or not self._inbox.empty():
                wait = False
                if (job := self._inbox.get()) is None:
                    return
                texts: Any = job.requests
                for row, ids in texts:
                    name = next(names)
                    engine.add_request(name, tokens_input(ids), params)
                    running[name] = job, row
            answered = False
            for output in engine.step():
                owner, row = running.pop(output.request_id)
                owner.vectors[row] = output.outputs.data.float().numpy()
                owner.left -= 1
                answered = True
                if not owner.left:
                    done.append(owner)
            if answered:
                tell(self._finish, done)
