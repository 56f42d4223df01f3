"""Format the derived rules as a routing section, each with its evidence above it."""

import json
from collections.abc import Mapping

from deployments.tools.advise.derived import Derived, sentence_of
from deployments.tools.advise.survey import AdvisePlan


def yaml(
    plan: AdvisePlan,
    derived: Derived,
    budget_ms: float | None,
    late: Mapping[str, float],
    min_gain: float,
) -> str:
    """Format the policy file, with evidence as comments; JSON strings and lists are valid YAML."""
    models = [candidate for candidate in plan.candidates if candidate.tiers]
    own = {tier: candidate.name for candidate in models for tier in candidate.tiers}
    lines = [
        "# Made by `embedding-router advise` from your own texts. Paste it into `args:`, or the "
        "`user_config` of the router.",
        "# What it would have moved: embedding-router replay decisions.jsonl --policy routing.yaml",
        *(
            _comment(
                "The rules in force were not readable: this file replaces them, so compare it with "
                "them first.",
                0,
            )
            if derived.tiers is None
            else []
        ),
        "#",
        f"# Figures stand in the order {' / '.join(candidate.name for candidate in models)}, in "
        "points of 100.",
        f"# A larger model was taken where it is measurably better, and by at least {min_gain:g} "
        "points.",
        "",
        "tiers: "
        "{"
        + ", ".join(
            f"{tier}: {json.dumps(model)}" for tier, model in (derived.tiers or own).items()
        )
        + "}",
        "",
        "routing:",
        *_comment(f"{derived.default_model}: {derived.default_why}", 2),
    ]
    if derived.default_choice is not None:
        lines += _comment(sentence_of(derived.default_choice, derived.default_model), 2)
    lines.append(f"  default_tier: {derived.default}")
    lines += [f"  {key}: {json.dumps(value)}" for key, value in derived.settings.items()]
    if budget_ms is not None:
        lines += _comment(
            "with a budget the router answers with a smaller model whenever the one above would "
            "be late. Late when four asked at "
            "once: " + ", ".join(f"{model} {share:.0%}" for model, share in late.items()),
            2,
        )
        lines.append(f"  # default_budget_ms: {budget_ms:g}")
    lines.append("  rules:" if derived.rules else "  rules: []")
    for rule in derived.rules:
        lines += _comment(rule.why, 2)
        lines += [
            f"  - name: {rule.name}",
            f"    when: {json.dumps(dict(rule.when))}",
            f"    floor: {rule.floor}",
        ]
    if derived.silent:
        lines += ["", "# No rule for:"]
        lines += [line for item in derived.silent for line in _comment(item, 0)]
    if derived.dropped:
        lines += ["", "# Left out of the rules in force:"]
        for gone in derived.dropped:
            lines += _comment(f"{gone.name}, {json.dumps(dict(gone.when))}: {gone.why}", 0)
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: int) -> list[str]:
    import textwrap

    mark = " " * indent + "# "
    return textwrap.wrap(
        text,
        130,
        initial_indent=mark,
        subsequent_indent=mark,
        break_long_words=False,
        break_on_hyphens=False,
    )
