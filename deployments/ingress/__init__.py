"""HTTP in and out: the router's deployment, its application, keys, limits and pages."""
