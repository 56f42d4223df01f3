"""What a model runs on, against what its profile was measured on."""

import json
from pathlib import Path

import pytest

from deployments.dispatch.socket_transport import DirectTransport
from deployments.service.service import Service
from router.strict import parse_args
from tests.support.local_service import WORDLLAMA
from tests.support.socket_replica import Handles

PROFILE = {
    "model": "m", "device": "that processor", "software": "", "date": "2026-11-26",
    "curve": {"fixed_s": 0.0, "base_s": 0.001, "s_per_token": 1e-5, "s_per_token_sq": 0.0,
              "batch_tokens": 4096, "overhead_s": 0.002},
    "fit": {"median_error": 0.1, "p95_error": 0.2, "points": 9},
    "points": [{"tokens": 9, "tokens_sq": 81, "seconds": 0.001}],
}  # fmt: skip


@pytest.mark.models
@pytest.mark.parametrize(("device", "learns"), [("that processor", False), ("another", True)])
def test_a_profile_is_taken_as_measured_on_its_own_device_only(
    tmp_path: Path, device: str, learns: bool
) -> None:
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(PROFILE))
    args = {
        "models": {"m": {**WORDLLAMA, "profile": str(file)}, "without": WORDLLAMA},
        "tiers": {"fast": "m"},
    }
    transport = DirectTransport(Handles())
    service = Service(parse_args(args), transport)
    for model in ("m", "without"):
        transport.on_device(model, device)
    feedback, before = service.feedback["m"], service.feedback["m"].model.curve
    for _ in range(30):  # 300 tokens take 0.004 s by the profile
        feedback.stepped(300, 0, 0.020)
    after = feedback.model.curve
    assert (after != before) is learns
    if learns:
        assert after.step(300) == pytest.approx(0.020, rel=0.1)
