"""API keys: made of 256 random bits, kept as a hash, recognised, and what they open."""

import hmac
import json
from typing import Any

import pytest
from click.testing import CliRunner

from router import keys
from router.cli import main
from router.config import RouterArgs
from router.errors import CollectionNotAllowed, PriorityNotAllowed
from router.keys import EVERYTHING, Keyring, hash_of, new_key, presented
from router.schema import EmbeddingsRequest
from router.strict import ConfigError, parse_args

SECRETS = [new_key(bytes([number]) * 32) for number in range(3)]
MODEL = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 64}


def args(**keys: Any) -> RouterArgs:
    return parse_args(
        {
            "models": {"small": MODEL, "middle": MODEL, "large": MODEL},
            "tiers": {"fast": "small", "best": "large"},
            "collections": {"docs": "small/8", "shop": "large/8"},
            "keys": {
                name: {"hash": hash_of(secret), **keys.get(name, {})}
                for name, secret in zip("abc", SECRETS, strict=True)
            },
        }
    )


def test_a_key_is_256_bits_in_words_that_need_no_quoting() -> None:
    key = new_key(bytes(range(32)))
    assert key == "er-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    with pytest.raises(ValueError, match="256 random bits, these are 128"):
        new_key(bytes(16))


def test_each_key_is_found_under_its_name_and_no_other_is() -> None:
    ring = Keyring(args())
    assert [grant.name for secret in SECRETS if (grant := ring.find(secret))] == ["a", "b", "c"]
    for wrong in (
        "",
        "er-",
        SECRETS[0][:-1],
        SECRETS[0] + "A",
        SECRETS[0].lower(),
        hash_of(SECRETS[0]),
        "é" * 50,
    ):
        assert ring.find(wrong) is None


def test_every_key_is_compared_in_constant_time_whichever_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[int] = []

    def counting(left: bytes, right: bytes) -> bool:
        compared.append(len(left))
        return hmac.compare_digest(left, right)

    class Counted:
        compare_digest = staticmethod(counting)

    ring = Keyring(args())
    monkeypatch.setattr(keys, "hmac", Counted)
    for secret in (*SECRETS, "er-none"):
        ring.find(secret)
    assert compared == [32] * 3 * 4


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Bearer er-1"}, "er-1"),
        ({"authorization": "bearer   er-1 "}, "er-1"),
        ({"api-key": "er-2"}, "er-2"),
        ({"authorization": "Basic dTpw", "api-key": "er-2"}, "er-2"),
        ({"authorization": "Bearer er-1", "api-key": "er-2"}, "er-1"),
        ({"authorization": "Bearer "}, None),
        ({"authorization": "er-1"}, None),
        ({}, None),
    ],
    ids=["bearer", "case", "azure", "basic-and-azure", "both", "empty", "no-scheme", "none"],
)
def test_a_key_comes_as_openai_or_azure_clients_send_it(
    headers: dict[str, str], key: str | None
) -> None:
    assert presented(headers) == key


def test_models_and_the_models_of_tiers_add_up() -> None:
    ring = Keyring(args(a={"tiers": ["best"], "models": ["middle"]}, b={"models": []}))
    first, second, third = (ring.find(secret) for secret in SECRETS)
    assert first is not None
    assert second is not None
    assert third is not None
    assert (first.models, second.models, third.models) == (
        frozenset({"large", "middle"}),
        frozenset(),
        None,
    )


def test_collections_and_priorities_that_a_key_has_not_are_refused_by_name() -> None:
    ring = Keyring(args(a={"collections": ["docs"], "priorities": ["bulk"]}))
    grant = ring.find(SECRETS[0])
    assert grant is not None
    assert (grant.default_priority, EVERYTHING.default_priority) == ("bulk", "interactive")
    bulk = EmbeddingsRequest(("a",), None, priority="bulk")
    grant.check(bulk)
    grant.check(bulk._replace(space="docs"))
    grant.check(bulk._replace(space="large/8"))
    with pytest.raises(
        CollectionNotAllowed, match="may not use the collection 'shop'; it may use docs"
    ):
        grant.check(bulk._replace(space="shop"))
    with pytest.raises(PriorityNotAllowed, match='send "priority": "bulk"'):
        grant.check(bulk._replace(priority="interactive"))
    EVERYTHING.check(bulk._replace(space="shop", priority="interactive"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"keys": {"a": {"hash": SECRETS[0]}}},
            "keys.a.hash: must be sha256: and 64 hexadecimal digits",
        ),
        (
            {"keys": {"a": {"hash": hash_of("x"), "tier": ["fast"]}}},
            "keys.a.tier: unknown key; did you mean tiers?",
        ),
        (
            {"keys": {"a": {"hash": hash_of("x"), "tiers": ["balanced"]}}},
            "keys.a.tiers: there is no 'balanced'; there are fast",
        ),
        (
            {"keys": {"a": {"hash": hash_of("x"), "models": ["tiny"]}}},
            "keys.a.models: there is no 'tiny'; there are small",
        ),
        (
            {"keys": {"a": {"hash": hash_of("x"), "collections": ["x"]}}},
            "keys.a.collections: there is no 'x'; there are none",
        ),
        (
            {"keys": {"a": {"hash": hash_of("x"), "priorities": []}}},
            "keys.a.priorities: must not be empty",
        ),
        ({"keys": {"a b": {"hash": hash_of("x")}}}, "'a b' is no name of a key"),
        (
            {"keys": {"a": {"hash": hash_of("x")}, "b": {"hash": hash_of("x")}}},
            "keys.b: its hash is that of keys.a",
        ),
        (
            {"keys": {"a": {"hash": hash_of("x"), "requests_per_minute": 0}}},
            "keys.a.requests_per_minute: must be greater than 0",
        ),
        (
            {"keys": {"a": {"hash": hash_of("x")}}, "auth": "none"},
            "auth: none allows requests without a key, but keys: has some",
        ),
        ({"auth": "off"}, "auth: 'off' is not known; it is one of none"),
        (
            {"cors": {"origins": ["https://app.example.com/"]}},
            "cors.origins: 'https://app.example.com/' is no origin",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_a_wrong_entry_is_a_sentence_that_never_shows_what_stood_as_hash(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_args(
            {
                "models": {"small": MODEL, "large": MODEL},
                "tiers": {"fast": "small", "best": "large"},
                **changes,
            }
        )
    assert sentence in str(raised.value)
    assert SECRETS[0] not in str(raised.value)


def test_the_command_prints_a_key_once_and_an_entry_that_the_config_takes() -> None:
    result = CliRunner().invoke(main, ["keys", "new", "--name", "indexer"])
    key, hash = result.stdout.split()[0], result.stdout.split()[-1]
    assert result.exit_code == 0
    assert hash_of(key) == hash
    assert "keys:\n  indexer:\n    hash: sha256:" in result.stdout
    assert key != CliRunner().invoke(main, ["keys", "new"]).stdout.split()[0]
    told = json.loads(CliRunner().invoke(main, ["keys", "new", "--json"]).stdout)
    assert hash_of(told["key"]) == told["hash"]


def test_the_hash_of_an_own_key_comes_from_standard_input_and_short_keys_are_refused() -> None:
    assert CliRunner().invoke(
        main, ["keys", "hash"], input=f"{SECRETS[1]}\n"
    ).stdout.strip() == hash_of(SECRETS[1])
    refused = CliRunner().invoke(main, ["keys", "hash"], input="hunter2\n")
    assert refused.exit_code == 1
    assert "hunter2" not in refused.output
