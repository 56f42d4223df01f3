"""Requests of other embedding APIs as requests of this one, and its answers as theirs."""
