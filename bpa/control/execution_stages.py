"""What a node did under one lease of a run: thinking, and in it the journal's steps. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from bpa.control.stages import Attributes, Row, Stage, StageKind
from bpa.domain.executions import OutcomeKind
from bpa.domain.journal import StepKind
from bpa.telemetry.spans import span_id

_TOOL = "post_invoice"


def thinking(run: Row, execution: Row, attempt: int, parent_id: str) -> Iterator[Stage]:
    """Yield what a node did under one lease, the whole around its parts first."""
    run_id, epoch = run["run_id"], execution["epoch"]
    failed = execution["ending"] not in ("", OutcomeKind.COMPLETED)
    think = Stage(
        name="think",
        span_id=span_id(run_id, "think", epoch),
        parent_id=parent_id,
        started_at=execution["acknowledged_at"],
        ended_at=execution["ended_at"],
        attempt=attempt,
        node_id=execution["node_id"],
        error=(execution["reason"] or execution["ending"]) if failed else "",
        detail=(execution["detail"] or "") if failed else "",
        attributes={
            "bpa.deployment.id": run["dep_id"],
            "bpa.agent.id": run["agent_id"],
            "bpa.agent.version": run["version"],
            "bpa.node.id": execution["node_id"],
            "bpa.attempt": attempt,
            **{f"bpa.{stage}_ms": ms for stage, ms in execution["timings"].items()},
            **_excess(execution["excess"]),
        },
    )
    invoke = replace(
        think,
        name=f"invoke_agent {run['agent_name']}",
        span_id=span_id(run_id, "invoke_agent", epoch),
        parent_id=think.span_id,
        attributes={
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.id": run["agent_id"],
            "gen_ai.agent.name": run["agent_name"] or "",
            "gen_ai.agent.version": run["version"],
        },
    )
    steps = [stage for step in run["steps"] for stage in _step(run, execution, step, invoke)]
    ready = timedelta(milliseconds=execution["timings"].get("sandbox_start", 0.0))
    yield _around(think, steps)
    yield _around(replace(invoke, started_at=think.started_at + ready), steps)
    yield from steps


def _around(outer: Stage, steps: Sequence[Stage]) -> Stage:
    """Return a stage that no step of its own leaves, by whichever clock."""
    first = min([outer.started_at, *(step.started_at for step in steps)])
    ends = [step.ended_at for step in steps if step.ended_at]
    last = max([outer.ended_at, first, *ends]) if outer.ended_at else None
    return replace(outer, started_at=first, ended_at=last)


def _step(run: Row, execution: Row, step: Row, invoke: Stage) -> Iterator[Stage]:
    """Yield what an execution did of a step: nothing, asked, sent, or replayed its answer."""
    epoch, seq = execution["epoch"], step["seq"]
    replayed = seq in execution["replayed"]
    answered = step["answered_epoch"] == epoch and step["answered"]
    begun = step["epoch"] == epoch and step["inherited_from"] is None
    sent = step["kind"] == StepKind.EFFECT and (
        answered or begun or _is_sent_again(execution, step)
    )
    if replayed and not (answered or begun):
        at = invoke.started_at
        stage = _model(run, step, invoke) if step["kind"] == StepKind.MODEL else _tool(step, invoke)
        yield replace(
            stage,
            span_id=span_id(run["run_id"], stage.name.split(" ", 1)[0], epoch, seq),
            started_at=at,
            ended_at=at,
            attributes={**stage.attributes, "bpa.step.replayed": True},
        )
    elif step["kind"] == StepKind.MODEL and begun:
        stage = _model(run, step, invoke)
        lost = not step["answered"] and execution["ended_at"] is not None
        yield replace(
            stage,
            span_id=span_id(run["run_id"], "chat", epoch, seq),
            started_at=step["started_at"],
            ended_at=step["ended_at"] or execution["ended_at"],
            error="unknown" if lost else "refused" if step["refused"] else "",
        )
    elif sent:
        yield from _sending(run, execution, step, invoke)


def _is_sent_again(execution: Row, step: Row) -> bool:
    """Say whether an execution sent what an earlier one had meant to send, and got no answer."""
    epoch, answered_epoch = execution["epoch"], step["answered_epoch"] or 0
    is_open = answered_epoch > epoch or not step["answered"]
    return is_open and step["epoch"] < epoch and "http_out" in execution["timings"]


def _sending(run: Row, execution: Row, step: Row, invoke: Stage) -> Iterator[Stage]:
    """Yield the call of the tool, and the request if one was made."""
    epoch, seq, timings = execution["epoch"], step["seq"], execution["timings"]
    answered = step["answered"] and step["answered_epoch"] == epoch
    ended_at = (step["ended_at"] if answered else None) or execution["ended_at"]
    took = timedelta(milliseconds=timings.get("http_out", 0.0))
    started_at = step["started_at"]
    if step["epoch"] != epoch:  # its intent is an earlier execution's
        started_at = min(max(ended_at - took, execution["acknowledged_at"]), ended_at)
    failed = "" if answered or ended_at is None else execution["reason"] or execution["ending"]
    tool = replace(
        _tool(step, invoke),
        span_id=span_id(run["run_id"], "execute_tool", epoch, seq),
        started_at=started_at,
        ended_at=ended_at,
        error=failed,
    )
    yield tool
    if timings and "http_out" not in timings:  # its node says that nothing was sent
        return
    call = step["call"] or {}
    # an earlier execution did not hear what a later one did
    heard = call if answered else execution["heard"] or {}
    yield replace(
        tool,
        name="http.out",
        span_id=span_id(run["run_id"], "http.out", epoch, seq),
        parent_id=tool.span_id,
        kind=StageKind.CLIENT,
        detail=(execution["detail"] or "") if failed else "",
        attributes=_known(
            {
                "bpa.step.seq": seq,
                "http.request.method": "POST",
                "server.address": urlsplit(call.get("host") or "").hostname,
                "http.response.status_code": heard.get("status") or None,
                "http.request.resend_count": max(0, (heard.get("tries") or 1) - 1),
            }
        ),
    )


def _model(run: Row, step: Row, invoke: Stage) -> Stage:
    usage, call = step["usage"] or {}, step["call"] or {}
    tokens_in = sum(
        int(usage.get(kind, 0))
        for kind in ("input_tokens", "cache_read_tokens", "cache_write_tokens")
    )
    model = call.get("model") or ""
    return replace(
        invoke,
        name=f"chat {model}".rstrip(),
        parent_id=invoke.span_id,
        kind=StageKind.CLIENT,
        step=step["seq"],
        error="",
        detail="",
        attributes=_known(
            {
                "bpa.step.seq": step["seq"],
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": call.get("provider"),
                "gen_ai.request.model": model or None,
                "gen_ai.request.max_tokens": call.get("max_tokens"),
                "gen_ai.response.id": call.get("response_id"),
                "gen_ai.response.model": call.get("response_model"),
                "gen_ai.response.finish_reasons": call.get("finish_reasons"),
                "gen_ai.usage.input_tokens": tokens_in,
                "gen_ai.usage.output_tokens": usage.get("output_tokens", 0),
                "gen_ai.usage.cache_read.input_tokens": usage.get("cache_read_tokens", 0),
                "gen_ai.usage.cache_creation.input_tokens": usage.get("cache_write_tokens", 0),
                "bpa.cost.amount": step["cost_usd"],
                "bpa.cost.currency": "USD",
                "bpa.cost.source": _source(usage.get("price")),
            }
        ),
    )


def _tool(step: Row, invoke: Stage) -> Stage:
    return replace(
        invoke,
        name=f"execute_tool {_TOOL}",
        parent_id=invoke.span_id,
        step=step["seq"],
        error="",
        detail="",
        attributes={
            "bpa.step.seq": step["seq"],
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": _TOOL,
            "gen_ai.tool.type": "function",
        },
    )


def _excess(excess: Mapping[str, str] | None) -> Attributes:
    """Return which budget was exceeded and by what, its amounts as numbers to be compared."""
    if excess is None:
        return {}
    amounts = _known({name: excess[name] for name in ("limit", "consumed", "refused")})
    return {
        "bpa.budget.kind": excess["kind"],
        **{f"bpa.budget.{name}": float(str(amount)) for name, amount in amounts.items()},
    }


def _source(price: Mapping[str, str] | None) -> str | None:
    return f"{price['source']}, {price['version']}" if price else None


def _known(attributes: Mapping[str, Any]) -> Attributes:
    return {name: value for name, value in attributes.items() if value is not None}
