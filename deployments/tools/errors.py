"""The base class of errors that end a command."""


class ToolError(Exception):
    """A command cannot go on; the message says what to do."""
