"""Where Prometheus comes from, and what is said where it cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from observability.programs import Missing, Programs, programs


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def put(folder: Path, *names: str, does: str = "true") -> None:
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)


def test_the_installed_one_is_taken(path: Path, tmp_path: Path) -> None:
    put(path, "prometheus", "promtool")
    found = programs(tmp_path / "folder")
    assert found == Programs(str(path / "prometheus"), str(path / "promtool"))
    assert not (tmp_path / "folder").exists()


@pytest.mark.usefixtures("path")
def test_where_there_is_no_apt_it_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="there is no apt") as missing:
        programs(tmp_path / "folder")
    assert not missing.value.could_be_had


def test_an_apt_that_fails_is_quoted_and_leaves_nothing(path: Path, tmp_path: Path) -> None:
    put(path, "apt-get", "apt-cache", "dpkg", does="echo no such mirror >&2; exit 100")
    with pytest.raises(Missing, match="no such mirror; try `apt install prometheus`") as missing:
        programs(tmp_path / "folder")
    assert missing.value.could_be_had
    assert [entry.name for entry in (tmp_path / "folder").iterdir()] == ["lock"]
