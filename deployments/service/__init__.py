"""The path of a request: read, decide, embed, answer; and the records of it."""
