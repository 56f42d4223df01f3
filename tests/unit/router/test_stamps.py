"""The points of a request's way."""

from router.stamps import CALL, STAMPS, Stamps


def test_points_are_milliseconds_since_the_first_in_the_order_of_the_way() -> None:
    stamps = Stamps(100.0)
    stamps.mark("written", 100.5)
    stamps.called([100.0 + place / 100 for place in range(len(CALL))], 3)
    stamps.mark("read", 99.999)  # on the clock of another thread
    shown = stamps.milliseconds()
    assert list(shown) == ["arrived", "read", *CALL, "written"]
    assert (shown["arrived"], shown["read"], shown["written"]) == (0.0, -1.0, 500.0)
    assert [shown[name] for name in CALL] == [10.0 * place for place in range(len(CALL))]
    assert stamps.call_texts == 3


def test_points_that_were_not_passed_are_missing() -> None:
    stamps = Stamps(1.0)
    stamps.called((), 0)
    assert stamps.milliseconds() == {"arrived": 0.0}
    assert stamps.call_texts is None
    assert len(set(STAMPS)) == len(STAMPS)
