"""Engines by their kind in the config; an engine's libraries are imported only when it is chosen."""

from deployments.engines.base import Engine, EngineError
from router.config import (
    CallableEngine,
    CurveConfig,
    FakeEngine,
    ModelConfig,
    RemoteEngine,
    StaticEngine,
    TransformersEngine,
    VllmEngine,
)


def create(model: ModelConfig, base_dir: str | None) -> Engine:
    """Make the engine of `model`, not yet started; relative paths start at `base_dir`.

    Raises EngineError for a model whose engine and tokenizer do not fit together.
    """
    settings, dimensions, max_tokens = model.engine, model.dimensions, model.max_tokens
    batch_tokens = (model.curve or CurveConfig()).batch_tokens  # where the engine itself has no limit
    gets_ids = model.tokenizer is not None and not model.tokenizer.startswith("callable:")
    if gets_ids and isinstance(settings, CallableEngine | RemoteEngine):
        raise EngineError(f"a {settings.kind} engine takes text: its tokenizer can only count, write `callable:module:function`")
    if not gets_ids and isinstance(settings, VllmEngine | TransformersEngine | StaticEngine):
        raise EngineError(f"a {settings.kind} engine takes token ids: set `tokenizer` to the model's tokenizer.json")
    match settings:
        case VllmEngine():
            from deployments.engines import vllm

            return vllm.VllmEngine(settings, dimensions, max_tokens, base_dir)
        case TransformersEngine():
            from deployments.engines import transformers

            return transformers.TransformersEngine(settings, dimensions, max_tokens, base_dir)
        case StaticEngine():
            from deployments.engines import static

            return static.StaticEngine(settings, dimensions, max_tokens, base_dir)
        case CallableEngine():
            from deployments.engines import callable

            return callable.CallableEngine(settings, dimensions, max_tokens)
        case RemoteEngine():
            from deployments.engines import remote

            return remote.RemoteEngine(settings, dimensions, max_tokens, batch_tokens)
        case FakeEngine():
            from deployments.engines import fake

            return fake.FakeEngine(settings, dimensions, max_tokens, batch_tokens)
