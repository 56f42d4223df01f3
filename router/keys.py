"""API keys: generation, hashing, lookup and permissions.

A key is `er-` and 256 random bits. The config holds only its SHA-256. A slow hash such as bcrypt or
argon2 is for passwords, which people choose and an attacker can guess. One of 2^256 random keys
cannot be guessed at any speed, so a fast hash is as secure and costs a request one microsecond.

A presented key is compared with all keys, each in constant time, without stopping at a match. So
the time reveals nothing about the existing keys.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import NamedTuple

from router.config import Limits, RouterArgs
from router.errors import CollectionNotAllowed, PriorityNotAllowed
from router.ignoring import Ignore
from router.key_config import KeyConfig, KeyDefaults
from router.schema import EmbeddingsRequest, Priority
from router.space import Space

PREFIX = "er-"
BITS = 256
SCHEME = "sha256:"


class Grant(NamedTuple):
    """The permissions of one caller; None allows everything of its kind."""

    name: str  # of the key in the config, "" without authentication
    models: frozenset[str] | None = None
    collections: frozenset[str] | None = None
    priorities: tuple[Priority, ...] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    admin: bool = False
    defaults: KeyDefaults = KeyDefaults()
    ignore_fields: Ignore = False
    weight: float = 1.0  # its share against other keys

    @property
    def default_priority(self) -> Priority:
        """The priority of a request that does not set one."""
        return (
            "interactive" if self.priorities is None or "interactive" in self.priorities else "bulk"
        )

    def ignores(self, limits: Limits) -> Ignore:
        """The unknown fields of a body that are dropped for the caller."""
        return limits.unknown_fields == "ignore" or self.ignore_fields

    def check(self, request: EmbeddingsRequest) -> None:
        """Raise CollectionNotAllowed or PriorityNotAllowed; models are checked in the decision.

        `MODEL/DIMENSIONS` is allowed if its model is. A key with limited collections gets the same
        error for every other name, so that it does not learn which collections exist.
        """
        if self.priorities is not None and request.priority not in self.priorities:
            raise PriorityNotAllowed(request.priority, self.priorities)
        if request.space is not None:
            self.check_space(request.space)

    def check_space(self, name: str) -> None:
        """Raise CollectionNotAllowed, except for `MODEL/DIMENSIONS`."""
        if not _is_model_and_size(name):
            self.check_collection(name)

    def check_collection(self, name: str) -> None:
        """Raise CollectionNotAllowed if the key is not allowed to use this collection."""
        if self.collections is not None and name not in self.collections:
            raise CollectionNotAllowed(name, sorted(self.collections))

    def may_use(self, model: str) -> bool:
        """Whether the caller is allowed to use this model."""
        return self.models is None or model in self.models


EVERYTHING = Grant("", admin=True)  # for all callers of a service without keys
# for public pages of a service with keys
NO_ACCESS = Grant("", models=frozenset(), collections=frozenset())


class Keyring:
    """All keys of a config."""

    def __init__(self, args: RouterArgs) -> None:
        self._grants = [
            (_digest_of(key.hash), _grant(name, key, args)) for name, key in args.keys.items()
        ]

    def __len__(self) -> int:
        return len(self._grants)

    @property
    def grants(self) -> list[Grant]:
        """The permissions of each key."""
        return [grant for _, grant in self._grants]

    def find(self, key: str) -> Grant | None:
        """The permissions of `key`; None if it is not in the config."""
        given = hashlib.sha256(key.encode()).digest()
        found = None
        for digest, grant in self._grants:
            if hmac.compare_digest(digest, given):
                found = grant
        return found


def new_key(random_bytes: bytes) -> str:
    """Make a key from 32 random bytes. Raises ValueError for another length."""
    if len(random_bytes) * 8 != BITS:
        raise ValueError(f"a key is made of {BITS} random bits, these are {len(random_bytes) * 8}")
    return PREFIX + base64.urlsafe_b64encode(random_bytes).rstrip(b"=").decode()


def hash_of(key: str) -> str:
    """The hash of `key`, as the config holds it."""
    return SCHEME + hashlib.sha256(key.encode()).hexdigest()


def presented(headers: Mapping[str, str]) -> str | None:
    """The key of a request: `Authorization: Bearer KEY`, or `api-key: KEY` from Azure's clients."""
    scheme, _, key = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("api-key", "").strip() or None


def _is_model_and_size(space: str) -> bool:
    try:
        Space.parse(space)
    except ValueError:
        return False
    return True


def _digest_of(hash: str) -> bytes:
    return bytes.fromhex(hash.removeprefix(SCHEME))


def _grant(name: str, key: KeyConfig, args: RouterArgs) -> Grant:
    models = None
    if key.models is not None or key.tiers is not None:
        models = frozenset((*(key.models or ()), *(args.tiers[tier] for tier in key.tiers or ())))
    return Grant(
        name,
        models,
        None if key.collections is None else frozenset(key.collections),
        key.priorities,
        key.requests_per_minute,
        key.tokens_per_minute,
        key.admin,
        key.defaults,
        key.ignore_fields,
        key.weight,
    )
