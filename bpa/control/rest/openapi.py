"""The OpenAPI document: paths as people write them, documents as msgspec reads and writes them.

Litestar describes the operations. The documents they carry are described by msgspec itself, so
that bounds, defaults and encodings are those of the decoder: bytes, for one, are base64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import MediaType, Request, Response, Router
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import Schema
from litestar.plugins import OpenAPISchemaPlugin
from litestar.status_codes import HTTP_404_NOT_FOUND
from litestar.typing import FieldDefinition

from bpa import __version__
from bpa.control.rest.document import described
from bpa.control.rest.examples import EXAMPLES
from bpa.control.rest.schemas import Problem

_REFERENCE = "#/components/schemas/{name}"
_ABOUT = """\
Runs, dead letters, deployments, nodes and costs of BPA, business process agents.

Errors are problems (RFC 9457) with a `code` to program by and a `detail` to read. Lists come in
pages: `nextCursor`, or the header `Link`, leads to the next one. What may be edited has an `ETag`;
sent back as `If-Match` it guards the edit. Fields that a later release adds are to be ignored.
"""


class Structs(OpenAPISchemaPlugin):
    """Has Litestar refer to structs, and remembers which ones."""

    def __init__(self) -> None:
        self.seen: dict[type[msgspec.Struct], None] = {Problem: None}

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        """Take structs."""
        return not field_definition.is_union and field_definition.is_subclass_of(msgspec.Struct)

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: Any) -> Schema:
        """Register the struct by its name alone; its description comes later."""
        self.seen[field_definition.type_] = None
        schema: Schema = schema_creator.create_component_schema(
            field_definition, required=[], property_fields={}
        )
        return schema


class Document(OpenAPIRenderPlugin):
    """Renders the document, as JSON: pages that show it would fetch scripts from elsewhere."""

    def __init__(self, structs: Structs) -> None:
        super().__init__(path=["/openapi.json", "/"], media_type=MediaType.JSON)
        self._structs = structs

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the document."""
        _, components = msgspec.json.schema_components(
            list(self._structs.seen), ref_template=_REFERENCE
        )
        for example in EXAMPLES:
            components[type(example).__name__]["examples"] = [msgspec.to_builtins(example)]
        return msgspec.json.encode(described(openapi_schema, components))


def openapi_config(structs: Structs) -> OpenAPIConfig:
    """Return what has Litestar serve the document under ``/schema``."""
    return OpenAPIConfig(
        title="BPA control",
        version=__version__,
        description=_ABOUT,
        operation_id_creator=_operation_id,
        openapi_router=Router(
            "/schema", route_handlers=[], after_request=_found, include_in_schema=False
        ),
        render_plugins=[Document(structs)],
        use_handler_docstrings=True,
    )


async def _found(response: Response[Any]) -> Response[Any]:
    """Have the framework's own page for what is not under ``/schema`` answered as a problem."""
    if response.status_code == HTTP_404_NOT_FOUND:
        raise NotFoundException
    return response


def _operation_id(handler: HTTPRouteHandler, method: str, path: Sequence[object]) -> str:
    """Return the handler's name as generated clients write it: ``listRuns``."""
    first, *others = handler.handler_name.split("_")
    return first + "".join(other.title() for other in others)
