"""The engine section of a model's config, one class a kind."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
)


def _no_flag(value: Any) -> Any:
    """YAML reads yes, on and true as a flag, and Python takes that for the number 1."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, it is {str(value).lower()}")
    return value


# Whole numbers as they stand; other numbers may be text, as YAML reads 1e-5.
Int = Annotated[int, Strict()]


PositiveInt = Annotated[int, Strict(), Gt(0)]


Float = Annotated[float, BeforeValidator(_no_flag)]


PositiveFloat = Annotated[Float, Gt(0.0)]


NonNegativeFloat = Annotated[Float, Ge(0.0)]


Flag = Annotated[bool, Strict()]


class Section(BaseModel):
    """A part of the config: unknown keys are errors, values never change after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class VllmEngine(Section):
    """vLLM in pooling mode; `source` is a local folder, `package:NAME/PATH` or a hub id."""

    kind: Literal["vllm"]
    source: str
    # False starts vLLM's own worker processes, needed for more than one device a replica
    in_process: Flag = True
    # handed to vLLM's EngineArgs, checked by name against its fields
    args: dict[str, Any] = Field(default_factory=dict)


class TransformersEngine(Section):
    """The reference: Hugging Face transformers, plain and slow."""

    kind: Literal["transformers"]
    source: str
    pooling: Literal["last", "mean", "cls"]
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    batch_tokens: PositiveInt = 8192


class StaticEngine(Section):
    """An embedding table: look up, average, normalise."""

    kind: Literal["static"]
    weights: str  # safetensors file with one 2-d tensor
    tensor: str | None = None


class CallableEngine(Section):
    """Any Python function: `target` is `module:factory`, called once with `kwargs`; see
    deployments/engines/callable.py.
    """

    kind: Literal["callable"]
    target: str
    kwargs: dict[str, Any] = Field(default_factory=dict)


class RemoteEngine(Section):
    """Any OpenAI-compatible embeddings server, for example SGLang, TEI or `vllm serve`."""

    kind: Literal["remote"]
    base_url: str
    model: str
    api_key_env: str | None = None  # the environment variable that holds the key
    timeout_s: PositiveFloat = 30.0
    max_connections: PositiveInt = 32


class FakeEngine(Section):
    """Vectors made from a hash of the ids, after a delay; for tests only."""

    kind: Literal["fake"]
    base_s: NonNegativeFloat = 0.0
    s_per_token: NonNegativeFloat = 0.0
    seed: Int = 0
    # folder; a file in it, named after a replica's process id, says what goes wrong there
    faults: str | None = None


Engine = Annotated[
    VllmEngine | TransformersEngine | StaticEngine | CallableEngine | RemoteEngine | FakeEngine,
    Field(discriminator="kind"),
]
