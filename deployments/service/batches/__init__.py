"""OpenAI's files and batches in a folder that all routers share, and the runner of batches."""
