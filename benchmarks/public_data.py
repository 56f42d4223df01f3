"""The public data sets that benchmarks read: where they lie, and what to do where they do not."""

from pathlib import Path

import click

EVAL = Path(__file__).resolve().parents[1] / ".." / "shared" / "eval"
FILES = {
    "scifact-mini.json": "SciFact-mini: `queries`, `corpus` and `qrels` by id (AllenAI SciFact)",
    "stsb-en.csv": "the STS benchmark in English: text, text, score from 0 to 5 (stsb-multi-mt)",
    "stsb-zh.csv": "the same in Chinese",
    "banking77-test.csv": "banking77: text and category under a heading (PolyAI)",
}


def require(folder: Path, *names: str) -> None:
    """Raise click.ClickException with what each missing file is."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        listed = "\n".join(f"  {name}: {FILES[name]}" for name in missing)
        raise click.ClickException(
            f"{folder.resolve()} lacks public data that this benchmark reads:\n{listed}\n"
            "Put the files into a folder and name it with --data. Your own texts need no "
            "benchmark: embedding-router advise --help"
        )
