"""The one base of what ends a command."""


class ToolError(Exception):
    """A command cannot go on; the message says what to do."""
