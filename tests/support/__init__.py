"""Shared parts of tests: real files and small fakes."""
