"""Profile files: a model's latency, known before the model is loaded."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from router.domain import Curve


class ProfileError(ValueError):
    """A profile that cannot be used; the message names it and says why."""


Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


ErrorShare = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ProfileCurve(_Strict):
    """router.domain.Curve as written to a file."""

    fixed_s: Seconds
    base_s: Seconds
    s_per_token: Seconds
    s_per_token_sq: Seconds
    batch_tokens: PositiveInt
    overhead_s: Seconds
    s_per_text: Seconds = 0.0  # older profiles lack this term


class ProfileFit(_Strict):
    """The quality of the curve's fit to the points."""

    median_error: ErrorShare
    p95_error: ErrorShare
    points: PositiveInt


class ProfilePoint(_Strict):
    """One measured step; see router.curve_fit.Point."""

    tokens: PositiveInt
    tokens_sq: PositiveInt
    seconds: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    texts: PositiveInt | None = None  # older profiles lack it


class Profile(_Strict):
    """The measurements of one model on one device."""

    model: str
    device: str
    software: str
    date: str
    curve: ProfileCurve
    fit: ProfileFit
    points: Annotated[tuple[ProfilePoint, ...], Field(min_length=1, strict=False)]
    memory_bytes: PositiveInt | None = None


def load_profile(data: Mapping[str, Any], model_id: str) -> Curve:
    """Read the curve in a profile's parsed JSON; raises ProfileError if the profile is empty, of
    another model or implausible.
    """
    return Curve(**read_profile(data, model_id).curve.model_dump())


def read_profile(data: Mapping[str, Any], model_id: str) -> Profile:
    """Check a profile's parsed JSON as in `load_profile`; a file of several, {"profiles": [...]},
    has one for each model.
    """
    if not data:
        raise ProfileError(
            f"the profile of {model_id} is empty; make it with `embedding-router calibrate`"
        )
    if isinstance(data, Mapping) and isinstance(several := data.get("profiles"), list):
        of = [each.get("model") if isinstance(each, Mapping) else None for each in several]
        if model_id not in of:
            raise ProfileError(
                f"this file has profiles of {', '.join(map(str, of)) or 'no model'}, none of "
                f"{model_id}"
            )
        data = several[of.index(model_id)]
    try:
        profile = Profile.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5]
        )
        raise ProfileError(f"the profile of {model_id} cannot be used: {problems}") from error
    if profile.model != model_id:
        raise ProfileError(
            f"this is the profile of {profile.model}, not of {model_id}; profiles do not carry over"
        )
    curve = Curve(**profile.curve.model_dump())
    if curve.step(curve.batch_tokens) <= 0.0:
        raise ProfileError(
            f"the profile of {model_id} says that a full step takes no time; measure it again"
        )
    return profile
