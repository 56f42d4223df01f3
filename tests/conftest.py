"""For all tests."""

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # a busy machine makes an example slow, not wrong
settings.load_profile("no deadline")
