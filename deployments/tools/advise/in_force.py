"""Combine measured rules with the rules in force, and add caution for texts not measured.

`routing.yaml` replaces the rules in force. It leaves out a rule, or lowers the default, only if the
measured texts settle that its model is not needed: no larger model's interval reaches the least
gain. The rest of a rule is kept and marked, such as languages and scripts of no measured text.
Texts that were not measured, and that no kept rule raises, get a rule of caution.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from deployments.tools.advise.derived import Choice, Derived, Dropped, FoundRule, doubted
from deployments.tools.advise.derived import sentence_of as evidence
from deployments.tools.advise.languages import names_of
from deployments.tools.advise.quality import Task, Unit
from deployments.tools.advise.rules import LATIN, Search, Where
from deployments.tools.advise.slices import doubt
from deployments.tools.advise.survey import AdvisePlan
from deployments.tools.policy_file import parse_policy
from router.codes import SCRIPTS, script_codes
from router.domain import Tier
from router.models import build_floor
from router.routing_config import RoutingConfig, Rule

KEPT = "kept from the rules in force"
CAUTION = "caution, not evidence"
NOT_MEASURED = "language-not-measured"


class InForce(NamedTuple):
    """The policy of the service."""

    routing: RoutingConfig
    tiers: Mapping[str, str]


def in_force(plan: AdvisePlan) -> InForce | None:
    """Return the policy that the plan holds; None if the service did not give it."""
    if plan.policy is None:
        return None
    other = parse_policy(plan.policy.encode(), "the policy in force")
    tiers = {str(tier): model for tier, model in (other.tiers or {}).items()}
    return InForce(other.routing, tiers or plan.all_tiers)


def derive(
    plan: AdvisePlan, tasks: Sequence[Task], min_gain: float, rows: Where | None = None
) -> Derived:
    """Derive the routing that the texts support, and keep parts of the rules in force."""
    now = in_force(plan)
    default = None if now is None else now.tiers[now.routing.default_tier]
    search = Search(plan, tasks, min_gain, rows, default)
    found = search.derive()
    if now is None:
        return _Rest(search, found, None, _default_points(plan)).with_caution()
    settings = now.routing.model_dump(
        mode="json", exclude_defaults=True, exclude={"default_tier", "rules"}
    )
    found = found._replace(tiers=now.tiers, settings=settings)
    if default not in search.rank:
        return _as_it_is(found, now, f"{default} was not measured")
    if found.default_choice is None:
        return _as_it_is(found, now, "nothing was measured")
    if found.default_model == default:  # its tier by the name in force
        found = found._replace(default=str(now.routing.default_tier))
    if found.undecided:
        found = found._replace(default_why=f"{KEPT}: {found.undecided}")
    return _Rest(search, found, now, _default_points(plan)).with_kept().with_caution()


def _as_it_is(found: Derived, now: InForce, why: str) -> Derived:
    """Keep everything that is in force: no measurement supports a change."""
    default = now.routing.default_tier
    return found._replace(
        default=str(default),
        default_model=now.tiers[default],
        default_why=f"{KEPT}: {why}",
        default_choice=None,
        rules=tuple(_kept(rule, now, _when(rule), why) for rule in now.routing.rules),
    )


def _when(rule: Rule) -> dict[str, Any]:
    return rule.when.model_dump(mode="json", exclude_none=True)


def _kept(rule: Rule, now: InForce, when: Mapping[str, Any], why: str, name: str = "") -> FoundRule:
    floor = str(rule.floor)
    return FoundRule(
        name or rule.name, when, floor, now.tiers[floor], f"{KEPT}: {why}", None, "kept"
    )


def _default_points(plan: AdvisePlan) -> dict[str, float]:
    """Configured quality for languages without a figure of their own, by model."""
    figures = {each.name: each.configured for each in plan.candidates if each.tiers}
    return {name: own["default"] for name, own in figures.items() if "default" in own}


class _Rest:
    """Adds kept rules and rules of caution to the measured ones."""

    def __init__(
        self, search: Search, found: Derived, now: InForce | None, points: Mapping[str, float]
    ) -> None:
        self._search, self._found, self._now, self._points = search, found, now, points
        self._rank = search.rank
        self._base = self._rank[found.default_model]
        self._rules = list(found.rules)
        self._dropped = list[Dropped]()

    def with_kept(self) -> "_Rest":
        """Add the kept parts of the rules in force."""
        assert self._now is not None
        for rule in self._now.routing.rules:
            self._keep(rule, self._now)
        return self

    def with_caution(self) -> Derived:
        """Return the routing, with rules for texts that were not measured."""
        if self._found.default_choice is not None:
            self._be_cautious()
        return self._found._replace(rules=tuple(self._rules), dropped=tuple(self._dropped))

    def _keep(self, rule: Rule, now: InForce) -> None:
        when, model = _when(rule), now.tiers[rule.floor]
        if model not in self._rank:
            self._add(_kept(rule, now, when, f"{model} was not measured"))
        elif self._rank[model] <= self._base:
            self._drop(rule.name, when, f"the default is {self._found.default_model} already")
        elif list(when) in (["languages"], ["not_languages"], ["scripts"]):
            self._keep_parts(rule, now, model, *when)
        else:
            self._keep_whole(rule, now, model, when)

    def _keep_whole(self, rule: Rule, now: InForce, model: str, when: dict[str, Any]) -> None:
        for other in self._rules:
            if dict(other.when) == when and self._rank[other.model] >= self._rank[model]:
                return self._drop(rule.name, when, f"rule {other.name} says the same, measured")
        floor, tokens = build_floor(rule.name, rule.when, model), self._search.tokens

        def holds(unit: Unit) -> bool:
            side = None if unit.side == "symmetric" else unit.side
            return floor.applies(unit.features, tokens(unit), side)

        rows = self._search.where(holds)
        if not self._search.is_enough(rows):
            return self._add(_kept(rule, now, when, "too few of its texts were measured"))
        choice = self._search.choose(rows)
        if self._is_settled(choice, model):
            return self._drop(rule.name, when, self._enough(choice))
        return self._add(_kept(rule, now, when, self._open(choice, model)))

    def _keep_parts(self, rule: Rule, now: InForce, model: str, key: str) -> None:
        """Keep a rule without the languages or scripts that were measured and do not need it."""
        given = list(getattr(rule.when, key))
        settled, others = list[str](), list[str]()
        for value, choice in self._measured(key).items():
            if (value in given) == (key == "not_languages"):
                continue
            if key != "scripts" and self._covers(value, model):
                settled.append(value)
            elif self._is_settled(choice, model):
                settled.append(value)
                self._drop(rule.name, {key.removeprefix("not_"): [value]}, self._enough(choice))
            else:
                others.append(f"{value}: {self._open(choice, model)}")
        if key == "not_languages":
            left = sorted({*given, *settled})
            open_still = "texts of every other language were not measured"
        else:
            left = [value for value in given if value not in settled]
            unmeasured = [value for value in left if value not in self._measured(key)]
            open_still = f"not measured: {', '.join(unmeasured)}" if unmeasured else ""
        if left:
            why = "; ".join(filter(None, (open_still, *others)))
            self._add(_kept(rule, now, {key: left}, why))

    def _measured(self, key: str) -> Mapping[str, Choice]:
        return self._search.scripts() if key == "scripts" else self._found.languages

    def _covers(self, language: str, model: str) -> bool:
        """Whether a measured rule already raises a language to this model or a larger one."""
        return any(
            language in rule.when.get("languages", ())
            and self._rank[rule.model] >= self._rank[model]
            for rule in self._found.rules
        )

    def _is_settled(self, choice: Choice, model: str) -> bool:
        """Whether a smaller model is shown to be enough."""
        if choice.model is None or self._rank[choice.model] >= self._rank[model]:
            return False
        return doubt(choice.differences, choice.model, self._search.min_gain) is None

    def _enough(self, choice: Choice) -> str:
        return f"{choice.model} is enough: {evidence(choice, self._found.default_model)}"

    def _open(self, choice: Choice, model: str) -> str:
        if choice.model is None:
            return "their scores tell no models apart"
        if self._rank[choice.model] >= self._rank[model]:
            return evidence(choice, self._found.default_model)
        one = doubt(choice.differences, choice.model, self._search.min_gain)
        assert one is not None
        return doubted(choice, one)

    def _drop(self, name: str, when: Mapping[str, Any], why: str) -> None:
        self._dropped.append(Dropped(name, when, why))

    def _add(self, rule: FoundRule) -> None:
        names = {other.name for other in self._rules}
        name = rule.name
        while name in names:
            name = f"{name[:56]}-kept" if rule.source == "kept" else f"{name[:56]}-also"
        self._rules.append(rule._replace(name=name))

    def _be_cautious(self) -> None:
        floor, why = self._caution_floor()
        self._rules = [rule for rule in self._rules if rule.name != NOT_MEASURED]
        if self._rank[floor] <= self._base:
            return
        measured = sorted(self._found.languages)
        scripts = [
            script
            for script in script_codes(SCRIPTS)
            if script != LATIN and not self._raises("scripts", script, floor)
            if (choice := self._search.scripts().get(script)) is None
            or not self._is_settled(choice, floor)
        ]
        conditions: list[tuple[str, dict[str, Any]]] = []
        if not any(
            self._is_over(rule, floor)
            and list(rule.when) == ["not_languages"]
            and set(rule.when["not_languages"]) <= set(measured)
            for rule in self._rules
        ):
            conditions.append((NOT_MEASURED, {"not_languages": measured}))
        if scripts:
            conditions.append(("script-not-measured", {"scripts": scripts}))
        mixed = self._search.where(lambda unit: unit.features.mixed)
        if not self._search.is_enough(mixed) and not self._raises_kind("mixed", floor):
            conditions.append(("mixed-not-measured", {"mixed": True}))
        for name, when in conditions:
            self._caution(name, when, floor, why)
        default = self._search.default
        if default in self._rank and self._rank[default] > self._base:
            why = "the default is lower now, and nothing settles that it is enough here"
            for kind in ("mixed", "code"):
                if not self._raises_kind(kind, default) and self._is_open(kind, default):
                    self._caution(f"{kind}-not-settled", {kind: True}, default, why)

    def _caution(self, name: str, when: dict[str, Any], floor: str, why: str) -> None:
        explanation = f"{CAUTION}: {why}; take this rule out if it costs too much"
        self._add(
            FoundRule(name, when, self._search.tier[floor], floor, explanation, None, "caution")
        )

    def _is_over(self, rule: FoundRule, floor: str) -> bool:
        """Whether a rule raises to `floor` or above; an unmeasured model counts as above."""
        return self._rank.get(rule.model, len(self._rank)) >= self._rank[floor]

    def _raises_kind(self, kind: str, floor: str) -> bool:
        """Whether a rule raises mixed texts, or code, to this model or a larger one."""
        return any(
            self._is_over(rule, floor) and dict(rule.when) == {kind: True} for rule in self._rules
        )

    def _is_open(self, kind: str, floor: str) -> bool:
        """Whether the texts leave open that mixed texts, or code, need this model."""
        rows = self._search.where(lambda unit: getattr(unit.features, kind))
        return not self._search.is_enough(rows) or not self._is_settled(
            self._search.choose(rows), floor
        )

    def _raises(self, key: str, value: str, floor: str) -> bool:
        return any(
            self._is_over(rule, floor) and list(rule.when) == [key] and value in rule.when[key]
            for rule in self._rules
        )

    def _caution_floor(self) -> tuple[str, str]:
        """Return the model for texts that were not measured, and the reason for it."""
        raised = {
            name: choice.model
            for name, choice in self._found.languages.items()
            if choice.model is not None and self._rank[choice.model] > self._base
        }
        reasons: dict[str, str] = {}
        if self._points:
            best = max(self._points, key=lambda name: (self._points[name], -self._rank[name]))
            reasons[best] = "by the config's figures it is the best for languages without one"
        if self._now is not None:
            today = self._now.tiers[Tier(self._now.routing.default_tier)]
            reasons |= {today: "it is the default in force"} if today in self._rank else {}
        elif not raised and not reasons:
            reasons[list(self._rank)[-1]] = "the rules in force are not known"
        if raised:
            highest = max(raised.values(), key=self._rank.__getitem__)
            gained = [name for name, model in raised.items() if model == highest]
            reasons[highest] = f"of the languages measured, {names_of(gained)} gained from it"
        floor = max(reasons, key=self._rank.__getitem__, default=self._found.default_model)
        return floor, f"not measured here, and {reasons.get(floor, '')}"
