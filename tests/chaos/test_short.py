"""The short cases, one after the other on one stage; ``make chaos`` plays all of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.chaos.cases import CASES
from tests.chaos.judges import Verdict
from tests.chaos.scene import Act, Case, Scene

SEED = random.randrange(1_000_000)
"""Shown with every failure; ``make chaos SEED=...`` plays it again."""


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Case], Verdict]]:
    """Play a case on the module's stage; between the cases, its processes wait."""
    scene = Scene(tmp_path_factory.mktemp("stage"))
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        runner.run(_entered(stack, scene))
        try:
            yield lambda case: runner.run(scene.play(case, SEED))
        finally:
            runner.run(stack.aclose())


@pytest.mark.parametrize("name", [case.name for case in CASES.values() if case.is_short])
def test_nothing_is_lost_and_nothing_done_twice(play: Callable[[Case], Verdict], name: str) -> None:
    verdict = play(CASES[name])
    assert not verdict.violations, f"seed {SEED}: {verdict.violations}\n{verdict.figures}"


def test_a_case_whose_fault_never_bit_is_invalid(play: Callable[[Case], Verdict]) -> None:
    verdict = play(Case("harmless", _harmless, bites=("nothing at all",), messages=5))
    assert verdict.violations == ["INVALID: 'nothing at all' never bit"]


async def _entered(stack: AsyncExitStack, scene: Scene) -> None:
    await stack.enter_async_context(scene.set_up())


async def _harmless(act: Act) -> None:
    """Do no harm."""
