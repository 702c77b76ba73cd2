"""Agents and deployments as files: read, checked and completed before they are posted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from bpa.domain.specs import AgentSpec, DeploymentSpec
from bpa.errors import InvalidRequest


def shipped_config(config_dir: str) -> Path:
    """Return the folder that the settings name, or the shipped one: the checkout's or a wheel's."""
    if config_dir:
        return Path(config_dir)
    checkout = Path(__file__).resolve().parent.parent / "config"
    return checkout if checkout.is_dir() else Path(sys.prefix) / "share" / "bpa" / "config"


def read(path: Path) -> AgentSpec | DeploymentSpec:
    """Read one file: a deployment names an environment, an agent has instructions.

    ``inputSchema`` may be the path of a JSON Schema, relative to the file.

    Raises:
        InvalidRequest: The file cannot be read or says something else; one line with its path.
    """
    try:
        tree: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        schema = tree.get("inputSchema")
        if isinstance(schema, str):
            tree["inputSchema"] = msgspec.json.decode((path.parent / schema).read_bytes())
        if "environment" in tree:
            return msgspec.convert(tree, DeploymentSpec)
        return msgspec.convert(tree, AgentSpec)
    except (OSError, UnicodeDecodeError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidRequest(f"{path}: {error}") from error


def read_all(paths: list[Path]) -> tuple[list[AgentSpec], list[DeploymentSpec]]:
    """Read files, and the ``*.json`` of folders; agents come first, deployments need them.

    Raises:
        InvalidRequest: With every file that cannot be read.
    """
    specs: list[AgentSpec | DeploymentSpec] = []
    problems: list[str] = []
    for path in paths:
        for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
            try:
                specs.append(read(file))
            except InvalidRequest as error:
                problems.append(str(error))
    if problems:
        raise InvalidRequest("; ".join(problems), problems)
    return (
        [spec for spec in specs if isinstance(spec, AgentSpec)],
        [spec for spec in specs if isinstance(spec, DeploymentSpec)],
    )
