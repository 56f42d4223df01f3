import tracemalloc
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cache import VectorCache


def row(seed: int, dimensions: int = 8) -> Any:
    return np.random.default_rng(seed).standard_normal((1, dimensions), dtype=np.float32)


def names(*numbers: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in numbers]


def entry_bytes(dimensions: int = 8) -> int:
    cache = VectorCache(10**6)
    cache.put_many("model", names(0), row(0, dimensions), [1])
    return cache.used_bytes


def test_what_was_put_comes_back_bit_for_bit_with_its_tokens() -> None:
    cache = VectorCache(10**6)
    vectors = np.random.default_rng(0).standard_normal((3, 8), dtype=np.float32)
    cache.put_many("model", names(1, 2, 3), vectors, [10, 20, 30])
    found = cache.get_many("model", names(3, 4, 1))
    assert [entry and (entry.vector.tobytes(), entry.tokens) for entry in found] == [
        (vectors[2].tobytes(), 30),
        None,
        (vectors[0].tobytes(), 10),
    ]
    assert (cache.hits, cache.misses, cache.evictions, len(cache)) == (2, 1, 0, 3)


def test_a_kept_vector_is_a_read_only_copy() -> None:
    cache = VectorCache(10**6)
    vectors = np.ones((1, 8), dtype=np.float32)
    cache.put_many("model", names(1), vectors, [1])
    vectors[:] = 0.0
    (entry,) = cache.get_many("model", names(1))
    assert entry is not None
    assert (entry.vector == 1.0).all()
    assert entry.vector.base is None
    with pytest.raises(ValueError, match="read-only"):
        entry.vector[0] = 5.0


def test_what_is_unknown_is_named_once_and_its_lookup_changes_nothing() -> None:
    cache = VectorCache(10**6)
    assert cache.unknown("model", names(1, 2, 1)) == [0, 1]
    cache.put_many("model", names(1), row(0), [1])
    assert cache.unknown("model", names(2, 1, 3, 2, 1, 3)) == [0, 2]
    assert cache.unknown("other", names(1)) == [0]
    assert (cache.hits, cache.misses) == (0, 0)


def test_the_least_recently_used_goes_first() -> None:
    cache = VectorCache(2 * entry_bytes())
    cache.put_many("model", names(1, 2), np.concatenate([row(1), row(2)]), [1, 1])
    cache.get_many("model", names(1))
    cache.put_many("model", names(3), row(3), [1])
    assert [entry is not None for entry in cache.get_many("model", names(1, 2, 3))] == [
        True,
        False,
        True,
    ]
    assert cache.evictions == 1


def test_putting_a_known_text_again_makes_it_recent_and_costs_nothing() -> None:
    cache = VectorCache(2 * entry_bytes())
    cache.put_many("model", names(1, 2, 1), np.concatenate([row(1), row(2), row(1)]), [1, 1, 1])
    assert cache.used_bytes == 2 * entry_bytes()
    cache.put_many("model", names(3), row(3), [1])
    assert [entry is not None for entry in cache.get_many("model", names(1, 2, 3))] == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("max_bytes", [0, 100], ids=["none", "less than an entry"])
def test_a_cache_too_small_for_an_entry_keeps_nothing(max_bytes: int) -> None:
    cache = VectorCache(max_bytes)
    cache.put_many("model", names(1), row(1), [1])
    assert cache.get_many("model", names(1)) == [None]
    assert (len(cache), cache.used_bytes, cache.evictions, cache.misses) == (0, 0, 0, 1)


def test_a_wide_vector_pushes_out_as_many_narrow_ones_as_it_needs() -> None:
    cache = VectorCache(entry_bytes(4096))
    for number in range(20):
        cache.put_many("model", names(number), row(number), [1])
    cache.put_many("model", names(99), row(99, 4096), [1])
    assert len(cache) == 1
    assert cache.evictions == 20
    assert cache.used_bytes == entry_bytes(4096)


@pytest.mark.parametrize(
    ("vectors", "tokens"),
    [(row(1), [1, 2]), (np.zeros((2, 8), np.float32), [1]), (row(1).astype(np.float64), [1])],
    ids=["tokens", "vectors", "float64"],
)
def test_what_does_not_belong_together_is_refused(vectors: Any, tokens: list[int]) -> None:
    with pytest.raises(ValueError, match=r"do not match|keeps float32"):
        VectorCache(10**6).put_many("model", names(1), vectors, tokens)


@pytest.mark.parametrize("dimensions", [256, 1024])
def test_the_counted_bytes_are_those_that_python_takes(dimensions: int) -> None:
    count = 3000
    # made before, but their bytes belong to the cache once the caller has gone
    keys = names(*range(count))
    vectors = np.zeros((1, dimensions), dtype=np.float32)
    cache = VectorCache(10**9)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number, name in enumerate(keys):
            cache.put_many("model", [name], vectors, [number + 1000])
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    taken = after - before + sum(name.__sizeof__() for name in keys)
    assert taken == pytest.approx(cache.used_bytes, rel=0.1)
    assert taken <= cache.used_bytes


def test_models_do_not_see_each_other_s_vectors() -> None:
    cache = VectorCache(10**6)
    cache.put_many("a", names(1), row(1), [1])
    assert cache.get_many("b", names(1)) == [None]
    cache.put_many("b", names(1), row(2), [2])
    assert [
        entry and entry.vector.tobytes()
        for model in "ab"
        for entry in cache.get_many(model, names(1))
    ] == [
        row(1).tobytes(),
        row(2).tobytes(),
    ]


@given(
    st.integers(0, 6),
    st.lists(
        st.tuples(
            st.sampled_from(["get", "put"]), st.lists(st.integers(0, 8), min_size=1, max_size=4)
        ),
        max_size=40,
    ),
)
def test_it_behaves_as_a_plain_list_by_recency_would(
    room: int, steps: list[tuple[str, list[int]]]
) -> None:
    cache, model = VectorCache(room * entry_bytes()), OrderedDict[int, int]()
    hits = misses = 0
    for action, numbers in steps:
        if action == "put":
            cache.put_many(
                "model",
                names(*numbers),
                np.repeat(np.array(numbers, np.float32)[:, None], 8, axis=1),
                numbers,
            )
            for number in numbers if room else ():
                model[number] = number
                model.move_to_end(number)
                if len(model) > room:
                    model.popitem(last=False)
        else:
            found = [
                entry.tokens if entry else None
                for entry in cache.get_many("model", names(*numbers))
            ]
            assert found == [model.get(number) for number in numbers]
            for number in numbers:
                hits += number in model
                misses += number not in model
                if number in model:
                    model.move_to_end(number)
        assert cache.used_bytes == len(cache) * entry_bytes() <= cache.max_bytes
        assert len(cache) == len(model)
    assert (cache.hits, cache.misses) == (hits, misses)
