"""Texts of many requests in calls to a model's replicas: queues, transports, replica health."""
