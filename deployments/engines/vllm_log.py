"""vLLM's own log, kept in a file and read for the duration of each part of a start.

vLLM writes to the standard output of its process, which a Serve replica loses. The level there
stays VLLM_LOGGING_LEVEL (here: ERROR). The file gets everything from INFO up: the attention
backend, the size of the key-value cache, what was compiled, what memory was free.
"""

import logging
import re
import time
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("ray.serve")

FORMAT = "%(levelname)s %(asctime)s %(name)s %(message)s"
# For each phase, the line of vLLM that reports its seconds. The rest of a start is loading.
PHASE_LINES = {
    "download": re.compile(r"Time spent downloading weights for .*: ([\d.]+) seconds"),
    "compile": re.compile(r"torch\.compile took ([\d.]+) s in total"),
    "warm_up": re.compile(r"^Graph capturing finished in ([\d.]+) secs"),
}


class StartLog(logging.Handler):
    """Follows one start; `doing` is vLLM's last message."""

    def __init__(self, file: Path | None) -> None:
        super().__init__(logging.INFO)
        self.doing = "importing vLLM"
        self._file = file
        self._seconds = dict.fromkeys(("import", *PHASE_LINES), 0.0)
        self._began_s = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Read one line. One that cannot be read is dropped: an error here would be raised inside
        vLLM and end the start.
        """
        with suppress(Exception):  # arguments that do not fit the format, or no number
            line = record.getMessage()
            self.doing = line.splitlines()[0] if line.strip() else self.doing
            for phase, pattern in PHASE_LINES.items():
                if (found := pattern.search(line)) is not None:
                    self._seconds[phase] += float(found[1])

    def attach(self) -> None:
        """Start to read, once vLLM is imported and has set up its logging."""
        self._seconds["import"] = time.monotonic() - self._began_s
        logger = logging.getLogger("vllm")
        for handler in logger.handlers:
            handler.setLevel(max(handler.level, logger.level))
        logger.setLevel(min(logger.level, logging.INFO))
        logger.addHandler(self)
        if self._file is not None:
            try:
                written = logging.FileHandler(self._file)
            except OSError as error:
                log.warning("vLLM's log is not kept: %s", error)
                return
            written.setLevel(logging.INFO)
            written.setFormatter(logging.Formatter(FORMAT))
            logger.addHandler(written)

    def phases(self) -> dict[str, float]:
        """Stop reading; returns the seconds of each phase until now."""
        logging.getLogger("vllm").removeHandler(self)
        whole = time.monotonic() - self._began_s
        return self._seconds | {"load": max(0.0, whole - sum(self._seconds.values()))}
