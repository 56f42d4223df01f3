"""Translate requests of other embedding APIs to this one, and its answers back to theirs."""
