"""Which replicas and which models share a device."""

from router.cards import Cards


def known() -> Cards:
    cards = Cards()
    cards.joined("a1", "a", "n1", ["0"])
    cards.joined("b1", "b", "n1", ["0", "1"])
    cards.joined("c1", "c", "n1", ["1"])
    cards.joined("a2", "a", "n2", ["0"])  # the same number on another node
    cards.joined("d1", "d", "n1", [])  # on the CPU
    return cards


def test_replicas_with_a_device_in_common_are_beside_each_other() -> None:
    assert known().beside == {"a1": {"b1": "b"}, "b1": {"a1": "a", "c1": "c"}, "c1": {"b1": "b"}}
    assert known().shared_with("b") == ["a", "c"]


def test_a_replica_that_leaves_or_moves_is_beside_no_other() -> None:
    cards = known()
    cards.left("c1")
    assert cards.beside == {"a1": {"b1": "b"}, "b1": {"a1": "a"}}
    cards.joined("b1", "b", "n2", ["0"])
    assert cards.beside == {"b1": {"a2": "a"}, "a2": {"b1": "b"}}
    cards.left("a2")
    cards.left("a2")
    assert cards.beside == {}
