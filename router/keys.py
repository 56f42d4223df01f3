"""API keys: how one is made, written down and recognised, and what its holder may do.

A key is `er-` and 256 random bits. The config holds its SHA-256 and nothing else. A slow hash such
as bcrypt or argon2 is for passwords, which people choose and an attacker can guess; 2^256 random
keys cannot be guessed at any speed, so a fast hash keeps the same secret and costs a request a
microsecond.

A key that arrives is compared with all keys, each in constant time and to the end of the list: how
long it takes tells nothing of which keys there are.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import NamedTuple

from router.config import KeyConfig, RouterArgs
from router.errors import CollectionNotAllowed, PriorityNotAllowed
from router.ignoring import Ignore
from router.key_defaults import KeyDefaults
from router.schema import EmbeddingsRequest, Priority
from router.space import Space

PREFIX = "er-"
BITS = 256
SCHEME = "sha256:"


class Grant(NamedTuple):
    """What one caller may do; None leaves everything of its kind open."""

    name: str  # of the key in the config, "" where no key is asked for
    models: frozenset[str] | None = None
    collections: frozenset[str] | None = None
    priorities: tuple[Priority, ...] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    admin: bool = False
    defaults: KeyDefaults = KeyDefaults()
    ignore_fields: Ignore = False
    weight: float = 1.0  # of its turns against other keys

    @property
    def default_priority(self) -> Priority:
        """The priority of a request that gives none."""
        return (
            "interactive" if self.priorities is None or "interactive" in self.priorities else "bulk"
        )

    def check(self, request: EmbeddingsRequest) -> None:
        """Raise CollectionNotAllowed or PriorityNotAllowed; which models may answer is decided with
        the rest of the decision.

        `MODEL/DIMENSIONS` is as free as its model. To a key whose collections are limited every
        other name is refused alike, so that it does not learn which there are.
        """
        if self.priorities is not None and request.priority not in self.priorities:
            raise PriorityNotAllowed(request.priority, self.priorities)
        if request.space is not None:
            self.check_space(request.space)

    def check_space(self, name: str) -> None:
        """Raise CollectionNotAllowed, but for `MODEL/DIMENSIONS`."""
        if not _is_model_and_size(name):
            self.check_collection(name)

    def check_collection(self, name: str) -> None:
        """Raise CollectionNotAllowed."""
        if self.collections is not None and name not in self.collections:
            raise CollectionNotAllowed(name, sorted(self.collections))

    def may_use(self, model: str) -> bool:
        """Whether this model may answer the caller."""
        return self.models is None or model in self.models


EVERYTHING = Grant("", admin=True)  # the caller of a service that asks for no keys
# who reads the open pages of one that does
NOBODY = Grant("", models=frozenset(), collections=frozenset())


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
        """What each key may do."""
        return [grant for _, grant in self._grants]

    def find(self, key: str) -> Grant | None:
        """What the holder of `key` may do; None when it is none of ours."""
        given = hashlib.sha256(key.encode()).digest()
        found = None
        for digest, grant in self._grants:
            if hmac.compare_digest(digest, given):
                found = grant
        return found


def new_key(random_bytes: bytes) -> str:
    """The key made of 32 random bytes."""
    if len(random_bytes) * 8 != BITS:
        raise ValueError(f"a key is made of {BITS} random bits, these are {len(random_bytes) * 8}")
    return PREFIX + base64.urlsafe_b64encode(random_bytes).rstrip(b"=").decode()


def hash_of(key: str) -> str:
    """What the config holds in the place of `key`."""
    return SCHEME + hashlib.sha256(key.encode()).hexdigest()


def presented(headers: Mapping[str, str]) -> str | None:
    """The key that a request carries: `Authorization: Bearer KEY`, or `api-key: KEY` as Azure's
    clients send it.
    """
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
