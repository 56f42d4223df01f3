"""Engines by their kind in the config; an engine's libraries are imported only when it is
chosen.
"""

from deployments.engines.base import Engine, EngineError
from deployments.telemetry.metrics import EngineStats
from router.engine_config import (
    CallableEngine,
    FakeEngine,
    RemoteEngine,
    StaticEngine,
    TransformersEngine,
    VllmEngine,
)
from router.model_config import CurveConfig, ModelConfig


def create(model: ModelConfig, base_dir: str | None, stats: EngineStats | None = None) -> Engine:
    """Make the engine of `model`, not yet started; relative paths start at `base_dir`. `stats` is
    for vLLM's own metrics.

    Raises EngineError for a model whose engine and tokenizer do not fit together.
    """
    settings, dimensions, max_tokens = model.engine, model.dimensions, model.max_tokens
    batch_tokens = (
        model.curve or CurveConfig()
    ).batch_tokens  # where the engine itself has no limit
    gets_ids = model.tokenizer is not None and not model.tokenizer.startswith("callable:")
    if gets_ids and isinstance(settings, CallableEngine | RemoteEngine):
        raise EngineError(
            f"a {settings.kind} engine takes text: its tokenizer can only count, write "
            "`callable:module:function`"
        )
    if not gets_ids and isinstance(settings, VllmEngine | TransformersEngine | StaticEngine):
        raise EngineError(
            f"a {settings.kind} engine takes token ids: set `tokenizer` to the model's "
            "tokenizer.json"
        )
    match settings:
        case VllmEngine():
            from deployments.engines.vllm import VllmEngine as Vllm

            return Vllm(settings, dimensions, max_tokens, base_dir, stats, model.revision)
        case TransformersEngine():
            from deployments.engines.transformers import TransformersEngine as Transformers

            return Transformers(settings, dimensions, max_tokens, base_dir, model.revision)
        case StaticEngine():
            from deployments.engines.static import StaticEngine as Static

            return Static(settings, dimensions, max_tokens, base_dir)
        case CallableEngine():
            from deployments.engines.callable import CallableEngine as Callable

            return Callable(settings, dimensions, max_tokens)
        case RemoteEngine():
            from deployments.engines.remote import RemoteEngine as Remote

            return Remote(settings, dimensions, max_tokens, batch_tokens)
        case FakeEngine():
            from deployments.engines.fake import FakeEngine as Fake

            return Fake(settings, dimensions, max_tokens, batch_tokens)
