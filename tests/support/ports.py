"""A free port below the range from which the kernel picks outgoing ports."""

import random
import socket

# Below the range from which the kernel numbers outgoing connections (32768 and up): Ray opens
# hundreds of those between the question for a port and the moment when the proxy listens on it. And
# above what Ray and the router give their own servers.
FIRST, LAST = 31_100, 32_700


def free_port() -> int:
    """Find a free port below the range from which the kernel picks outgoing ports."""
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
