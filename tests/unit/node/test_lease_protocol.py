"""No two nodes ever hold one run, and every run ends: the lease protocol in simulated trouble.

Hundreds of scenarios, each out of its seed: messages late, lost, twice and out of order; nodes
suspended, killed and cut off, their clocks too fast or too slow; replicas that stand still or die.
`Scenario(seed, Counter()).play()` shows one again.
"""

from collections import Counter

import pytest

from bpa.domain.runs import RunStatus
from bpa.node import lease as lease_module
from bpa.node.lease import HeldLease
from bpa.node.outlets import Recorder
from tests.simulation.rules import Run
from tests.simulation.scenario import Scenario, Violation, WatchedRules

SEEDS = range(100)
BITES = [
    *("requests lost", "answers lost", "requests that came twice", "messages that took seconds"),
    *("nodes suspended", "nodes killed with leases", "partitions", "replicas killed"),
    *("replicas that stood still", "leases that lapsed", "cancelled", "effects"),
    *("effects not started", "stopped: expired", "stopped: lost", "stopped: cancelled"),
    *("answered stale_lease", "answered not_found", "offers refused"),
]


class Unfenced(WatchedRules):
    """Take reports under any epoch."""

    def _is_held(self, run: Run, epoch: int) -> bool:
        return run.status is RunStatus.RUNNING


class ImpatientRules(WatchedRules):
    """End a lease before the node gives it up."""

    def renew(self, node_id, boot_id, held):
        renewed = super().renew(node_id, boot_id, held)
        for run_id, _ in renewed or ():
            self.runs[run_id].lease.expires_at_s -= self.ttl_s / 4
        return renewed


class SleepyScenario(Scenario):
    """Has clocks that stand still while their node is suspended."""

    def clock_of(self, node, clock):
        return lambda: clock() - node.suspended_s


def seed_that_shows(scenario: type[Scenario] = Scenario, rules: type = WatchedRules) -> int | None:
    """Return the first seed of many with which a broken protocol does harm."""
    for seed in range(400):
        is_found = False
        try:
            scenario(seed, Counter(), rules).play()
        except* Violation:  # in a group when a node at work found it out
            is_found = True
        if is_found:
            return seed
    return None


def test_no_two_nodes_ever_hold_one_run_and_every_run_ends():
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        Scenario(seed, counts).play()
    missing = [what for what in BITES if not counts[what]]
    assert not missing, f"never happened, so nothing is proved of it: {missing}"


def test_a_seed_shows_the_same_scenario_again():
    first, second = Counter(), Counter()
    for counts in (first, second):
        Scenario(1, counts).play()
    assert first == second


def test_the_simulation_finds_a_node_without_a_margin(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lease_module, "MARGIN", 0.0)
    assert seed_that_shows() is not None


def test_the_simulation_finds_validity_counted_from_the_answer(monkeypatch: pytest.MonkeyPatch):
    confirm = HeldLease.confirm
    monkeypatch.setattr(HeldLease, "confirm", lambda lease, _: confirm(lease, lease._clock()))
    assert seed_that_shows() is not None


def test_the_simulation_finds_a_broker_that_does_not_look_at_its_lease(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(Recorder, "must_hold", lambda recorder: None)
    assert seed_that_shows() is not None


def test_the_simulation_finds_clocks_that_stand_still_while_suspended():
    assert seed_that_shows(SleepyScenario) is not None


@pytest.mark.parametrize("rules", [Unfenced, ImpatientRules])
def test_the_simulation_finds_rules_that_do_not_fence(rules: type[WatchedRules]):
    assert seed_that_shows(rules=rules) is not None
