"""The alert rules against series as Prometheus would have them: each fires for its fault, and none
for a service that is well.
"""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.needs import needs

RULES = Path(__file__).resolve().parents[2] / "configs" / "prometheus" / "alerts.yml"
NAMES = [
    rule["alert"]
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
]
STEP_S, STEPS, LOOK_AT = 15, 200, "40m"

# metric and labels: values as promtool has them; None takes a series away
Series = dict[tuple[str, str], str | None]
WELL: Series = {
    ("requests_total", 'outcome="answered"'): f"0+150x{STEPS}",
    ("replicas_ready", 'model="m"'): f"1+0x{STEPS}",
    ("required", 'model="m"'): f"1+0x{STEPS}",
    ("budgets_total", 'model="m",result="kept"'): f"0+150x{STEPS}",
    ("budgets_total", 'model="m",result="missed"'): f"0+5x{STEPS}",
    ("predictions_total", 'model="m",within="yes"'): f"0+150x{STEPS}",
    ("predictions_total", 'model="m",within="no"'): f"0+8x{STEPS}",
    ("retries_total", 'model="m"'): f"0+0x{STEPS}",
    ("identity_checks_total", 'model="m",result="passed"'): f"0+1x{STEPS}",
    ("identity_checks_total", 'model="m",result="failed"'): f"0+0x{STEPS}",
    ("replica_outstanding_tokens", 'model="m"'): f"10+0x{STEPS}",
    ("replica_tokens_total", 'model="m"'): f"0+1000x{STEPS}",
}
FAULTS: dict[str, Series] = {
    "EmbeddingErrors": {("requests_total", 'outcome="internal_error"'): f"0+3x{STEPS}"},
    "EmbeddingModelWithoutReplica": {("replicas_ready", 'model="m"'): f"0+0x{STEPS}"},
    "EmbeddingBudgetsMissed": {("budgets_total", 'model="m",result="missed"'): f"0+30x{STEPS}"},
    "EmbeddingPredictionsTooLow": {("predictions_total", 'model="m",within="no"'): f"0+60x{STEPS}"},
    "EmbeddingQueueFull": {("requests_total", 'outcome="overloaded"'): f"0+1x{STEPS}"},
    "EmbeddingReplicasFail": {("retries_total", 'model="m"'): f"0+1x{STEPS}"},
    "EmbeddingWrongModel": {
        ("identity_checks_total", 'model="m",result="failed"'): f"0+0x120 1+0x{STEPS - 120}"
    },
    "EmbeddingSpaceConflicts": {("requests_total", 'outcome="space_conflict"'): f"0+3x{STEPS}"},
    "EmbeddingEngineStuck": {("replica_tokens_total", 'model="m"'): f"9000+0x{STEPS}"},
    "EmbeddingMetricsMissing": {("replicas_ready", 'model="m"'): None},
}
ALSO: dict[str, tuple[str, Series]] = {
    "a replica that fails its first proof": (
        "EmbeddingWrongModel",
        {("identity_checks_total", 'model="m",result="failed"'): f"_x120 1+0x{STEPS - 120}"},
    ),
}
SILENT: dict[str, Series] = {
    "a service that is well": {},
    "a model at zero replicas that may be": {
        ("replicas_ready", 'model="m"'): f"0+0x{STEPS}",
        ("required", 'model="m"'): f"0+0x{STEPS}",
    },
    "nobody asks": {key: f"0+0x{STEPS}" for key in WELL if key[0].endswith(("_total", "_tokens"))},
}


def case(name: str, fault: Series, firing: list[str]) -> dict[str, Any]:
    """One of promtool's tests: what fires after a while."""
    series = {key: values for key, values in (WELL | fault).items() if values is not None}
    return {
        "name": name,
        "interval": f"{STEP_S}s",
        "input_series": [
            {
                "series": f'ray_embedding_router_{metric}{{application="a",{labels}}}',
                "values": values,
            }
            for (metric, labels), values in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": 'sum by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": LOOK_AT,
                "exp_samples": [
                    {"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in firing
                ],
            }
        ],
    }


@needs("promtool")
def test_every_alert_fires_for_its_fault_and_for_no_other(tmp_path: Path) -> None:
    assert set(FAULTS) == set(NAMES)
    cases = [case(name, fault, [name]) for name, fault in FAULTS.items()]
    cases += [case(name, fault, [alert]) for name, (alert, fault) in ALSO.items()]
    cases += [case(name, fault, []) for name, fault in SILENT.items()]
    file = tmp_path / "alerts_test.yml"
    file.write_text(
        yaml.safe_dump(
            {"rule_files": [str(RULES)], "evaluation_interval": f"{STEP_S}s", "tests": cases}
        )
    )
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
