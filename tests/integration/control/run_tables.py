"""Tables and rules in one form, so that they can be compared."""

from tests.simulation.rules import Rules

Seen = dict[str, list[dict[str, object]]]
"""The rows of ``runs``, ``leases`` and ``steps`` as JSON."""


def of_rules(rules: Rules) -> dict[str, object]:
    return {
        run.run_id: (
            str(run.status),
            run.reason,
            run.epoch,
            (run.executions, run.agent_failures, run.crashes, run.infra_failures),
            run.lease
            and (run.lease.node_id, run.lease.boot_id, run.lease.epoch, run.lease.acknowledged),
            {
                seq: (str(s.kind), s.digest, s.intent, s.effect_key, s.answer, s.epoch)
                for seq, s in run.steps.items()
            },
        )
        for run in rules.runs.values()
    }


def of_rows(seen: Seen) -> dict[str, object]:
    leases = {row["run_id"]: row for row in seen["leases"]}
    steps: dict[object, dict[object, object]] = {}
    for row in seen["steps"]:
        answer = None if row["answer"] is None else _bytes(row["answer"])
        steps.setdefault(row["run_id"], {})[row["seq"]] = (
            row["kind"],
            row["digest"],
            _bytes(row["intent"]),
            row["effect_key"] or "",
            answer,
            row["epoch"],
        )
    return {
        row["run_id"]: (
            row["status"],
            row["reason"],
            row["lease_epoch"],
            (row["executions"], row["agent_failures"], row["crashes"], row["infra_failures"]),
            _lease(leases.get(row["run_id"])),
            steps.get(row["run_id"], {}),
        )
        for row in seen["runs"]
    }


def _lease(row: dict[str, object] | None) -> tuple[object, ...] | None:
    if row is None:
        return None
    return row["node_id"], row["boot_id"], row["epoch"], row["acknowledged_at"] is not None


def _bytes(text: object) -> bytes:
    return bytes.fromhex(str(text or "\\x").removeprefix("\\x"))
