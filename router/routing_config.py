"""The config of routing: rules, policy, and the experiments beside them."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)

from router.codes import by_language, language_codes, script_codes
from router.domain import Tier
from router.engine_config import (
    Flag,
    Float,
    PositiveFloat,
    PositiveInt,
    Section,
)

NamedTier = Literal[Tier.FAST, Tier.BALANCED, Tier.BEST]


class When(Section):
    """Conditions of a rule; all given ones must hold. A rule without conditions always holds."""

    min_tokens: PositiveInt | None = None  # of the longest text
    max_tokens: PositiveInt | None = None
    languages: tuple[str, ...] | None = None  # ISO 639-1
    not_languages: tuple[str, ...] | None = None  # a text of unknown language does not match
    scripts: tuple[str, ...] | None = None  # ISO 15924
    mixed: Flag | None = None
    code: Flag | None = None
    input_type: Literal["query", "document"] | None = None

    @field_validator("languages", "not_languages")
    @classmethod
    def _known_languages(cls, words: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if words is None else language_codes(words)

    @field_validator("scripts")
    @classmethod
    def _known_scripts(cls, words: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if words is None else script_codes(words)


class Rule(Section):
    """A floor: an `auto` request that matches goes to this tier's model or a larger one."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    when: When = When()
    floor: NamedTier


def _refuse_priced(value: Any) -> Any:
    if value == "priced":
        raise ValueError("`priced` was removed in 0.2, for it gained nothing; delete the line")
    return value


class RoutingConfig(Section):
    """The settings of decisions; reloaded without a restart."""

    HINTS: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("quality_weight", "price_eta", "price_utilisation"),
        "removed in 0.2 with the policy `priced`; delete the line",
    )

    policy: Annotated[Literal["rules"], BeforeValidator(_refuse_priced)] = "rules"
    default_tier: NamedTier = Tier.FAST  # the floor when no rule applies
    rules: tuple[Rule, ...] = ()
    require_space: Flag = False
    strict_tiers: Flag = False
    # how much likelier a short text is in this language (ISO 639-1) than in one without a figure
    language_prior: dict[str, PositiveFloat] = Field(default_factory=dict)
    default_budget_ms: PositiveFloat | None = None
    # share of a list's texts that must match a rule for it to raise the floor of the list
    min_share: Float = Field(default=0.2, gt=0.0, le=1.0)
    # share of a text's tokens unknown to a model, above which `auto` does not choose it
    max_unread: Float = Field(default=0.5, ge=0.0, le=1.0)
    # share of predictions that can be exceeded: alpha
    miss_share: Float = Field(default=0.05, gt=0.0, lt=0.5)

    @field_validator("language_prior")
    @classmethod
    def _known_languages(cls, prior: dict[str, float]) -> dict[str, float]:
        return by_language(prior)


class Shadow(Section):
    """Embed a share of the answered requests with another model too, as bulk requests; answers
    never change.
    """

    model: str
    share: Float = Field(gt=0.0, le=1.0)
    when: When = When()  # which requests; all if nothing is given
    # start only while this router has no request in flight: for models that share a machine
    wait_for_idle: Flag = False


class Canary(Section):
    """Decide a share of the free requests by other rules: one `model` for all of them, or a
    `routing` of its own.
    """

    share: Float = Field(gt=0.0, le=1.0)
    model: str | None = None
    routing: RoutingConfig | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> "Canary":
        if (self.model is None) == (self.routing is None):
            raise ValueError(
                "a canary has either a model or a routing of its own; give one of the two"
            )
        return self


class Compare(Section):
    """Other models and other rules, tried on live traffic; reloaded without a restart, off if
    nothing is given.
    """

    shadow: Shadow | None = None
    canary: Canary | None = None
