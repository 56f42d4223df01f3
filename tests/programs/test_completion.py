"""Completion of the command line, as a shell uses it."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.needs import needs


@needs("bash")
def test_tab_completes_commands_options_and_values_in_bash(tmp_path: Path) -> None:
    """The script in a real bash, which asks the program as Tab would."""
    program = tmp_path / "embedding-router"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m router.cli "$@"\n')
    program.chmod(0o755)
    ask = "".join(
        f"COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); COMPREPLY=()\n"
        '_embedding_router_completion embedding-router; echo "${COMPREPLY[*]}"\n'
        for words in (
            "embedding-router che",
            "embedding-router advise --la",
            "embedding-router completion z",
        )
    )
    done = subprocess.run(
        ["bash", "-c", 'eval "$(embedding-router completion bash)"\n' + ask], capture_output=True,
        text=True, check=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert done.stdout.splitlines() == ["check-config", "--labels", "zsh"]
