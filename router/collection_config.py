"""The section `collections:` of the config."""

from typing import Any, Literal

from pydantic import Field, model_validator

from router.engine_config import Float, Section


class CollectionConfig(Section):
    """A collection: a name that requests can give as `space`. The short form `MODEL/DIMENSIONS`
    sets `space` alone.

    `input_type`, `instruction` and `truncate` are defaults for requests that do not give their own.
    """

    space: str | None = None  # MODEL/DIMENSIONS
    spaces: tuple[str, ...] = ()  # several of them, one for each index; instead of `space`
    # measured file: the recall of each space's native model, relative to the best space
    proof: str | None = None
    input_type: Literal["query", "document"] | None = None
    instruction: str | None = Field(default=None, min_length=1)
    truncate: Literal["none", "end", "start"] = "none"
    adapters: tuple[
        str, ...
    ] = ()  # files made by `embedding-router align`; `encoders` takes them too
    # models with `space_of`, and adapter files, that can also make vectors of its spaces
    encoders: tuple[str, ...] = ()
    adapt: Literal["queries", "all"] = "queries"  # texts that can use an adapter
    # share of the best space's own recall that its queries keep on average
    min_recall: Float = Field(default=0.95, ge=0.0, le=1.0)
    min_recall_each: Float = Field(default=0.5, ge=0.0, le=1.0)  # minimum for every encoder
    # fixed: every document was in the fit, so the figure for documents in the fit counts
    documents: Literal["growing", "fixed"] = "growing"

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return {"space": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _one_of_space_and_spaces(self) -> "CollectionConfig":
        if (self.space is None) == (not self.spaces):
            raise ValueError("a collection has either `space` or `spaces`; give one of the two")
        if len(set(self.spaces)) < len(self.spaces):
            raise ValueError("spaces: one is named twice; remove it")
        if self.proof is not None and len(self.spaces) < 2:
            raise ValueError("proof: it compares several `spaces`, and there is one; remove it")
        return self

    @property
    def all_spaces(self) -> tuple[str, ...]:
        """`space` or `spaces`, as a tuple."""
        return (self.space,) if self.space is not None else self.spaces
