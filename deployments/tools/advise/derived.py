"""The results of a search for rules: choices with their evidence, rules, a whole routing."""

from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from deployments.tools.advise.slices import Difference


class Evidence(NamedTuple):
    """The result of one task for a group of texts."""

    task: str
    metric: str
    units: int
    values: Mapping[str, float]


class Choice(NamedTuple):
    """The model that is enough for a group of texts; None if no task has enough of them."""

    model: str | None
    units: int
    evidence: tuple[Evidence, ...]
    differences: tuple[Difference, ...]  # averaged over the tasks


class FoundRule(NamedTuple):
    """A rule, and why it was made."""

    name: str
    when: Mapping[str, Any]
    floor: str  # tier
    model: str
    why: str
    choice: Choice | None  # None: caution, not evidence
    source: str = "measured"  # or "kept" from the rules in force, or "caution"


class Dropped(NamedTuple):
    """A rule in force, or a part of one, that the measurements make unnecessary."""

    name: str
    when: Mapping[str, Any]
    why: str


class Derived(NamedTuple):
    """A complete routing."""

    default: str  # tier
    default_model: str
    default_why: str
    default_choice: Choice | None
    rules: tuple[FoundRule, ...]
    languages: Mapping[str, Choice]  # those with enough texts
    silent: tuple[str, ...]  # what no rule was made for, and why
    tiers: Mapping[str, str] | None = None  # those in force, if known
    settings: Mapping[str, Any] = {}  # other keys of `routing:` in force
    dropped: tuple[Dropped, ...] = ()
    undecided: str = ""  # why the default in force stays, where a smaller one may be enough

    def routing(self, tiers: Container[str] | None = None) -> dict[str, Any]:
        """Return `routing:` of a config; with only the rules of `tiers`, if given."""
        return {
            "default_tier": self.default,
            **self.settings,
            "rules": [
                {"name": rule.name, "when": dict(rule.when), "floor": rule.floor}
                for rule in self.rules
                if tiers is None or rule.floor in tiers
            ],
        }


def sentence_of(choice: Choice, base: str) -> str:
    """Format the evidence as a line."""
    gains = [
        difference
        for difference in choice.differences
        if difference.smaller == base and difference.larger == choice.model
    ]
    gain = (
        f"{gains[0].points:+.1f} points [{gains[0].low:+.1f}, {gains[0].high:+.1f}] over {base}; "
        if gains
        else ""
    )
    return gain + "; ".join(
        f"{item.task}, {item.units} texts, {item.metric} "
        + " / ".join(f"{value:.1f}" for value in item.values.values())
        for item in choice.evidence
    )


def doubted(choice: Choice, difference: Difference) -> str:
    """Format the gain that the texts of a choice cannot rule out."""
    return (
        f"{choice.units:,} texts cannot rule out {difference.high:+.1f} points of "
        f"{difference.larger} over {difference.smaller}"
    )
