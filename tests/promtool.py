"""promtool, which finds fault with rules, configurations and metrics."""

from __future__ import annotations

import subprocess
from pathlib import Path

from observability.programs import Programs


def promtool(programs: Programs, *words: str | Path, given: str = "") -> str:
    """Run it and return what it says; fail if it finds fault."""
    code, said = asked(programs, *words, given=given)
    assert code == 0, said
    return said


def asked(programs: Programs, *words: str | Path, given: str = "") -> tuple[int, str]:
    """Run it; return its exit code and what it says."""
    done = subprocess.run(
        [programs.promtool, *words], input=given, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr
