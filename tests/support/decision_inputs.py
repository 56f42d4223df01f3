"""Random loads and features of texts for the tests of a decision.

Seconds are multiples of 1/1024, which floats add without rounding, so that "never" can be checked
exactly.
"""

from hypothesis import strategies as st

from router.domain import Features, Load

ticks = st.integers(0, 4096).map(lambda count: count / 1024)
features = st.builds(
    Features,
    characters=st.just(9),
    language=st.sampled_from((None, "en", "zh")),
    script=st.sampled_from((None, "Latn", "Hani")),
    mixed=st.booleans(),
    code=st.booleans(),
)


def loads_of(*ready_replicas: int) -> st.SearchStrategy[Load]:
    """Loads with one of these numbers of replicas."""
    return st.builds(
        Load,
        ready_replicas=st.sampled_from(ready_replicas),
        ahead_tokens=st.integers(0, 2000),
        running_rest_s=ticks,
        margin=st.sampled_from((0.5, 1.0, 1.5, 4.0)),
        cold_start_s=st.none() | ticks,
        bias=st.sampled_from((0.5, 1.0, 2.0)),
        beside_s=st.lists(ticks, max_size=2).map(tuple),
        crowding=st.sampled_from((1.0, 3.0)),
    )
