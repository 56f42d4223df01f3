"""One request's way: read, decide, embed, answer; and what is recorded of it."""
