"""``make chaos``: do harm to a fleet at work, again and again, and hold the accounts against it."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.cases import CASES
from tests.chaos.judges import Verdict
from tests.chaos.scene import Case, Scene


def main() -> int:
    """Play the cases asked for; return 1 when one is violated or invalid."""
    arguments = _parse(sys.argv[1:])
    if arguments.list:
        for case in CASES.values():
            sys.stdout.write(f"{case.name:<24} {case.sentence}\n")
        return 0
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    chosen = [CASES[name] for name in arguments.case or CASES]
    if arguments.per_s is not None:
        chosen = [dataclasses.replace(case, per_s=arguments.per_s) for case in chosen]
    told: list[dict[str, object]] = []
    failed = 0
    for case in chosen:
        verdict = _played(case, seed, keep=arguments.keep)
        failed += bool(verdict.violations)
        told.append({"case": case.name, "seed": seed, **_document(verdict)})
        if not arguments.json:
            _print(case, seed, verdict)
    if arguments.json:
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
    else:
        sys.stdout.write(f"\n{len(chosen) - failed} of {len(chosen)} cases hold (seed {seed}).\n")
    return 1 if failed else 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="play it again as it was; drawn unless given")
    parser.add_argument("--case", action="append", choices=CASES, help="this one; may be repeated")
    parser.add_argument("--per-s", type=float, help="messages a second, instead of the case's own")
    parser.add_argument("--list", action="store_true", help="name the cases and do nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--keep", action="store_true", help="keep data and logs of good cases too")
    return parser.parse_args(words)


def _played(case: Case, seed: int, *, keep: bool) -> Verdict:
    """Play a case on a stage of its own; its data and logs stay when it fails."""
    sys.stderr.write(f"{case.name}: {case.sentence} (seed {seed})\n")
    folder = Path(tempfile.mkdtemp(prefix=f"bpa-chaos-{case.name}-"))
    verdict = Verdict()
    try:
        verdict = asyncio.run(_on_stage(folder, case, seed))
    except (AssertionError, ExceptionGroup) as error:
        verdict.must(False, f"not played to its end: {_innermost(error)}")
    if verdict.violations or keep:
        sys.stderr.write(f"{case.name}: data and logs are kept in {folder}\n")
    else:
        shutil.rmtree(folder)
    return verdict


async def _on_stage(folder: Path, case: Case, seed: int) -> Verdict:
    async with Scene(folder, case.settings, case.slots).set_up() as scene:
        return await scene.play(case, seed)


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _document(verdict: Verdict) -> dict[str, object]:
    return {"violations": verdict.violations, "figures": verdict.figures}


def _print(case: Case, seed: int, verdict: Verdict) -> None:
    state = "VIOLATED" if verdict.violations else "holds"
    lines = [f"\n{case.name} (seed {seed}): {state}"]
    lines += [f"  {name:<40} {value}" for name, value in verdict.figures.items()]
    lines += [f"  VIOLATION: {violation}" for violation in verdict.violations[:20]]
    more = len(verdict.violations) - 20
    lines += [f"  and {more} more violations"] if more > 0 else []
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
