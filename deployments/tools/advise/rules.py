"""The routing that the data supports: a default tier, and floors where a larger model is worth it.

For a group of texts the choice is the smallest model that no larger one beats measurably and by the
least gain that is worth it. Differences of models are averaged over the tasks that have enough such
texts, with equal weights. The default is the lowest choice of any measured language, because rules
can only raise; a default in force stays unless the texts settle that a smaller one is enough. Each
rule is then searched for among the texts that no earlier rule raised, so that
no rule uses another's evidence: languages (by their plain texts), then scripts, mixed texts, code,
and long texts. The significance required of each is 0.05 divided by the number of comparisons.

A length becomes a rule only if long texts gain measurably more than short ones: where both gain
alike, the fewer short texts would often look as if they gained nothing.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deployments.tools.advise.derived import (
    Choice,
    Derived,
    Evidence,
    FoundRule,
    doubted,
    sentence_of,
)
from deployments.tools.advise.inputs import MIN_UNITS
from deployments.tools.advise.languages import language, names_of
from deployments.tools.advise.quality import Task, Unit
from deployments.tools.advise.slices import (
    ALPHA,
    BANDS,
    Difference,
    doubt,
    enough,
    gaps,
    p_value,
)
from deployments.tools.advise.survey import AdvisePlan
from router.arrays import Indices

Where = Mapping[str, Indices]  # rows of each task, by its name
# name of the rule, its `when`, and whether it holds
Condition = tuple[str, dict[str, Any], Callable[[Unit], bool]]
LATIN = "Latn"
NO_LARGER = "no larger model is shown to be worth its price"


class Search:
    """Searches for rules in some rows of some tasks."""

    def __init__(
        self,
        plan: AdvisePlan,
        tasks: Sequence[Task],
        min_gain: float,
        rows: Where | None = None,
        default: str | None = None,
    ) -> None:
        """Search for rules; `default` is the model of the default tier in force, if known."""
        self._plan, self.min_gain, self.default = plan, min_gain, default
        self._tasks = [task for task in tasks if task.kind != "agreement"]
        self._rows = rows or {task.name: np.arange(len(task.units)) for task in self._tasks}
        # A floor is a tier, so only models that have a tier can be chosen.
        self.tier = {
            candidate.name: candidate.tiers[0] for candidate in plan.candidates if candidate.tiers
        }
        self._models = list(self.tier)
        self.rank = {model: rank for rank, model in enumerate(self._models)}
        self._looks = 1
        self._scripts: dict[str, Choice] | None = None

    def scripts(self) -> Mapping[str, Choice]:
        """Return the choices for the scripts that have enough texts."""
        if self._scripts is None:
            rows_of = self._values(lambda unit: unit.features.script)
            self._scripts = {
                name: self.choose(rows) for name, rows in rows_of.items() if self.is_enough(rows)
            }
        return self._scripts

    def derive(self) -> Derived:
        """Derive the default tier and the rules."""
        languages = self._values(lambda unit: unit.features.language)
        measured = {name: rows for name, rows in languages.items() if self.is_enough(rows)}
        conditions = self._conditions()
        pairs = len(self._models) * (len(self._models) - 1) // 2
        looks = sum(1 + len(self._cuts(rows)) for rows in measured.values())
        looks += sum(self.is_enough(self.where(holds)) for _, _, holds in conditions) + len(
            self._cuts(self._rows)
        )
        self._looks = max(1, pairs * looks)
        choices = {
            name: choice
            for name, rows in measured.items()
            if (choice := self._of_language(rows)).model is not None
        }
        if not choices:
            return self._without_languages(languages)
        base = min(
            (choice.model for choice in choices.values() if choice.model),
            key=self.rank.__getitem__,
        )
        asks = [name for name, choice in choices.items() if choice.model == base]
        chosen, why = choices[asks[0]], f"{NO_LARGER} for {names_of(asks)}"
        if undecided := self._undecided(
            {language(name): choice for name, choice in choices.items()}
        ):
            base, why = self.default or base, undecided
        rules = self._language_rules(choices, base)
        silent = [
            f"{name}: {sum(map(len, rows.values()))} texts, too few to tell ({MIN_UNITS} of a "
            "task are needed)"
            for name, rows in languages.items()
            if name not in measured
        ]
        silent += [
            f"{name}: its scores are all alike and tell no models apart"
            for name in measured
            if name not in choices
        ]
        held: list[Callable[[Unit], bool]] = [_is_raised(rule, set(choices)) for rule in rules]

        def left(holds: Callable[[Unit], bool]) -> Where:
            return self.where(
                lambda unit: holds(unit) and not any(already(unit) for already in held)
            )

        for name, when, holds in conditions:
            rows = left(holds)
            if not self.is_enough(rows):
                units = sum(map(len, rows.values()))
                silent.append(
                    f"{_condition(when)}: {units or 'no'} texts that no other rule raises, too "
                    "few to tell"
                )
                continue
            choice = self.choose(rows)
            if choice.model is None or self.rank[choice.model] <= self.rank[base]:
                silent.append(f"{_condition(when)}: {base} is enough, as by default")
                continue
            rules.append(
                FoundRule(
                    name,
                    when,
                    self.tier[choice.model],
                    choice.model,
                    sentence_of(choice, base),
                    choice,
                )
            )
            held.append(holds)
        if (cut := self._length(left(lambda unit: True), self.rank[base])) is None:
            silent.append("long texts: no length from which on they need more than the default")
        else:
            edge, choice = cut
            model = choice.model or base
            rules.append(
                FoundRule(
                    "long",
                    {"min_tokens": edge},
                    self.tier[model],
                    model,
                    sentence_of(choice, base),
                    choice,
                )
            )
        return Derived(
            self.tier[base],
            base,
            why,
            chosen,
            tuple(rules),
            choices,
            tuple(dict.fromkeys(silent)),
            undecided=undecided,
        )

    def _undecided(self, choices: Mapping[str, Choice]) -> str:
        """Say why the default in force stays; empty if the texts settle that less is enough."""
        default = self.default
        if default not in self.rank:
            return ""
        open_still = [
            f"for {name} {doubted(choice, one)}"
            for name, choice in choices.items()
            if choice.model is not None and self.rank[choice.model] < self.rank[default]
            if (one := doubt(choice.differences, choice.model, self.min_gain)) is not None
        ]
        if not open_still:
            return ""
        return f"not enough rows to tell: {'; '.join(open_still)}"

    def _of_language(self, rows: Where) -> Choice:
        """Choose a model for a language's plain texts.

        Code, mixed and long texts can get rules of their own.
        """
        plain = self._only(rows, lambda unit: not (unit.features.mixed or unit.features.code))
        choice = self.choose(plain if self.is_enough(plain) else rows)
        while choice.model is not None and (rank := self.rank[choice.model]):
            lower = [self.choose(short) for _, short, _ in self._cuts(plain)]
            found = [
                item for item in lower if item.model is not None and self.rank[item.model] < rank
            ]
            longer = (
                self._length(
                    plain, min((self.rank[item.model or ""] for item in found), default=-1)
                )
                if found
                else None
            )
            if longer is None:
                break
            edge = longer[0]
            shorter = self._only(plain, lambda unit, edge=edge: self.tokens(unit) < edge)  # type: ignore[misc]
            choice = self.choose(shorter)
        return choice

    def _length(self, rows: Where, rank: int) -> tuple[int, Choice] | None:
        """Find the highest length from which on the model of this rank is not enough.

        Below it, the model is enough.
        """
        for edge, short, long in self._cuts(rows):
            above, below = self.choose(long), self.choose(short)
            if above.model is None or below.model is None:
                continue
            changes = self.rank[above.model] > rank >= self.rank[below.model]
            if changes and self._differ(above, below, self._models[rank]):
                return edge, above
        return None

    def _differ(self, above: Choice, below: Choice, smaller: str) -> bool:
        """Whether the larger model gains measurably more above than below.

        The two groups have different texts, so errors add in squares.
        """
        more, less = (
            next(
                difference
                for difference in choice.differences
                if (difference.smaller, difference.larger) == (smaller, above.model)
            )
            for choice in (above, below)
        )
        points = more.points - less.points
        return (
            points > 0.0
            and p_value(points, math.hypot(more.error, less.error)) < ALPHA / self._looks
        )

    def _cuts(self, rows: Where) -> list[tuple[int, Where, Where]]:
        """List lengths with enough texts on both sides, from the highest.

        Each comes with the shorter texts and the other texts.
        """
        made = []
        for edge in reversed(BANDS):
            short = self._only(rows, lambda unit, edge=edge: self.tokens(unit) < edge)  # type: ignore[misc]
            long = self._only(rows, lambda unit, edge=edge: self.tokens(unit) >= edge)  # type: ignore[misc]
            if self.is_enough(short) and self.is_enough(long):
                made.append((edge, short, long))
        return made

    def tokens(self, unit: Unit) -> int:
        return self._plan.tokens[self._models[-1]].of(len(unit.longest), unit.features.script)

    def _only(self, rows: Where, holds: Callable[[Unit], bool]) -> Where:
        return {
            task.name: np.array(
                [row for row in rows[task.name] if holds(task.units[row])], np.int64
            )
            for task in self._tasks
        }

    def choose(self, rows: Where) -> Choice:
        """Choose the smallest model that is enough for these texts."""
        by_task, evidence = [], []
        for task in self._tasks:
            own = rows.get(task.name, np.empty(0, np.int64))
            values = {model: task.value(task.scores[model], own) for model in self._models}
            if len(own) < MIN_UNITS or np.isnan(list(values.values())).any():
                continue
            by_task.append(gaps(task, self._models, own))
            evidence.append(Evidence(task.name, task.metric, len(own), values))
        if not by_task:
            return Choice(None, 0, (), ())
        pooled = tuple(pool(same) for same in zip(*by_task, strict=True))
        model = enough(pooled, self._models, self.min_gain, ALPHA / self._looks)
        return Choice(model, sum(item.units for item in evidence), tuple(evidence), pooled)

    def _without_languages(self, languages: Mapping[str, Where]) -> Derived:
        choice = self.choose(self._rows)
        model = choice.model or self._models[-1]
        why = (
            f"{NO_LARGER} for all texts together; no language has enough of them alone"
            if choice.model
            else ("nothing was measured that could speak for a smaller model")
        )
        if undecided := self._undecided({"all texts together": choice}):
            model, why = self.default or model, undecided
        silent = tuple(
            f"{name}: {sum(map(len, rows.values()))} texts, too few to tell"
            for name, rows in languages.items()
        )
        return Derived(
            self.tier[model],
            model,
            why,
            choice if choice.model else None,
            (),
            {},
            silent,
            undecided=undecided,
        )

    def _language_rules(self, choices: Mapping[str, Choice], base: str) -> list[FoundRule]:
        rules, raised = [], dict[str, list[str]]()
        for name, choice in choices.items():
            if choice.model is not None and self.rank[choice.model] > self.rank[base]:
                raised.setdefault(choice.model, []).append(name)
        for model, names in raised.items():
            why = ". ".join(
                f"{language(name)}: {sentence_of(choices[name], base)}" for name in names
            )
            rules.append(
                FoundRule(
                    f"languages-{self.tier[model]}",
                    {"languages": sorted(names)},
                    self.tier[model],
                    model,
                    why,
                    choices[names[0]],
                )
            )
        if raised:
            highest = max(raised, key=self.rank.__getitem__)
            rules.append(
                FoundRule(
                    "language-not-measured",
                    {"not_languages": sorted(choices)},
                    self.tier[highest],
                    highest,
                    "caution, not evidence: of the languages measured, "
                    f"{names_of([n for names in raised.values() for n in names])} "
                    "gained from it, and no other has enough texts here; take this rule out if "
                    "it costs too much",
                    None,
                )
            )
        return rules

    def _conditions(self) -> list[Condition]:
        """List the rules that can be made, in order: name, `when`, and whether it holds."""
        scripts = Counter(unit.features.script for task in self._tasks for unit in task.units)
        made: list[Condition] = [
            (f"script-{script.lower()}", {"scripts": [script]}, _has_script(script))
            for script, _ in scripts.most_common()
            if script is not None and script != LATIN
        ]
        made.append(("mixed", {"mixed": True}, lambda unit: unit.features.mixed))
        made.append(("code", {"code": True}, lambda unit: unit.features.code))
        return made

    def where(self, holds: Callable[[Unit], bool]) -> Where:
        return self._only(self._rows, holds)

    def _values(self, of: Callable[[Unit], str | None]) -> dict[str, Where]:
        counts = Counter(
            of(task.units[row]) for task in self._tasks for row in self._rows[task.name]
        )
        return {
            value: self.where(lambda unit, value=value: of(unit) == value)  # type: ignore[misc]
            for value, _ in counts.most_common()
            if value is not None
        }

    @staticmethod
    def is_enough(rows: Where) -> bool:
        return any(len(own) >= MIN_UNITS for own in rows.values())


def pool(same: Sequence[Difference]) -> Difference:
    """Average one pair's differences over independent tasks."""
    points = sum(item.points for item in same) / len(same)
    error = math.sqrt(sum(item.error**2 for item in same)) / len(same)
    return Difference(
        same[0].smaller,
        same[0].larger,
        points,
        points - 1.96 * error,
        points + 1.96 * error,
        p_value(points, error),
        error,
    )


def _is_raised(rule: FoundRule, measured: set[str]) -> Callable[[Unit], bool]:
    if "languages" in rule.when:
        return lambda unit: unit.features.language in rule.when["languages"]
    return lambda unit: (
        unit.features.language is not None and unit.features.language not in measured
    )


def _has_script(script: str) -> Callable[[Unit], bool]:
    return lambda unit: unit.features.script == script


def _condition(when: Mapping[str, Any]) -> str:
    ((name, value),) = when.items()
    return {
        "scripts": f"script {value[0] if name == 'scripts' else ''}",
        "mixed": "mixed texts",
        "code": "code",
    }[name]
