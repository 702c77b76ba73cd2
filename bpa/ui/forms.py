"""What a form sends: short fields, checked where they come in."""

from __future__ import annotations

from collections.abc import Mapping

from bpa.errors import InvalidRequest
from bpa.ui.rendering import AnyRequest

FIELD_CHARS_MAX = 4_096


async def fields_of(request: AnyRequest, *, most: int = FIELD_CHARS_MAX) -> Mapping[str, str]:
    """Return a form's fields, the last of each name.

    Args:
        request: It has the form as its body.
        most: Characters of one field.

    Raises:
        InvalidRequest: A field is too long, is a file, or holds what cannot be stored.
    """
    fields: dict[str, str] = {}
    for name, value in (await request.form()).multi_items():
        if not isinstance(value, str):
            raise InvalidRequest(f"{name}: files are not taken here")
        if len(value) > most or "\0" in value:
            raise InvalidRequest(f"{name}: at most {most} characters, and none of them NUL")
        fields[name] = value
    return fields


async def chosen_of(request: AnyRequest, name: str) -> list[str]:
    """Return all values of one field, such as the marks in a list."""
    form = await request.form()
    return [value for value in form.getall(name, []) if isinstance(value, str)]
