"""Marks for tests that need a program of the machine."""

import shutil

import pytest


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip a test if none of these programs is installed."""
    return pytest.mark.skipif(
        not any(map(shutil.which, names)),
        reason=f"{names[0]} is not installed: `make system` installs it",
    )
