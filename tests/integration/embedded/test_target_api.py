"""The target API over real HTTP."""

import asyncio
import json

import aiohttp
import pytest

from bpa.embedded.target import TargetApi, TargetOptions
from bpa.errors import StartupError
from tests.eventually import eventually

INVOICE = {
    "run_id": "r-1",
    "invoice_id": "INV-1",
    "vendor": "Acme Ltd",
    "route": "it",
    "confidence": 0.9,
    "currency": "EUR",
    "total": "12.50",
    "issued_on": "2026-03-04",
    "kind": "invoice",
}


class Caller:
    """Posts invoices and talks to the control endpoints."""

    def __init__(self, session, url):
        self.session = session
        self.url = url

    async def post(self, body=None, key='"k-1"', path="/invoices"):
        data = body if isinstance(body, bytes) else json.dumps(body or INVOICE).encode()
        headers = {} if key is None else {"Idempotency-Key": key}
        async with self.session.post(self.url + path, data=data, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None), answer.headers

    async def control(self, method, name, **arguments):
        async with self.session.request(method, f"{self.url}/_target/{name}", **arguments) as got:
            assert got.status == 200, await got.text()
            return await got.json()

    async def script(self, *rules):
        return await self.control("PUT", "script", json={"rules": list(rules)})

    async def tries(self, key="k-1"):
        items = (await self.control("GET", "tries", params={"key": key}))["items"]
        return items[0] if items else None


@pytest.fixture
async def target():
    async with TargetApi(TargetOptions(finish_s=0.5)) as running:
        yield running


@pytest.fixture
async def caller(target):
    async with aiohttp.ClientSession() as session:
        yield Caller(session, target.url)


async def test_an_invoice_is_applied_once_and_its_answer_repeated(caller):
    first = await caller.post()
    again = await caller.post()
    assert first[0] == again[0] == 201
    assert first[1] == again[1]
    assert first[1]["accepted"] is True
    assert "Idempotent-Replayed" not in first[2]
    assert again[2]["Idempotent-Replayed"] == "true"
    received = await caller.control("GET", "received")
    assert [item["body"] for item in received["items"]] == [INVOICE]
    assert received["items"][0]["tries"] == 2
    stats = await caller.control("GET", "stats")
    assert (stats["applied"], stats["replayed"], stats["tries"]) == (1, 1, 2)


async def test_a_changed_body_under_a_used_key_is_refused(caller):
    await caller.post()
    status, problem, headers = await caller.post({**INVOICE, "total": "99.00"})
    assert status == 422
    assert problem["code"] == "key_reused"
    assert headers["Content-Type"].startswith("application/problem+json")
    received = await caller.control("GET", "received")
    assert [item["body"]["total"] for item in received["items"]] == ["12.50"]
    assert (await caller.tries())["bodies"] == 2


async def test_the_same_invoice_under_two_keys_is_applied_twice(caller):
    await caller.post(key='"a"')
    await caller.post(key='"b"')
    assert (await caller.control("GET", "stats"))["applied"] == 2


@pytest.mark.parametrize("key", [None, "k-1", "'k-1'", '""', '"a"b"', f'"{"x" * 256}"'])
async def test_a_key_that_is_no_quoted_string_is_refused(caller, key):
    status, problem, _ = await caller.post(key=key)
    assert status == 400
    assert problem["code"] == "idempotency_key"
    assert (await caller.control("GET", "stats"))["rejected"] == {"400": 1}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("total", 12.5),
        ("total", "12,50"),
        ("total", "NaN"),
        ("currency", "eur"),
        ("currency", "EURO"),
        ("issued_on", "04.03.2026"),
        ("issued_on", "2026-02-30"),
        ("issued_on", "20260304"),
        ("kind", "receipt"),
        ("confidence", 1.5),
        ("confidence", "0.9"),
        ("vendor", ""),
        ("run_id", None),
        ("unknown", 1),
    ],
)
async def test_a_wrong_field_is_refused_by_name_and_the_key_stays_free(caller, field, value):
    status, problem, _ = await caller.post({**INVOICE, field: value})
    assert status == 422
    assert field in problem["detail"]
    assert (await caller.post())[0] == 201


@pytest.mark.parametrize("missing", sorted(INVOICE))
async def test_every_field_is_required(caller, missing):
    body = {name: value for name, value in INVOICE.items() if name != missing}
    status, problem, _ = await caller.post(body)
    assert status == 422
    assert missing in problem["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
async def test_a_body_that_is_no_json_object_is_refused(caller, body):
    async with caller.session.post(
        caller.url + "/invoices", data=body, headers={"Idempotency-Key": '"k"'}
    ) as answer:
        assert answer.status == 400


async def test_a_body_over_the_limit_is_refused(caller):
    status, problem, _ = await caller.post(b" " * (256 * 1024 + 1))
    assert (status, problem["code"]) == (413, "too_large")


async def test_negative_totals_and_credit_notes_are_fine(caller):
    body = {**INVOICE, "total": "-8.79", "kind": "credit_note"}
    assert (await caller.post(body))[0] == 201


async def test_a_key_in_flight_gets_409_and_its_body_is_applied_once(caller):
    await caller.script({"latency_ms": 600_000, "times": 1}, {"latency_ms": 0})
    async with aiohttp.ClientSession() as other:
        waiting = asyncio.ensure_future(Caller(other, caller.url).post())

        async def refused():
            return await caller.tries()

        await eventually(refused)
        assert (await caller.post())[0] == 409
        assert (await caller.post({**INVOICE, "total": "1"}))[0] == 422
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert (await caller.control("GET", "stats"))["applied"] == 0


async def test_concurrent_repeats_of_one_key_apply_once(caller):
    await caller.script({"latency_ms": 20})
    answers = await asyncio.gather(*(caller.post() for _ in range(10)))
    assert sorted({status for status, _, _ in answers}) == [201, 409]
    assert (await caller.control("GET", "stats"))["applied"] == 1


async def test_told_to_fail_it_fails_so_often_and_then_applies(caller):
    await caller.script(
        {"match": {"vendor": "Acme Ltd"}, "status": 503, "times": 3, "retry_after_s": 0.2}
    )
    statuses = []
    for _ in range(4):
        status, _, headers = await caller.post()
        statuses.append(status)
        if status == 503:
            assert headers["Retry-After"] == "1"
    assert statuses == [503, 503, 503, 201]
    tries = await caller.tries()
    assert tries["tries"] == 4
    assert tries["outcomes"] == {"scripted:503": 3, "applied": 1}
    assert tries["bodies"] == 1
    assert (await caller.control("GET", "stats"))["failed"] == {"503": 3}


@pytest.mark.parametrize(
    "match",
    [{"vendor": "Other"}, {"invoice_id": "INV-2"}, {"key_prefix": "x"}, {"contains": "GBP"}],
)
async def test_a_rule_leaves_other_requests_alone(caller, match):
    await caller.script({"match": match, "status": 503})
    assert (await caller.post())[0] == 201


@pytest.mark.parametrize(
    "match",
    [{"vendor": "Acme Ltd"}, {"invoice_id": "INV-1"}, {"key_prefix": "k-"}, {"contains": "EUR"}],
)
async def test_a_rule_for_ever_fails_until_it_is_taken_back(caller, match):
    await caller.script({"match": match, "status": 422})
    for _ in range(3):
        status, problem, _ = await caller.post()
        assert (status, problem["code"]) == (422, "scripted")
    await caller.control("DELETE", "script")
    assert (await caller.post())[0] == 201


async def test_every_nth_request_fails(caller):
    await caller.script({"every": 3, "status": 500})
    statuses = [(await caller.post(key=f'"{number}"'))[0] for number in range(6)]
    assert statuses == [201, 201, 500, 201, 201, 500]


@pytest.mark.parametrize(("drop", "applied"), [("before", 0), ("after", 1)])
async def test_a_dropped_connection_has_or_has_not_applied(caller, drop, applied):
    await caller.script({"drop": drop, "times": 1})
    with pytest.raises(aiohttp.ClientConnectionError):
        await caller.post()
    stats = await caller.control("GET", "stats")
    assert stats["applied"] == applied
    assert stats["dropped"] == {drop: 1}
    status, _, headers = await caller.post()
    assert status == 201
    assert ("Idempotent-Replayed" in headers) is bool(applied)
    assert (await caller.control("GET", "stats"))["applied"] == 1


async def test_what_was_received_is_paged_in_order(caller):
    for number in range(5):
        await caller.post(key=f'"k-{number}"', path=f"/v2/in/{number}")
    keys, cursor = [], "0"
    while cursor is not None:
        page = await caller.control("GET", "received", params={"cursor": cursor, "limit": "2"})
        keys += [(item["sequence"], item["key"], item["path"]) for item in page["items"]]
        cursor = page["next_cursor"]
        assert page["total"] == 5
    assert keys == [(n + 1, f"k-{n}", f"/v2/in/{n}") for n in range(5)]


async def test_a_reset_forgets_keys_and_counts(caller):
    await caller.post()
    await caller.control("DELETE", "received")
    assert (await caller.control("GET", "stats"))["applied"] == 0
    assert "Idempotent-Replayed" not in (await caller.post())[2]


@pytest.mark.parametrize(
    "rules",
    [{}, {"rules": [{"staus": 503}]}, {"rules": [{"status": 200}]}, {"rules": [{"every": 0}]}],
)
async def test_a_wrong_script_is_refused_and_changes_nothing(caller, rules):
    await caller.script({"status": 418})
    async with caller.session.put(f"{caller.url}/_target/script", json=rules) as answer:
        assert answer.status == 400
    assert (await caller.post())[0] == 418


async def test_invoices_are_only_posted(caller):
    async with caller.session.get(f"{caller.url}/invoices") as answer:
        assert answer.status == 405
    async with caller.session.get(f"{caller.url}/health") as answer:
        assert answer.status == 200


async def test_a_taken_port_is_named_with_its_setting(target):
    other = TargetApi(TargetOptions(port=target.port, port_setting="target.port"))
    with pytest.raises(StartupError, match=rf"port {target.port} .*target\.port") as caught:
        await other.start()
    assert "\n" not in str(caught.value)


async def test_what_was_applied_survives_a_restart(tmp_path):
    async with aiohttp.ClientSession() as session:
        async with TargetApi(TargetOptions(data_dir=tmp_path)) as first:
            before = await Caller(session, first.url).post()
        async with TargetApi(TargetOptions(data_dir=tmp_path)) as second:
            caller = Caller(session, second.url)
            after = await caller.post()
            changed = await caller.post({**INVOICE, "total": "1"})
            stats = await caller.control("GET", "stats")
    assert after[1] == before[1]
    assert after[2]["Idempotent-Replayed"] == "true"
    assert changed[0] == 422
    assert stats["applied"] == 1


async def test_a_reset_also_empties_the_disk(tmp_path):
    async with aiohttp.ClientSession() as session:
        async with TargetApi(TargetOptions(data_dir=tmp_path)) as first:
            caller = Caller(session, first.url)
            await caller.post(key='"old"')
            await caller.control("DELETE", "received")
            await caller.post(key='"new"')
        async with TargetApi(TargetOptions(data_dir=tmp_path)) as second:
            received = await Caller(session, second.url).control("GET", "received")
    assert [item["key"] for item in received["items"]] == ["new"]


async def test_a_torn_last_line_is_cut_off(tmp_path):
    async with aiohttp.ClientSession() as session:
        async with TargetApi(TargetOptions(data_dir=tmp_path)) as first:
            await Caller(session, first.url).post()
        with (tmp_path / "received.jsonl").open("ab") as file:
            file.write(b'{"key":"half')
        async with TargetApi(TargetOptions(data_dir=tmp_path)) as second:
            assert (await Caller(session, second.url).post(key='"k-2"'))[0] == 201
        async with TargetApi(TargetOptions(data_dir=tmp_path)) as third:
            stats = await Caller(session, third.url).control("GET", "stats")
    assert stats["applied"] == 2


async def test_a_damaged_line_in_the_middle_stops_the_start(tmp_path):
    (tmp_path / "received.jsonl").write_bytes(b'{"key":"half\n{}\n')
    with pytest.raises(StartupError, match="line 1"):
        await TargetApi(TargetOptions(data_dir=tmp_path)).start()


async def test_two_targets_do_not_share_a_directory(tmp_path):
    async with TargetApi(TargetOptions(data_dir=tmp_path)):
        with pytest.raises(StartupError, match="another process"):
            await TargetApi(TargetOptions(data_dir=tmp_path)).start()
