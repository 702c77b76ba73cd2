"""Replays of dead letters: of one, edited or not; of those that were marked; tried out first."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Response, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from bpa.control.replay_plan import IDS_AT_MOST, Edit, LetterId, Outcome
from bpa.errors import InvalidRequest, NotFound
from bpa.ui.desk import Desk
from bpa.ui.forms import chosen_of, fields_of
from bpa.ui.rendering import AnyRequest, Whole
from bpa.ui.session import operator_of
from bpa.ui.views import dead_letters as view
from bpa.ui.words import segment


@post("/dead-letters/replay", status_code=200)
async def replay_many(request: AnyRequest, desk: NamedDependency[Desk]) -> Response[str]:
    """Replay the letters that were marked, and no others; ``try`` only says what would be done."""
    actor = operator_of(request).actor
    marked = await chosen_of(request, "id")
    fields = await fields_of(request)
    if not marked:
        raise InvalidRequest("no dead letter is marked: go back and mark those to replay")
    if len(marked) > IDS_AT_MOST:
        raise InvalidRequest(f"at most {IDS_AT_MOST} at a time")
    is_trial = "try" in fields
    outcomes = await desk.services.replaying.replay(
        [LetterId.read(one) for one in marked], actor=actor, dry_run=is_trial
    )
    return _answer(request, desk, outcomes, is_trial=is_trial, back="/ui/dead-letters")


@post("/dead-letters/{letter_id:str}/replay", status_code=200)
async def replay_one(
    request: AnyRequest, letter_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Replay one letter, with another body if it was edited."""
    actor, wanted = operator_of(request).actor, LetterId.read(letter_id)
    fields = await fields_of(request, most=view.BODY_CHARS_MAX)
    edit, typed = None, fields.get("body")
    if typed is not None:
        found = (await desk.services.dead_letters.find([wanted])).get(wanted)
        if found is None:
            raise NotFound(f"there is no dead letter {wanted}: it was replayed or removed")
        body = view.edited_body(typed, found.message.body)
        if body is not None:
            edit = Edit(body, may_repeat_effect="may_repeat" in fields)
    is_trial = "try" in fields
    outcomes = await desk.services.replaying.replay(
        [wanted], edit=edit, actor=actor, dry_run=is_trial
    )
    back = f"/ui/dead-letters/{segment(str(wanted))}"
    return _answer(
        request,
        desk,
        outcomes,
        is_trial=is_trial,
        back=back,
        edited=typed if edit is not None else None,
        may_repeat="may_repeat" in fields,
    )


def _answer(
    request: AnyRequest,
    desk: Desk,
    outcomes: Sequence[Outcome],
    *,
    is_trial: bool,
    back: str,
    edited: str | None = None,
    may_repeat: bool = False,
) -> Response[str]:
    return desk.render.page(
        request,
        "replayed.html",
        done=view.done(outcomes),
        summary=view.summary(outcomes),
        is_trial=is_trial,
        back=back,
        edited=Whole(edited) if edited is not None else None,
        may_repeat=may_repeat,
    )


HANDLERS = [replay_many, replay_one]
