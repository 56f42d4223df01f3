"""`embedding-router simulate`: read files and write a report; router/sim simulates."""
