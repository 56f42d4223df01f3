"""Start the service on this machine, and check a machine and a config before that."""
