import pytest

from bpa.config import flatten, load
from bpa.errors import SettingsError, StartupError
from bpa.postgres import migrate
from bpa.valkey import open_valkey


def test_the_defaults_alone_are_valid():
    loaded = load({})
    assert loaded.settings.control.http_port == 8080
    assert set(loaded.origins.values()) == {"default"}


def test_flag_wins_over_environment_over_file(tmp_path):
    file = tmp_path / "bpa.toml"
    file.write_text(
        "[control]\nhttp_port = 1\ngrpc_port = 1\n[node]\nslots = 1\nlabels.region = 'aus-east'\n"
    )
    loaded = load(
        {"BPA_CONTROL__GRPC_PORT": "2", "BPA_NODE__SLOTS": "2"}, file, {"node.slots": "3"}
    )
    settings = loaded.settings
    assert (settings.control.http_port, settings.control.grpc_port, settings.node.slots) == (
        1,
        2,
        3,
    )
    assert settings.node.labels == {"region": "aus-east"}
    assert loaded.origins["node.slots"] == "flag"
    assert loaded.origins["control.grpc_port"] == "BPA_CONTROL__GRPC_PORT"
    assert loaded.origins["control.http_port"] == str(file)


def test_a_label_is_set_by_its_own_variable():
    settings = load({"BPA_NODE__LABELS__REGION": "aus-east"}).settings
    assert settings.node.labels == {"region": "aus-east"}


def test_every_wrong_key_is_reported_at_once_with_what_to_do(tmp_path):
    file = tmp_path / "bpa.toml"
    file.write_text("[control]\nhtp_port = 1\n")
    with pytest.raises(SettingsError) as caught:
        load({"BPA_NODE__SLOTS": "many", "BPA_NONSENSE": "1"}, file)
    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    assert "did you mean 'control.http_port'?" in problems
    assert "BPA_NODE__SLOTS" in problems
    assert "many" in problems
    assert "nonsense" in problems


def test_a_value_of_a_wrong_type_hides_no_other_problem():
    environ = {"BPA_CONTROL__LEASE_TTL_S": "long", "BPA_CONTROL__HTTP_PORT": "70000"}
    with pytest.raises(SettingsError) as caught:
        load({**environ, "BPA_CONTROL__HEARTBEAT_EVERY_S": "9"})
    wrong = [problem.partition(" =")[0] for problem in caught.value.problems]
    assert wrong == ["BPA_CONTROL__LEASE_TTL_S: control.lease_ttl_s", "control.http_port"]


def test_credentials_in_an_address_are_not_shown():
    address = "https://user:hunter2@api.example.com/invoices"
    shown = flatten(load({"BPA_HTTP_OUT__BASE_URL": address}).settings)
    assert shown["http_out.base_url"] == "https://***@api.example.com/invoices"


def test_labels_name_each_place_they_come_from(tmp_path):
    file = tmp_path / "bpa.toml"
    file.write_text("[node.labels]\nregion = 'here'\n")
    loaded = load({"BPA_NODE__LABELS__RACK": "4"}, file)
    assert loaded.settings.node.labels == {"region": "here", "rack": "4"}
    assert loaded.origins["node.labels"] == f"{file}, BPA_NODE__LABELS__RACK"


def test_a_wrong_secret_is_reported_without_its_value(tmp_path):
    file = tmp_path / "bpa.toml"
    file.write_text("anthropic.api_key = ['hunter2']\n")
    with pytest.raises(SettingsError, match=r"anthropic\.api_key") as caught:
        load({}, file)
    assert "hunter2" not in str(caught.value)


def test_a_secret_is_not_taken_from_a_flag():
    with pytest.raises(SettingsError, match="BPA_ANTHROPIC__API_KEY") as caught:
        load({}, flags={"anthropic.api_key": "hunter2"})
    assert "hunter2" not in str(caught.value)
    assert load({"BPA_ANTHROPIC__API_KEY": "k"}).settings.anthropic.api_key == "k"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BPA_CONTROL__HTTP_PORT", "70000"),
        ("BPA_NODE__SLOTS", "0"),
        ("BPA_CONTROL__LEASE_TTL_S", "1"),
        ("BPA_LOG__LEVEL", "loud"),
        ("BPA_POSTGRES__POOL_SIZE", "0"),
        ("BPA_CONTROL__HEARTBEAT_EVERY_S", "0"),
        ("BPA_CONTROL__REAP_EVERY_S", "-1"),
        ("BPA_ANTHROPIC__TIMEOUT_S", "nan"),
        ("BPA_HTTP_OUT__TIMEOUT_S", "0"),
        ("BPA_NODE__DRAIN_DEADLINE_S", "-1"),
        ("BPA_NODE__CONTROL", "control.example.com"),
        ("BPA_ANTHROPIC__BASE_URL", "api.example.com"),
        ("BPA_HTTP_OUT__BASE_URL", "api.example.com/invoices"),
        ("BPA_TELEMETRY__OTLP_ENDPOINT", "collector:4318"),
    ],
)
def test_a_value_out_of_range_is_refused(variable, value):
    with pytest.raises(SettingsError):
        load({variable: value})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BPA_NODE__DRAIN_DEADLINE_S", "0"),
        ("BPA_NODE__CONTROL", "[::1]:8081"),
        ("BPA_NODE__CONTROL", "/run/bpa/link"),
        ("BPA_HTTP_OUT__BASE_URL", "https://api.example.com/invoices"),
        ("BPA_TELEMETRY__OTLP_ENDPOINT", "http://collector:4318"),
    ],
)
def test_a_value_in_range_is_taken(variable, value):
    key = variable.removeprefix("BPA_").lower().replace("__", ".")
    assert flatten(load({variable: value}).settings)[key] in (value, 0.0)


def test_a_broken_file_is_one_clear_line(tmp_path):
    file = tmp_path / "bpa.toml"
    file.write_text("[control\n")
    with pytest.raises(SettingsError, match=r"bpa\.toml: cannot be read"):
        load({}, file)


def test_secrets_are_masked_when_shown():
    settings = load({"BPA_ANTHROPIC__API_KEY": "sk-secret"}).settings
    assert flatten(settings)["anthropic.api_key"] == "***"
    assert "sk-secret" not in str(flatten(settings))


async def test_an_address_that_cannot_be_read_is_not_repeated():
    for opening in (
        migrate("postgresql://u:se cret@host/db"),
        migrate("host=db password=two se=cret words"),
        open_valkey("redis://:se-cret@host:none/0", client_name="test"),
        open_valkey("se-cret", client_name="test"),
    ):
        with pytest.raises(StartupError, match="cannot be read") as caught:
            await opening
        assert "cret" not in str(caught.value)
        assert caught.value.__suppress_context__  # the driver's own message quotes it


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("javascript:alert({trace_id})", "http://host"),
        ("grafana/{trace_id}", "http://host"),
        ("https://u:pw@host/{trace_id}", "must not hold a user or password"),
        ("https://host/traces", "write {trace_id}"),
        ("https://host/{trace_id} x", "without a space"),
        ("https://host/{trace_id}\u202e", "without a space"),
    ],
)
def test_an_address_that_pages_link_to_is_checked_at_the_start(address: str, what: str):
    with pytest.raises(SettingsError) as caught:
        load({"BPA_TELEMETRY__TRACE_URL": address})
    assert what in str(caught.value)
    assert "pw" not in str(caught.value).replace("password", "")
    load({"BPA_TELEMETRY__TRACE_URL": 'https://host/explore?left={"query":"{trace_id}"}'})
    load({"BPA_TELEMETRY__LOGS_URL": "http://host/{run_id}"})


def test_contents_are_hidden_unless_somebody_decides_otherwise():
    assert load({}).settings.contents.show == "hidden"
    with pytest.raises(SettingsError):
        load({"BPA_CONTENTS__SHOW": "everything"})
