"""Small generated inputs of every kind that `embedding-router advise` reads, with known right
answers.
"""

import csv
import json
from pathlib import Path

import pytest

TOPICS = {
    "weather": "rain snow storm sunshine cloud thunder wind frost fog heat",
    "cooking": "soup bread pasta butter oven recipe salt onion roast cheese",
    "football": "goal match referee striker league stadium penalty coach team score",
    "banking": "loan account deposit interest credit mortgage transfer branch fee cheque",
    "gardening": "soil seed rose tulip compost shovel hedge lawn prune watering",
    "music": "guitar violin concert melody drum orchestra singer chord piano rhythm",
}
FRAMES = ("the {0} and the {1}", "{0} or {1}", "no {0} after the {1}", "{1} with {0}")


def labelled() -> list[tuple[str, str]]:
    """Texts and their topics: 6 topics, 40 texts each."""
    made = []
    for topic, words in TOPICS.items():
        names = words.split()
        for place in range(40):
            frame = FRAMES[place % len(FRAMES)]
            made.append(
                (frame.format(names[place % 10], names[(3 * place + place // 10 + 1) % 10]), topic)
            )
    return made


def write(folder: Path) -> dict[str, Path]:
    """Write one file of each kind."""
    rows = labelled()
    files = {
        name: folder / name
        for name in ("texts.jsonl", "queries.jsonl", "qrels.tsv", "pairs.csv", "labels.csv")
    }
    files["texts.jsonl"].write_text(
        "".join(
            json.dumps({"id": f"d{n}", "text": text}) + "\n" for n, (text, _) in enumerate(rows)
        )
    )
    asked = [(word, topic) for topic, words in TOPICS.items() for word in words.split()]
    files["queries.jsonl"].write_text(
        "".join(
            json.dumps({"id": f"q{n}", "text": f"tell me about {word}"}) + "\n"
            for n, (word, _) in enumerate(asked)
        )
    )
    files["qrels.tsv"].write_text(
        "".join(
            f"q{n}\td{m}\t1\n"
            for n, (_, topic) in enumerate(asked)
            for m, (_, other) in enumerate(rows)
            if topic == other
        )
    )
    with files["pairs.csv"].open("w", newline="") as file:
        pairs = csv.writer(file)
        for place in range(120):
            (one, topic), (other, same) = rows[place], rows[(place * 7 + place % 3) % len(rows)]
            pairs.writerow([one, other, 5.0 * (topic == same) - 0.001 * place])
    with files["labels.csv"].open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of `write`, one set for a module."""
    return write(tmp_path_factory.mktemp("inputs"))
