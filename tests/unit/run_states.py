"""Draws how a run's status moves, from the table in ``bpa.domain.runs``, into the documentation."""

from pathlib import Path

from bpa.domain.runs import TERMINAL, TRANSITIONS, RunStatus

PAGE = Path("docs/run-states.md")
BEGIN, END = "```mermaid\n", "```\n"


def diagram() -> str:
    """Return the states and what moves a run between them, as mermaid draws it."""
    lines = ["stateDiagram-v2", f"    [*] --> {RunStatus.QUEUED}: receive"]
    lines += [f"    [*] --> {RunStatus.DEAD_LETTERED}: receive what cannot be decoded"]
    for status, events in TRANSITIONS.items():
        reached: dict[RunStatus, list[str]] = {}
        for event, to in events.items():
            reached.setdefault(to, []).append(event)
        lines += [f"    {status} --> {to}: {', '.join(by)}" for to, by in reached.items()]
    lines += [f"    {status} --> [*]" for status in RunStatus if status in TERMINAL]
    return "\n".join(lines) + "\n"


def drawn(page: str) -> str:
    """Return the page with the diagram of today."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}{diagram()}{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text("utf-8")), "utf-8")
