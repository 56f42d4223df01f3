"""Engines by `kind` in the config: `kind: static` is deployments/engines/static.py.

An engine's libraries are imported only when it is used; docs/engines.md shows how to add one.
"""

from importlib import import_module

from deployments.engines.base import Engine, EngineError, Setup
from deployments.telemetry.metrics import EngineStats
from router.model_config import CurveConfig, ModelConfig


def create(model: ModelConfig, base_dir: str | None, stats: EngineStats | None = None) -> Engine:
    """Create the engine of `model` without starting it.

    Relative paths start at `base_dir`; `stats` is for vLLM's own metrics. Raises EngineError for a
    model whose engine and tokenizer do not fit together.
    """
    settings = model.engine
    has_ids = model.tokenizer is not None and not model.tokenizer.startswith("callable:")
    if not (has_ids and settings.takes_token_ids) and not settings.takes_texts:
        raise EngineError(
            f"a {settings.kind} engine takes token ids: set `tokenizer` to the model's "
            "tokenizer.json"
        )
    batch_tokens = (model.curve or CurveConfig()).batch_tokens
    setup = Setup(
        model.dimensions,
        model.max_tokens,
        batch_tokens,
        base_dir,
        stats,
        model.revision,
        getattr(model, "score_kind", None),
    )
    engine: Engine = import_module(f"{__name__}.{settings.module or settings.kind}").create(
        settings, setup
    )
    return engine
