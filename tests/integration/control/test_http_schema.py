"""The OpenAPI document: what it says is what is served."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.integration.control.fleet import Fleet, arrival
from tests.integration.control.rest import Rest, rest_over

DOCUMENTED = {
    ("post", "/v1/nodes:register"),
    ("get", "/v1/nodes"),
    ("get", "/v1/nodes/{node_id}"),
    ("post", "/v1/nodes/{node_id}:heartbeat"),
    ("post", "/v1/nodes/{node_id}:drain"),
    ("post", "/v1/nodes/{node_id}:cordon"),
    ("post", "/v1/nodes/{node_id}:uncordon"),
    ("delete", "/v1/nodes/{node_id}"),
    ("post", "/v1/lease/pull"),
    ("get", "/v1/runs"),
    ("get", "/v1/runs/{run_id}"),
    ("post", "/v1/runs/{run_id}:acknowledge"),
    ("post", "/v1/runs/{run_id}:refuse"),
    ("post", "/v1/runs/{run_id}:progress"),
    ("post", "/v1/runs/{run_id}:complete"),
    ("post", "/v1/runs/{run_id}:fail"),
    ("post", "/v1/runs/{run_id}:cancel"),
    ("post", "/v1/runs/{run_id}:retry"),
    ("get", "/v1/dead-letters"),
    ("get", "/v1/dead-letters/totals"),
    ("get", "/v1/dead-letters/groups"),
    ("get", "/v1/dead-letters/{dead_letter_id}"),
    ("get", "/v1/dead-letters/{dead_letter_id}/body"),
    ("post", "/v1/dead-letters:replay"),
    ("post", "/v1/operations"),
    ("post", "/v1/operations:preview"),
    ("get", "/v1/operations"),
    ("get", "/v1/operations/{operation_id}"),
    ("get", "/v1/operations/{operation_id}/items"),
    ("get", "/v1/operations/{operation_id}/sample"),
    ("post", "/v1/operations/{operation_id}:start"),
    ("post", "/v1/operations/{operation_id}:stop"),
    ("post", "/v1/runs/{run_id}/steps"),
    ("get", "/v1/runs/{run_id}/steps"),
    ("get", "/v1/runs/{run_id}/logs"),
    ("get", "/v1/runs/{run_id}/contents"),
    ("get", "/v1/totals"),
    ("get", "/v1/trends"),
    ("get", "/v1/status"),
    ("post", "/v1/agents"),
    ("get", "/v1/agents"),
    ("get", "/v1/agents/{agent_id}"),
    ("post", "/v1/agents/{agent_id}:version"),
    ("get", "/v1/agents/{agent_id}/versions/{version}"),
    ("post", "/v1/deployments"),
    ("get", "/v1/deployments"),
    ("get", "/v1/deployments/{deployment_id}"),
    ("post", "/v1/deployments/{deployment_id}:pause"),
    ("post", "/v1/deployments/{deployment_id}:resume"),
    ("put", "/v1/deployments/{deployment_id}"),
    ("post", "/v1/deployments/{deployment_id}:rollback"),
    ("post", "/v1/deployments/{deployment_id}:simulate"),
    ("get", "/v1/deployments/{deployment_id}/revisions"),
    ("get", "/v1/deployments/{deployment_id}/revisions/{revision}"),
    ("get", "/v1/breakers"),
    ("get", "/v1/queues"),
    ("get", "/v1/budgets"),
    ("get", "/v1/costs"),
    ("get", "/v1/events"),
    ("get", "/livez"),
    ("get", "/readyz"),
    ("get", "/startupz"),
    ("get", "/metrics"),
}


@pytest.fixture
async def rest(fleet: Fleet) -> AsyncIterator[Rest]:
    async with rest_over(fleet) as rest:
        yield rest


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


async def test_the_document_shows_the_paths_as_people_write_them(rest: Rest):
    document = (await rest.get("/schema")).json
    assert document == (await rest.get("/schema/openapi.json")).json
    assert document["openapi"].startswith("3.1")
    shown = {(method, path) for path, item in document["paths"].items() for method in item}
    assert shown == DOCUMENTED


async def test_everything_the_document_refers_to_is_in_it(rest: Rest):
    document = (await rest.get("/schema")).json
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.rpartition("/")[2] in schemas, reference
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    names = [
        operation["operationId"]
        for item in document["paths"].values()
        for operation in item.values()
    ]
    assert len(set(names)) == len(names)


async def test_each_operation_says_how_it_fails_and_creating_ones_what_they_accept(rest: Rest):
    paths = (await rest.get("/schema")).json["paths"]
    for item in paths.values():
        for operation in item.values():
            assert {"400", "500"} <= operation["responses"].keys()
            for status, answer in operation["responses"].items():
                if int(status) >= 400 and "Health" not in str(answer):
                    [content] = answer["content"].items()
                    reference = {"$ref": "#/components/schemas/Problem"}
                    assert content == ("application/problem+json", {"schema": reference})
            assert operation["description"]
    for path in (
        "/v1/agents",
        "/v1/agents/{agent_id}:version",
        "/v1/deployments",
        "/v1/operations",
    ):
        operation = paths[path]["post"]
        assert "201" in operation["responses"]
        assert "Idempotency-Key" in {one["name"] for one in operation["parameters"]}


async def test_bytes_are_documented_as_base64(rest: Rest):
    schemas = (await rest.get("/schema")).json["components"]["schemas"]
    assert schemas["Step"]["properties"]["intent"]["contentEncoding"] == "base64"
    assert schemas["RunSpec"]["properties"]["document"]["contentEncoding"] == "base64"
    assert schemas["Heartbeat"]["properties"]["bootId"]["maxLength"] == 4096


async def test_documents_have_names_of_their_own(rest: Rest):
    for name in (await rest.get("/schema")).json["components"]["schemas"]:
        assert "." not in name, f"{name}: another module names something else so; rename one"


async def test_times_are_documented_as_times(rest: Rest):
    schemas = (await rest.get("/schema")).json["components"]["schemas"]
    assert schemas["Costs"]["properties"]["since"]["anyOf"][0]["format"] == "date-time"
    for name, schema in schemas.items():
        for field, said in schema.get("properties", {}).items():
            if field.endswith("At"):
                (kind, *_) = said.get("anyOf", [said])
                assert kind.get("format") == "date-time", f"{name}.{field}: is it a Time?"


async def test_answers_are_what_the_document_says(rest: Rest, fleet: Fleet):
    document = (await rest.get("/schema")).json
    run_id = (await fleet.runs.receive(arrival())).run_id
    await fleet.register()
    for path, template in {
        f"/v1/runs/{run_id}": "/v1/runs/{run_id}",
        "/v1/runs": "/v1/runs",
        "/v1/nodes": "/v1/nodes",
        "/v1/agents": "/v1/agents",
        "/v1/deployments": "/v1/deployments",
        "/v1/totals": "/v1/totals",
        "/v1/queues": "/v1/queues",
        "/v1/trends": "/v1/trends",
        "/v1/status": "/v1/status",
        "/readyz": "/readyz",
    }.items():
        said = document["paths"][template]["get"]["responses"]["200"]
        [content] = said["content"].values()
        schema = {**content["schema"], "components": document["components"]}
        Draft202012Validator(schema).validate((await rest.get(path)).json)
