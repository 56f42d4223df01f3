"""`embedding-router simulate`: files in, a report out; router/sim simulates."""
