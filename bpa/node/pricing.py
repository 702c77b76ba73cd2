"""What model calls cost: a price list, and pure arithmetic in `Decimal`.

A model that is not on the list has no price. Its tokens are counted as unpriced and never as
0 USD, so that a missing line in ``prices.toml`` shows up as a number that somebody asks about.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import msgspec

from bpa.domain.journal import UnitPrice, Usage
from bpa.errors import SettingsError

_PER = Decimal(1_000_000)
_SNAPSHOT = re.compile(r"-\d{8}$")
"""The date that a provider appends to a model's name when it answers."""


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens of each kind."""

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write: Decimal

    @property
    def dearest_input(self) -> Decimal:
        """The most that one million input tokens can cost, however they are cached."""
        return max(self.input, self.cache_read, self.cache_write)


@dataclass(frozen=True, slots=True)
class Prices:
    """A price list with the source that is recorded beside every priced call."""

    source: str
    version: str
    models: Mapping[str, Price]

    @classmethod
    def parse(cls, toml: str, origin: str = "prices.toml") -> Prices:
        """Read a price list.

        Args:
            toml: ``version``, ``source`` and a table of decimal strings per model.
            origin: What to call the text in an error.

        Raises:
            SettingsError: It is not one; every wrong entry is named.
        """
        try:
            listed = msgspec.convert(tomllib.loads(toml), _List)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise SettingsError([f"{origin}: {error}"]) from error
        problems: list[str] = []
        models = {
            name: _price(f"{origin}: models.{name}", entry, problems)
            for name, entry in listed.models.items()
        }
        if problems:
            raise SettingsError(problems)
        return cls(listed.source, listed.version, models)

    def price_of(self, model: str) -> Price | None:
        """Return the model's price, also for a dated snapshot of a listed name."""
        return self.models.get(model) or self.models.get(_SNAPSHOT.sub("", model))

    def priced(self, usage: Usage, *models: str) -> Usage:
        """Return ``usage`` with its cost and the price it is from, or its tokens as unpriced.

        Args:
            usage: Of one call.
            models: What the answering model calls itself, then what was asked for: an answer under
                a name that nobody listed is not free.
        """
        price = next(filter(None, map(self.price_of, models)), None)
        if price is None:
            return msgspec.structs.replace(
                usage, cost_usd="0", unpriced_tokens=usage.total_tokens, price=None
            )
        unit = UnitPrice(
            input=plain(price.input),
            output=plain(price.output),
            cache_read=plain(price.cache_read),
            cache_write=plain(price.cache_write),
            source=self.source,
            version=self.version,
        )
        priced = msgspec.structs.replace(usage, unpriced_tokens=0, price=unit)
        return msgspec.structs.replace(priced, cost_usd=plain(cost_of(priced)))

    def dearest_token_usd(self, model: str) -> Decimal:
        """Return the most that one token of any kind can cost; 0 for a model without a price."""
        price = self.price_of(model)
        return max(price.dearest_input, price.output) / _PER if price else Decimal(0)

    def cost_at_most(self, model: str, input_tokens: int, output_tokens: int) -> Decimal | None:
        """Return the most USD that a call can cost, or None for a model without a price."""
        price = self.price_of(model)
        if price is None:
            return None
        return (price.dearest_input * input_tokens + price.output * output_tokens) / _PER


def cost_of(usage: Usage) -> Decimal:
    """Return what a usage costs at the price that is recorded with it; 0 where there is none."""
    price = usage.price
    if price is None:
        return Decimal(0)
    return (
        Decimal(price.input) * usage.input_tokens
        + Decimal(price.output) * usage.output_tokens
        + Decimal(price.cache_read) * usage.cache_read_tokens
        + Decimal(price.cache_write) * usage.cache_write_tokens
    ) / _PER


def plain(amount: Decimal) -> str:
    """Return an amount without an exponent and without zeros that say nothing."""
    return format(amount.normalize(), "f")


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    input: str
    output: str
    cache_read: str
    cache_write: str


class _List(msgspec.Struct, forbid_unknown_fields=True):
    version: str
    source: str
    models: dict[str, _Entry]


def _price(where: str, entry: _Entry, problems: list[str]) -> Price:
    amounts: list[Decimal] = []
    for kind in ("input", "output", "cache_read", "cache_write"):
        text: str = getattr(entry, kind)
        try:
            amount = Decimal(text)
        except InvalidOperation:
            amount = Decimal(-1)
        if not amount.is_finite() or amount < 0:
            problems.append(f"{where}.{kind} = {text!r}: write USD per million tokens, as '3.00'")
            amount = Decimal(0)
        amounts.append(amount)
    return Price(*amounts)
