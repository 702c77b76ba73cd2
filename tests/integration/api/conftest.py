"""A control with its stores and a broker, for whoever comes with the document alone."""

from tests.integration.control.conftest import fleet, pool

__all__ = ["fleet", "pool"]
