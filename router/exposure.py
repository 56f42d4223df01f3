"""Refuse to listen on addresses that are not local without API keys."""

from ipaddress import ip_address

from router.config import RouterArgs
from router.strict import ConfigError

NOT_LOCAL = (
    "without keys the service answers only its own machine: add `keys:` (create one with "
    "`embedding-router keys new`), listen on "
    "127.0.0.1, or write `auth: none` under args if something else controls who can reach it"
)


def is_loopback(host: str | None) -> bool:
    """Whether only this machine can reach a server on `host`.

    False for names other than localhost, which can resolve to any address.
    """
    if host in ("127.0.0.1", "localhost", "::1"):  # the usual hosts
        return True
    try:
        address = ip_address((host or "").strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def require_local(args: RouterArgs, host: str | None, where: str) -> None:
    """Raise ConfigError if the service would answer other machines without keys, unless the config
    allows it.
    """
    if not args.keys and args.auth != "none" and not is_loopback(host):
        raise ConfigError([f"{where} is {host!r}, which other machines reach; {NOT_LOCAL}"])
