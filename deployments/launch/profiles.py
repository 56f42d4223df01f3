"""Profiles that were measured on a device that this machine does not have."""

from collections.abc import Collection
from typing import NamedTuple

from router.calibration import MAX_TEXTS, expected_s
from router.calls import max_rows
from router.config import RouterArgs
from router.models import curve_of, profile_device


class Foreign(NamedTuple):
    """Models with profiles of other devices, and the names of those devices."""

    models: tuple[str, ...]
    devices: tuple[str, ...]
    calibrate_s: float  # to measure all of them, estimated from these profiles

    def found(self, here: Collection[str]) -> str:
        """Return the finding as a sentence."""
        return (
            f"the profiles of {', '.join(self.models)} were measured on "
            f"{' and '.join(self.devices)}, and this is {' and '.join(here)}: predicted times "
            "start from them and learn from what is served"
        )

    def todo(self, config: str) -> str:
        """Return what to do about it."""
        minutes = max(1, round(self.calibrate_s / 60))
        return (
            f"for right times from the start, run `embedding-router calibrate --config {config} "
            f"--model all -o profiles`, which takes about {minutes} min, and name the files as "
            "`profile`"
        )


def foreign_profiles(args: RouterArgs, here: Collection[str]) -> Foreign | None:
    """Return the foreign profiles of the models that run on this machine; None if there are none.

    `here` are the devices of this machine.
    """
    models, devices, total_s = list[str](), dict[str, None](), 0.0
    for name, model in args.models.items():
        if model.engine.runs_elsewhere or model.engine.in_router:
            continue
        device = profile_device(name, model, args.base_dir)
        if device is None or device in here:
            continue
        models.append(name)
        devices[device] = None
        max_texts = min(MAX_TEXTS, max_rows(model.dimensions), args.limits.max_items)
        curve = curve_of(name, model, args.base_dir)
        total_s += expected_s(curve, model.max_tokens, max_texts, model.attention_tokens)
    return Foreign(tuple(models), tuple(devices), total_s) if models else None
