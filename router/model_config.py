"""The config of one model: what it reads and produces, where it comes from, and how fast it is."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from router.codes import by_language
from router.engine_config import (
    EngineConfig,
    Flag,
    Float,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
)

INSTRUCTION = "{instruction}"  # in a template


class Prompts(Section):
    """Prompt templates: each has {text} once, and that of queries can also have {instruction}."""

    query: str = "{text}"
    document: str = "{text}"
    instruction: str = ""  # used if a request gives none
    default: Literal["query", "document"] = "document"  # the side of a request without input_type

    def of(self, side: Literal["query", "document"]) -> str:
        """The template of texts of this side."""
        return self.query if side == "query" else self.document

    @model_validator(mode="after")
    def _has_text(self) -> "Prompts":
        for side, template in (("query", self.query), ("document", self.document)):
            if template.count("{text}") != 1:
                raise ValueError(
                    f"prompts.{side} must contain {{text}} exactly once, it is {template!r}"
                )
        return self


class CurveConfig(Section):
    """The coefficients of router.domain.Curve; the defaults are the prior until the model is
    measured.
    """

    fixed_s: NonNegativeFloat = 0.005
    base_s: NonNegativeFloat = 0.003
    s_per_token: NonNegativeFloat = 0.0001
    s_per_token_sq: NonNegativeFloat = 0.0
    s_per_text: NonNegativeFloat = 0.0
    batch_tokens: PositiveInt = 8192
    overhead_s: NonNegativeFloat = 0.004


class MatryoshkaRange(Section):
    """Requests can choose every size from `min` to the model's own."""

    min: PositiveInt


class CardExample(Section):
    """The example on a model's card: similarities that only its weights, its prompt and its pooling
    reproduce.
    """

    queries: tuple[str, ...] = Field(min_length=1)
    documents: tuple[str, ...] = Field(min_length=1)
    similarities: tuple[tuple[Float, ...], ...]  # one row per query, one column per document
    tolerance: PositiveFloat = 0.01  # of each similarity
    instruction: str | None = None  # of the card's queries; None: the model's own
    query_prompt: str | None = None  # what the card puts before a query
    pooling: Literal["last", "mean", "cls"] | None = None  # how the card's model pools

    @model_validator(mode="after")
    def _a_row_a_query(self) -> "CardExample":
        shape = [len(row) for row in self.similarities]
        if shape != [len(self.documents)] * len(self.queries):
            raise ValueError(
                f"similarities must have {len(self.queries)} rows (queries) of "
                f"{len(self.documents)} numbers (documents)"
            )
        return self


class FingerprintConfig(Section):
    """The proof that a replica's weights made this model's vectors: a file of stored vectors or the
    model's card. A path alone is `file`.
    """

    file: str | None = None  # made by `embedding-router fingerprint`
    card: CardExample | None = None
    # The file must have this digest; by default it is that of the file when the application is
    # built, so that no process starts with another file than those that run.
    digest: str | None = Field(default=None, pattern="^[0-9a-f]{32}$")
    # between each probe's vector and the stored one
    min_cosine: Float = Field(default=0.999, gt=0.0, le=1.0)
    every_s: PositiveFloat = 600.0  # how often a serving replica is checked again

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return {"file": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _one_of_two(self) -> "FingerprintConfig":
        if (self.file is None) == (self.card is None):
            raise ValueError("a fingerprint has either a file or a card; give one of the two")
        if self.digest is not None and self.file is None:
            raise ValueError("`digest` is that of `file`; a card has none")
        return self


class LongTextsConfig(Section):
    """Quality points on long texts, in any language."""

    from_tokens: PositiveInt  # of the model's own tokens
    points: Float


STUDENT = "student"
MAX_TOKENS = 512  # a student reads no more of a text
# A query takes about 0.1 ms in the router's process.
STUDENT_CURVE = {
    "fixed_s": 0.0001,
    "base_s": 0.00005,
    "s_per_token": 0.000002,
    "batch_tokens": 65536,
    "overhead_s": 0.0005,
}
# fields that a student cannot have: its file says what it reads and produces
NOT_OF_A_STUDENT = (
    "attention_tokens",
    "cold_start_s",
    "environment",
    "fingerprint",
    "matryoshka",
    "profile",
    "prompts",
    "proof",
    "quality",
    "revision",
    "tokenizer",
)


class ModelConfig(Section):
    """One embedding model, served by one deployment of its name; a student has no deployment."""

    engine: EngineConfig
    # the space of another model, whose vectors this model makes; it then has no tier and no rank
    space_of: str | None = None
    proof: str | None = None  # the file that says what it keeps of that space
    # the commit of the hub repository, for `engine.source` and for `tokenizer` if it is the same
    revision: str | None = None
    dimensions: PositiveInt
    max_tokens: PositiveInt
    # the attention window, if tokens do not attend to the whole text
    attention_tokens: PositiveInt | None = None
    # tokenizer.json, its folder, or `package:NAME/PATH`; none: the engine takes text
    tokenizer: str | None = None
    # whether the tokenizer's own post-processor adds its special tokens
    special_tokens: Flag = True
    aliases: tuple[str, ...] = ()
    matryoshka: tuple[PositiveInt, ...] | MatryoshkaRange | None = None
    prompts: Prompts = Prompts()
    fingerprint: FingerprintConfig | None = None
    profile: str | None = None  # file made by `embedding-router calibrate`
    curve: CurveConfig | None = None  # written by hand; a profile wins
    quality: dict[str, Float | LongTextsConfig] = Field(default_factory=dict)
    memory_bytes: PositiveInt | None = None
    devices: PositiveFloat = 1.0
    device_hour_cost: NonNegativeFloat | None = None  # for /v1/usage, in any currency
    good_for: str = ""
    required: Flag = True  # /health waits for it
    # time from no replica to a ready one; set it if min_replicas is 0
    cold_start_s: PositiveFloat | None = None
    calls_in_flight: PositiveInt = 3  # calls that one router keeps at one replica
    # of the text that a health check embeds; less than Serve's health_check_timeout_s
    health_timeout_s: PositiveFloat = 20.0
    rank: int | None = (
        # smaller models have lower ranks; give all models a rank, or none: then their order counts
        None
    )
    # allocator and OpenMP settings for the replica's process
    environment: Literal["default", "cpu-vllm"] = "default"

    @model_validator(mode="before")
    @classmethod
    def _sizes_of_a_student(cls, data: Any) -> Any:
        """Fill in a student's sizes and curve; its dimensions are those of `space_of`."""
        engine = data.get("engine") if isinstance(data, Mapping) else None
        if not isinstance(engine, Mapping) or engine.get("kind") != STUDENT:
            return data
        if data.get("space_of") is None:
            raise ValueError(
                "a student needs `space_of`: MODEL/DIMENSIONS, the space whose queries it makes"
            )
        size = str(data.get("space_of")).rpartition("/")[2]
        given = {"max_tokens": MAX_TOKENS, "curve": STUDENT_CURVE}
        if size.isascii() and size.isdecimal() and int(size):
            given["dimensions"] = int(size)
        return {**given, **{key: value for key, value in data.items() if value is not None}}

    @model_validator(mode="after")
    def _makes_vectors_of_another(self) -> "ModelConfig":
        if self.space_of is None:
            if self.proof is not None:
                raise ValueError("`proof` is for models with `space_of`; remove it")
            return self
        if self.rank is not None:
            raise ValueError(
                "a model with `space_of` has no rank: requests that name no space never go to it"
            )
        if self.engine.in_router:
            for key in NOT_OF_A_STUDENT:
                if getattr(self, key) != type(self).model_fields[key].get_default(
                    call_default_factory=True
                ):
                    raise ValueError(f"a student has no `{key}`; remove it")
            if self.max_tokens > MAX_TOKENS:
                raise ValueError(f"a student reads at most {MAX_TOKENS} tokens; lower `max_tokens`")
            if not self.space_of.endswith(f"/{self.dimensions}"):
                raise ValueError("a student's dimensions are those of `space_of`; remove them")
        return self

    @field_validator("revision")
    @classmethod
    def _is_a_commit(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[0-9a-f]{40}", value):
            raise ValueError(
                f"must be a commit's 40 hexadecimal digits, it is {value!r}: a branch or a tag "
                "may name other weights tomorrow"
            )
        return value

    @model_validator(mode="after")
    def _reads_as_its_card(self) -> "ModelConfig":
        card = None if self.fingerprint is None else self.fingerprint.card
        if card is None or card.query_prompt is None:
            return self
        task = self.prompts.instruction if card.instruction is None else card.instruction
        before, after = (
            part.replace("{instruction}", task) for part in self.prompts.query.split("{text}")
        )
        if (before, after) != (card.query_prompt, ""):
            raise ValueError(
                f"fingerprint.card: the card puts {card.query_prompt!r} before a query, "
                f"prompts.query puts {before!r} before and {after!r} after it; write "
                "prompts.query and prompts.instruction as the card has them"
            )
        return self

    def pinned(self, source: str) -> str | None:
        """The configured commit of `source`; None if that is not the engine's own repository."""
        return self.revision if source == self.engine.hub_source else None

    @field_validator("quality")
    @classmethod
    def _known_languages(
        cls, quality: dict[str, float | LongTextsConfig]
    ) -> dict[str, float | LongTextsConfig]:
        return by_language(quality, ("code", "mixed", "long", "default"))

    @model_validator(mode="after")
    def _sizes(self) -> "ModelConfig":
        for key, value in self.quality.items():
            if isinstance(value, LongTextsConfig) != (key == "long"):
                raise ValueError(
                    f"quality.{key}: write a number of points, or for `long` a section "
                    "{from_tokens: N, points: P}"
                )
        if isinstance(self.matryoshka, tuple):
            too_large = [size for size in self.matryoshka if size > self.dimensions]
            if too_large:
                raise ValueError(
                    f"matryoshka sizes {too_large} are larger than dimensions: {self.dimensions}"
                )
        elif self.matryoshka is not None and self.matryoshka.min > self.dimensions:
            raise ValueError(
                f"matryoshka.min {self.matryoshka.min} is larger than dimensions: {self.dimensions}"
            )
        return self

    def serves(self, dimensions: int) -> bool:
        """Whether the model has vectors of this size: its own size, or one it was
        Matryoshka-trained for.
        """
        if isinstance(self.matryoshka, MatryoshkaRange):
            return self.matryoshka.min <= dimensions <= self.dimensions
        return dimensions == self.dimensions or dimensions in (self.matryoshka or ())


def resolve_path(path: str, base_dir: str | None = None) -> Path:
    """The file or folder that `path` names: `package:NAME/PATH` looks inside an installed package.

    Raises FileNotFoundError with a message for users if the package or the file is missing.
    """
    if path.startswith("package:"):
        from importlib.util import find_spec

        package, _, inner = path.removeprefix("package:").partition("/")
        try:
            spec = find_spec(package)
        except (ImportError, ValueError):  # a part of a dotted name is missing, or there is no name
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(
                f"{path}: the package {package!r} is not installed; install the extra that "
                "brings it"
            )
        found = Path(next(iter(spec.submodule_search_locations))) / inner
        where = f" ({found})"
    else:
        found, where = Path(path).expanduser(), ""
        if not found.is_absolute():
            found = Path(base_dir or ".") / found
            started = (
                ""
                if base_dir
                else ", where this was started: start it where its paths begin, or set base_dir"
            )
            where = f" in {Path(base_dir or '.').absolute()}{started}"
    if not found.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder{where}")
    return found.resolve()
