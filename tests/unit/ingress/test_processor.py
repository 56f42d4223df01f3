"""What a router says of its own processor time."""

from deployments.ingress.processor import ProcessorShare


class Process:
    """A clock and a process that uses a share of it."""

    def __init__(self) -> None:
        self.now, self.used_s = 100.0, 7.0

    def run(self, seconds: float, share: float) -> None:
        self.now += seconds
        self.used_s += share * seconds


def share_of(process: Process, cores: float = 1.0) -> ProcessorShare:
    return ProcessorShare(cores, lambda: process.now, lambda: process.used_s)


def test_the_share_follows_what_the_process_uses_however_often_it_is_read() -> None:
    process = Process()
    seldom, often = share_of(process), share_of(process)
    for _ in range(60):
        process.run(1.0, 0.5)
        often.share()
    assert abs(often.share() - 0.5) < 0.01
    assert abs(seldom.share() - 0.5) < 0.01
    for _ in range(30):
        process.run(1.0, 0.9)
        often.share()
    assert 0.85 < often.share() < 0.9
    before = often.share()
    assert often.share() == before  # no time passed


def test_a_moment_is_no_load() -> None:
    process = Process()
    share = share_of(process)
    for _ in range(20):
        process.run(1.0, 0.1)
        share.share()
    process.run(1.0, 1.0)
    assert share.share() < 0.25


def test_a_container_with_less_than_a_core_is_full_at_less() -> None:
    process = Process()
    small, large = share_of(process, 0.5), share_of(process, 64.0)
    process.run(100.0, 0.5)
    assert small.demand().tokens_per_s == 0.5
    assert large.demand().tokens_per_s == 1.0  # Python runs one thread at a time
    assert abs(small.demand().offered - 0.5) < 0.01
    assert small.demand().backlog_tokens == small.demand().shadow == 0.0
