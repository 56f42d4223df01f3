"""The commands that measure, compare, migrate and explain."""
