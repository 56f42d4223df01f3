"""Send the texts of many requests to a model's replicas: queues, calls and transports."""
