"""Currencies by code, symbol and name."""

from __future__ import annotations

# The active codes of ISO 4217 for money (no metals, funds or test codes).
_ACTIVE = """
    AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN
    BZD CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS
    GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW
    KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD
    NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD
    SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED
    VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
"""
CODES = frozenset(_ACTIVE.split())

# Three decimals are cents here, where elsewhere three digits after a point are a group.
THREE_DECIMALS = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})

DOLLARS = frozenset({"AUD", "CAD", "FJD", "HKD", "NZD", "SGD", "TWD", "USD"})

# Only marks that mean one currency; a bare $ is the US dollar (see quotes for its guard).
_MARKS = {
    "$": "USD",
    "us$": "USD",
    "a$": "AUD",
    "au$": "AUD",
    "c$": "CAD",
    "ca$": "CAD",
    "nz$": "NZD",
    "hk$": "HKD",
    "s$": "SGD",
    "r$": "BRL",
    "€": "EUR",
    "£": "GBP",
    "₹": "INR",
    "zł": "PLN",
    "kč": "CZK",
    "fr.": "CHF",
    "sfr": "CHF",
    "sfr.": "CHF",
    "eur": "EUR",
    "euro": "EUR",
    "euros": "EUR",
    "us dollars": "USD",
    "us-dollar": "USD",
    "dólares estadounidenses": "USD",
    "pounds sterling": "GBP",
    "pfund sterling": "GBP",
    "libras esterlinas": "GBP",
    "swiss francs": "CHF",
    "schweizer franken": "CHF",
    "francs suisses": "CHF",
    "francos suizos": "CHF",
    "australian dollars": "AUD",
    "australische dollar": "AUD",
}


def currency_of(mark: str) -> str | None:
    """Return the ISO 4217 code that ``mark`` names, or None.

    Codes count in capitals only: ``all`` and ``try`` are words before they are currencies.
    """
    mark = " ".join(mark.split())
    return mark if mark in CODES else _MARKS.get(mark.casefold())
