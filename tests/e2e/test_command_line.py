"""Every command against a live system: its document, its exit code, its look on a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from jsonschema import Draft202012Validator

from bpa.cli import (
    agents,
    apply,
    breakers,
    cli,
    deployments,
    deployments_edit,
    dlq,
    dlq_replay,
    drain,
    nodes,
    operating,
    operations,
    queues,
    runs,
    send,
)
from bpa.cli.doctor.findings import Report
from bpa.control.rest import (
    agent_schemas,
    cost_schemas,
    dead_letter_schemas,
    deployment_schemas,
    node_schemas,
    operation_schemas,
    revision_schemas,
    run_events,
    run_schemas,
    trend_schemas,
)
from bpa.domain.specs import AgentSpec, DeploymentSpec
from tests.e2e.queues import dead_letters
from tests.e2e.queues import send as send_to
from tests.e2e.server import BPA, Bpa
from tests.e2e.terminal import lines_of, shown, too_long
from tests.eventually import eventually

ROOT = Path(__file__).parents[2]
NOBODY = "018f0000-0000-8000-8000-000000000000"
DEPLOYMENT = "invoice-classifier-dev"


@dataclass(frozen=True, slots=True)
class Scene:
    """A live system with something of everything."""

    server: Bpa
    node: str
    run: str
    """One that has completed."""
    dead_run: str
    letter: str
    file: str
    operation: str
    """One that was asked to cancel a run that had ended."""


Words = Callable[[Scene], list[str]]


@dataclass(frozen=True, slots=True)
class Case:
    """How a command is called where it succeeds, and what its ``--json`` document is."""

    words: Words
    document: Any
    code: int = 0


def case(*words: str, document: Any, code: int = 0) -> Case:
    return Case(lambda scene: [word.format(scene=scene) for word in words], document, code)


CASES = {
    "agents list": case(document=agents.Agents),
    "agents show": case("invoice-classifier", document=agent_schemas.AgentVersion),
    "apply": case(f"{ROOT}/config/agents", document=apply.Applied),
    "breakers": case(document=breakers.Breakers),
    "budgets": case("--since", "1h", document=cost_schemas.BudgetsUsed),
    "config show": case("--origin", document=dict[str, dict[str, Any]]),
    "cordon": case("{scene.node}", document=node_schemas.NodeCordoned),
    "costs": case("--by", "model", document=cost_schemas.Costs),
    "deployments edit": case(
        DEPLOYMENT,
        "--set",
        "target.slotBudget=7",
        "--dry-run",
        document=revision_schemas.Simulation,
    ),
    "deployments history": case(DEPLOYMENT, document=deployments_edit.History),
    "deployments list": case(document=deployments.Deployments),
    "deployments pause": case(DEPLOYMENT, document=deployment_schemas.Deployment),
    "deployments resume": case(DEPLOYMENT, document=deployment_schemas.Deployment),
    "deployments rollback": case(DEPLOYMENT, "--to", "1", document=deployment_schemas.Deployment),
    "deployments show": case(DEPLOYMENT, document=deployment_schemas.Deployment),
    "dlq groups": case(document=dlq.DeadLetterGroups),
    "dlq list": case(document=dlq.DeadLetters),
    "dlq replay": case("--dry-run", "--id", "{scene.letter}", document=dlq_replay.ReplayReport),
    "dlq show": case("{scene.letter}", document=dead_letter_schemas.DeadLetter),
    "doctor": case(document=Report),
    "drain": case("{scene.node}", "--deadline", "30s", document=drain.DrainReport),
    "nodes forget": case("{scene.node}", document=nodes.NodeForgotten, code=5),
    "nodes list": case(document=nodes.Nodes),
    "nodes show": case("{scene.node}", document=node_schemas.NodeDetail),
    "operations list": case(document=operations.Operations),
    "operations show": case("{scene.operation}", "--items", document=operations.OperationShown),
    "operations stop": case("{scene.operation}", document=operation_schemas.Operation, code=5),
    "operations watch": case("{scene.operation}", document=operating.OperationReport, code=5),
    "queues": case(document=queues.Queues),
    "runs cancel": case("{scene.run}", document=run_schemas.Cancelled, code=5),
    "runs list": case(document=runs.Runs),
    "runs logs": case("{scene.run}", document=run_events.RunEvent),
    "runs retry": case("{scene.run}", document=dead_letter_schemas.Retried, code=5),
    "runs show": case("{scene.dead_run}", document=run_schemas.Run),
    "runs watch": case("{scene.run}", "{scene.dead_run}", document=run_schemas.RunSummary, code=7),
    "send": case("{scene.file}", document=send.Sent),
    "status": case(document=trend_schemas.Status),
    "uncordon": case("{scene.node}", document=node_schemas.NodeUncordoned),
}
ELSEWHERE = {
    "completion": "prints a script: below",
    "demo": "test_demo.py",
    "serve": "every other test",
    "emulate anthropic": "test_start_up.py",
    "emulate service-bus": "fleet.py",
    "emulate target": "test_start_up.py",
}
SENTENCES = (
    "config show",
    "deployments pause",
    "dlq replay",
    "nodes forget",
    "operations stop",
    "runs cancel",
    "runs retry",
)
"""Commands that print sentences, which are the terminal's to wrap; a table is not."""
WORDLESS = {"nodes forget", "operations stop", "runs cancel", "runs retry"}
"""Commands that are refused in this scene, and print no document."""
LINES = ("runs logs", "runs watch")
"""Commands whose ``--json`` is a document a line."""


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that does something, by its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(leaves(cli))


async def seeded(server: Bpa, folder: Path) -> Scene:
    bus = server.addresses["service_bus"]
    file = folder / "invoice.json"
    file.write_bytes((ROOT / "demo" / "invoices" / "001-bergblick-bb-00036.json").read_bytes())
    bodies = [(file.read_bytes(), "application/json"), (b"{", "application/json")]
    good, bad = await send_to(bus, bodies)
    ended = await server.ended_of([good, bad])

    async def buried() -> bool:
        return bad in await dead_letters(bus, "invoices")

    await eventually(buried, within_s=20, every_s=0.1)
    _, out, _ = await server.run("dlq", "list", "--limit", "1000", "--json")
    letters = {one["runId"]: one["id"] for one in json.loads(out)["deadLetters"]}
    (node,) = await server.get("/v1/nodes")
    run, dead_run = ended[good]["runId"], ended[bad]["runId"]
    words = ("runs", "cancel", "--where", f"deployment:{DEPLOYMENT} status:active", "--dry-run")
    assert (await server.run(*words))[0] == 3, "all have ended"
    operation = await server.post("/v1/operations", {"action": "cancel", "ids": [run]})
    return Scene(
        server, node["nodeId"], run, dead_run, letters[dead_run], str(file), operation["id"]
    )


@pytest.fixture(scope="module")
def live(
    runner: asyncio.Runner, shared_server: Bpa, tmp_path_factory: pytest.TempPathFactory
) -> Scene:
    """The live system, with a run that has completed and one that is a dead letter."""
    return runner.run(seeded(shared_server, tmp_path_factory.mktemp("scene")))


@pytest.fixture
async def scene(live: Scene, server: Bpa) -> AsyncIterator[Scene]:
    """The live system; what a test takes out of use is in use again after it."""
    yield live
    if (await server.get(f"/v1/nodes/{live.node}"))["cordonedAt"]:
        assert (await server.run("uncordon", live.node))[0] == 0
    if (await server.get(f"/v1/deployments/{DEPLOYMENT}"))["pausedAt"]:
        assert (await server.run("deployments", "resume", DEPLOYMENT))[0] == 0


def test_no_command_is_without_a_test():
    assert set(COMMANDS) == set(CASES) | set(ELSEWHERE)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_json_and_examples(name: str):
    command = COMMANDS[name]
    if not name.startswith("emulate"):
        assert "Examples:" in (command.help or "")
    options = {word for param in command.params for word in param.opts}
    assert "--json" in options or name.startswith(("completion", "emulate"))


def check(document: Any, kind: Any) -> None:
    """Hold a document against the schema of its kind, and against fields that it does not name."""
    (schema, *_), named = msgspec.json.schema_components(
        [kind, AgentSpec, DeploymentSpec], ref_template="#/components/schemas/{name}"
    )
    Draft202012Validator({**schema, "components": {"schemas": named}}).validate(document)
    text = msgspec.json.encode(msgspec.convert(document, kind, strict=False))
    assert json.loads(text) == document


@pytest.mark.parametrize("name", sorted(CASES))
async def test_a_command_says_the_same_in_one_document(scene: Scene, name: str):
    wanted = CASES[name]
    words = [*name.split(), *wanted.words(scene)]
    code, out, err = await scene.server.run(*words, "--json")
    assert code == wanted.code, (out, err)
    assert "Traceback" not in err
    documents = out.splitlines() if name in LINES else [out] if out else []
    assert documents or wanted.code == 5
    for document in documents:
        check(json.loads(document), wanted.document)


@pytest.mark.parametrize("name", sorted(CASES))
async def test_a_command_fits_a_terminal_of_80_columns(scene: Scene, name: str):
    wanted = CASES[name]
    words = [*name.split(), *wanted.words(scene)]
    code, written = await shown(scene.server, *words)
    assert code == wanted.code, written
    assert b"Traceback" not in written
    if name not in SENTENCES:
        assert too_long(written) == []
    text = "\n".join(lines_of(written))
    essential = {"runs list": scene.run, "runs show": scene.dead_run, "dlq list": scene.letter}
    essential |= {"nodes list": scene.node, "deployments list": DEPLOYMENT}
    essential |= {"agents list": "invoice-classifier", "queues": "invoices"}
    assert essential.get(name, "") in text


async def test_colours_end_where_they_are_not_wanted(scene: Scene):
    _, coloured = await shown(scene.server, "runs", "list")
    _, plain = await shown(scene.server, "runs", "list", NO_COLOR="1")
    assert b"\x1b[32m" in coloured
    assert b"\x1b[3" not in plain
    _, out, _ = await scene.server.run("runs", "list")
    assert "\x1b" not in out


@pytest.mark.parametrize("name", sorted({*CASES} - WORDLESS))
async def test_a_reader_that_leaves_ends_a_command_without_a_word(scene: Scene, name: str):
    reading, writing = os.pipe()
    os.close(reading)
    words = [*name.split(), *CASES[name].words(scene), "--json"]
    process = await asyncio.create_subprocess_exec(
        BPA, *scene.server.flags, *words, stdout=writing, stderr=PIPE
    )
    os.close(writing)
    _, err = await process.communicate()
    assert b"Broken" not in err
    assert b"Traceback" not in err
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("runs list --limit 0", 2),
        ("runs list --deployment nobody", 3),
        ("runs list status:dead_lettered error:DeserializationError since:1h", 0),
        ("runs list attempt:many", 2),
        ("runs list colour:red", 2),
        (f"runs show {NOBODY}", 3),
        (f"runs watch {NOBODY}", 3),
        (f"runs logs {NOBODY}", 3),
        (f"runs cancel {NOBODY}", 3),
        (f"runs retry {NOBODY}", 3),
        ("runs cancel", 2),
        ("runs cancel {scene.run} --where acme", 2),
        ("runs cancel {scene.run} --rate 5", 2),
        ("runs cancel --where status:completed --yes", 2),
        ("runs cancel --where agent:nobody --yes", 3),
        ("runs retry --where agent:nobody --dry-run", 3),
        ("runs watch {scene.run}", 0),
        ("runs watch {scene.dead_run}", 1),
        ("runs cancel {scene.dead_run}", 5),
        ("runs watch {scene.run} --follow", 2),
        ("agents show nobody", 3),
        ("agents show invoice-classifier --version 9", 3),
        ("deployments show nobody", 3),
        ("deployments pause nobody", 3),
        (f"deployments pause {DEPLOYMENT} --if-match 99", 5),
        ("deployments edit nobody --set target.slotBudget=5", 3),
        (f"deployments edit {DEPLOYMENT}", 2),
        (f"deployments edit {DEPLOYMENT} --set target.slotBudget=5 --if-match 99", 5),
        (f"deployments edit {DEPLOYMENT} --set target.slotBudget=many", 2),
        (f"deployments edit {DEPLOYMENT} --set environment=prod --dry-run", 2),
        (f"deployments edit {DEPLOYMENT} --set nonsense", 2),
        ("deployments history nobody", 3),
        (f"deployments rollback {DEPLOYMENT} --to 99", 3),
        (f"deployments rollback {DEPLOYMENT}", 2),
        ("nodes show nobody", 3),
        ("nodes forget nobody", 3),
        ("nodes forget {scene.node}", 5),
        ("cordon nobody", 3),
        ("drain nobody", 3),
        ("uncordon nobody", 3),
        ("runs show {scene.run} --contents", 4),
        ("dlq show invoices:999999", 3),
        ("dlq show invoices:999999 --body", 3),
        ("dlq show {scene.letter} --body --json", 2),
        ("dlq replay", 2),
        ("dlq replay --group 0123456789ab", 3),
        ("dlq groups --queue nobody", 3),
        (f"operations show {NOBODY}", 3),
        (f"operations watch {NOBODY}", 3),
        (f"operations stop {NOBODY}", 3),
        ("dlq list --reason Nonsense", 3),
        ("send {scene.file} --queue nobody", 3),
        ("apply /nowhere", 2),
        ("doctor --role control", 1),
        ("--set node.slots=many doctor", 2),
        ("--set control.url=http://127.0.0.1:1 runs list", 6),
        ("--set control.url=http://127.0.0.1:1 doctor", 1),
        ("no-such-command", 2),
    ],
)
async def test_exit_codes_say_what_went_wrong(scene: Scene, words: str, code: int):
    found, out, err = await scene.server.run(*words.format(scene=scene).split())
    assert found == code, (out, err)
    assert err or code in (0, 1)
    assert "Traceback" not in err


async def test_the_body_of_a_dead_letter_is_written_byte_for_byte(scene: Scene):
    assert await scene.server.run("dlq", "show", scene.letter, "--body") == (0, "{", "")


async def test_all_that_is_alive_is_watched_to_its_end(scene: Scene):
    server = scene.server
    assert (await server.run("cordon", scene.node))[0] == 0
    bodies = [(Path(scene.file).read_bytes(), "application/json")]
    (trace_id,) = await send_to(server.addresses["service_bus"], bodies)
    watching = await asyncio.create_subprocess_exec(
        BPA, *server.flags, "runs", "watch", "--follow", "--json", stdout=PIPE, stderr=PIPE
    )
    assert watching.stdout is not None
    seen = []
    async with asyncio.timeout(60):
        while "completed" not in seen:
            run = json.loads(await watching.stdout.readline())
            check(run, run_schemas.RunSummary)
            if run["traceId"] == trace_id and not seen:
                assert (await server.run("uncordon", scene.node))[0] == 0
            seen += [run["status"]] if run["traceId"] == trace_id else []
    assert seen[0] == "queued"
    watching.send_signal(signal.SIGINT)
    _, err = await watching.communicate()
    assert (watching.returncode, b"Traceback" in err) == (130, False)
    assert await server.run("runs", "watch") == (0, "", "no run is alive\n")


async def test_a_paused_deployment_leaves_its_messages_in_the_queue_until_it_is_resumed(
    scene: Scene,
):
    server = scene.server
    assert (await server.run("deployments", "pause", DEPLOYMENT))[0] == 0
    (trace_id,) = await send_to(
        server.addresses["service_bus"], [(Path(scene.file).read_bytes(), "application/json")]
    )
    code, out, _ = await server.run("deployments", "list")
    assert (code, "paused" in out) == (0, True)
    assert trace_id not in {run["traceId"] for run in await server.runs()}
    assert (await server.run("deployments", "resume", DEPLOYMENT))[0] == 0
    await server.ended_of([trace_id])


async def test_a_deployment_is_edited_applied_and_rolled_back_from_a_shell(
    scene: Scene, tmp_path: Path
):
    server = scene.server
    code, out, err = await server.run("deployments", "show", DEPLOYMENT, "--json")
    first = json.loads(out)
    change = ("--set", "target.slotBudget=9", "--note", "month end")
    code, out, err = await server.run("deployments", "edit", DEPLOYMENT, *change)
    assert (code, out) == (0, f"{DEPLOYMENT} is at revision {first['revision'] + 1}\n"), err
    assert "target.slotBudget" in err
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({**first["spec"], "maxEffects": 2}))
    stale = ("--file", str(spec), "--if-match", str(first["revision"]))
    code, out, err = await server.run("deployments", "edit", DEPLOYMENT, *stale)
    assert (code, out) == (5, ""), err
    assert (await server.run("apply", str(spec)))[0] == 5
    code, out, err = await server.run("apply", "--update", str(spec), "--json")
    assert (code, json.loads(out)["applied"][0]["updated"]) == (0, True), err
    again = await server.run("apply", "--update", str(spec), "--json")
    assert json.loads(again[1])["applied"][0]["updated"] is False
    code, out, err = await server.run(
        "deployments", "rollback", DEPLOYMENT, "--to", str(first["revision"]), "--json"
    )
    back = json.loads(out)
    assert (code, back["spec"], back["revision"]) == (0, first["spec"], first["revision"] + 3), err
    code, out, _ = await server.run("deployments", "history", DEPLOYMENT, "--json")
    latest, applied, edited = json.loads(out)["revisions"][:3]
    assert (latest["restores"], applied["note"]) == (first["revision"], "bpa apply")
    assert edited["note"] == "month end"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_a_shell_gets_what_completes_ids_from_the_live_system(scene: Scene, shell: str):
    code, out, _ = await scene.server.run("completion", shell)
    assert (code, "_BPA_COMPLETE" in out) == (0, True)
    words = f"bpa --set data_dir={scene.server.data_dir} nodes show {scene.node[:1]}"
    environ = {"COMP_WORDS": words, "COMP_CWORD": "5", "_BPA_COMPLETE": f"{shell}_complete"}
    process = await asyncio.create_subprocess_exec(
        BPA, stdout=PIPE, env={**scene.server.environment, **environ}
    )
    completed, _ = await process.communicate()
    if shell != "fish":  # which hands over the word apart
        assert scene.node in completed.decode().replace(",", "\n").splitlines()
