"""What pages work with."""

from __future__ import annotations

from dataclasses import dataclass

from bpa.control.rest.services import Services
from bpa.ui.assets import Assets
from bpa.ui.rendering import Renderer
from bpa.ui.views.run_facts import Outside


@dataclass(frozen=True, slots=True)
class Desk:
    """Control's services, and what turns their answers into pages."""

    services: Services
    assets: Assets
    render: Renderer
    environment: str
    """The name of what is served, such as ``dev``."""
    outside: Outside
    """Where others keep traces and log lines."""
