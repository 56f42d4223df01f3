"""One model's replica: the process that hosts an engine and proves what it serves."""
