"""Ports that stay free until the server that is told to listen there has started."""

import random
import socket

# Below the range from which the kernel numbers outgoing connections (32768 and up): Ray opens
# hundreds of those between the question for a port and the moment when the proxy listens on it. And
# above what Ray and the router give their own servers.
FIRST, LAST = 31_100, 32_700


def free_port() -> int:
    """A port of this machine that nobody listens on, and that nobody is given by chance."""
    for port in random.sample(range(FIRST, LAST), LAST - FIRST):
        with socket.socket() as probe:
            # a port in TIME_WAIT is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port between {FIRST} and {LAST}")
