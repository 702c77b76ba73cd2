"""Dead letters, by reason and cause, in a list, and from inside."""

from __future__ import annotations

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from bpa.control.causes import Filter
from bpa.control.replay_plan import LetterId
from bpa.control.rest.dead_letter_schemas import DeadLetter, DeadLetterGroup, DeadLetterSummary
from bpa.ui.desk import Desk
from bpa.ui.rendering import AnyRequest, Whole
from bpa.ui.views import dead_letters as view

_PAGE = 50


@get("/dead-letters")
async def list_dead_letters(
    request: AnyRequest,
    desk: NamedDependency[Desk],
    queue: FromQuery[str] = "",
    reason: FromQuery[str] = "",
    group: FromQuery[str] = "",
    cursor: FromQuery[str | None] = None,
) -> Response[str]:
    """Show the groups there are, and the letters of one or of all."""
    letters = desk.services.dead_letters
    groups = [DeadLetterGroup.of(row) for row in await letters.groups()]
    chosen = Filter(queue or None, reason or None, group or None)
    rows, following = await letters.page(chosen, cursor=cursor, limit=_PAGE)
    shown = view.letters(
        groups,
        [DeadLetterSummary.of(row) for row in rows],
        chosen,
        following=following,
    )
    return desk.render.page(request, "dead_letters.html", view=shown)


@get("/dead-letters/{letter_id:str}")
async def show_dead_letter(
    request: AnyRequest, letter_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Show one dead letter from inside, with what a replay would do."""
    wanted = LetterId.read(letter_id)
    letter = DeadLetter.of(await desk.services.dead_letters.get(wanted))
    found = (await desk.services.dead_letters.find([wanted])).get(wanted)
    shown = view.letter_page(letter, found.message.body if found else b"")
    return desk.render.page(request, "dead_letter.html", view=shown, body=Whole(shown.body))


HANDLERS = [list_dead_letters, show_dead_letter]
