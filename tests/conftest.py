"""Hypothesis: new examples at every run by hand, the same ones in CI, so that what CI refuses
anyone can see again.
"""

import os

from hypothesis import settings

pytest_plugins = ["tests.support.not_run", "tests.support.side_by_side"]

# a busy machine makes an example slow, not wrong
settings.register_profile("no deadline", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "no deadline")
