"""The replay of one dead letter, edited or not, tried out first; many are an operation."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Response, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from bpa.control.replay_plan import Edit, LetterId, Outcome
from bpa.errors import NotFound
from bpa.ui.desk import Desk
from bpa.ui.forms import fields_of
from bpa.ui.rendering import AnyRequest, Whole
from bpa.ui.session import operator_of
from bpa.ui.views import dead_letters as view
from bpa.words import segment


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


HANDLERS = [replay_one]
