"""Read an invoice that comes as JSON or XML, in our own fields or in another dialect. Pure.

XML becomes the same tree of dictionaries that JSON gives, under local names, so that one walk
finds a field in UBL, CII, FatturaPA, CFDI, GOBL and home-made dialects: by a key that names it,
the shallowest first, and never inside the buyer's part.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from bpa.embedded.anthropic.facts import CREDIT_WORDS, Facts, terms

Tree = dict[str, Any] | list[Any] | str | int | float | bool | None

_VENDOR = terms(
    "vendor vendorname seller sellername supplier suppliername accountingsupplierparty "
    "sellertradeparty sellersupplierparty issuer issuername emisor proveedor fournisseur "
    "emetteur lieferant verkaeufer verkäufer rechnungssteller cedenteprestatore from"
)
_NAME = terms(
    "registrationname legalname companyname partyname denominazione razonsocial nombre name "
    "partylegalentity partytradename tradename value text"
)
_BUYER = frozenset(
    terms(
        "buyer buyername customer customername accountingcustomerparty buyertradeparty receptor "
        "cliente client kunde kaeufer käufer cessionariocommittente billto shipto to recipient "
        "deliveryparty shiptotradeparty payeeparty invoiceetradeparty"
    )
)
_ID = terms(
    "invoiceid|invoicenumber|invoiceno|rechnungsnummer|creditnoteid|creditnotenumber "
    "id|number|num|numero|numéro|nummer|code|folio|docno reference"
)
_TOTAL = terms(
    "grandtotal grandtotalamount taxinclusiveamount totalwithtax importototaledocumento "
    "gesamtbetrag bruttobetrag total totalamount amount amountdue duepayableamount "
    "payableamount payable"
)
_CURRENCY = terms(
    "currency currencycode documentcurrencycode invoicecurrencycode divisa moneda devise "
    "waehrung währung currencyid"
)
_DATE = terms(
    "issuedon issuedate invoicedate dateissued issued date datum rechnungsdatum fecha "
    "issuedatetime datetimestring data"
)
_KIND = terms("kind doctype documenttype type typecode invoicetypecode creditnotetypecode tipo")
_CREDIT_CODES = frozenset({"381", "396", "261", "cn", "credit-note", "credit_note", "creditnote"})
_WORDS = frozenset(
    terms(
        "description name item itemname note notes text title subject category service product "
        "beschreibung bezeichnung descripcion descripción désignation concepto descrizione lines "
        "line_items lineitems memo purpose"
    )
)
_MARKS = re.compile(r"[^a-z0-9à-ÿ]")
_DATE_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T")
_MAX_DEPTH = 64


def read_tree(tree: Tree) -> Facts:
    """Return the facts of a JSON value or of ``xml_tree``'s result."""
    nodes = [item for item in _walk(tree) if isinstance(item[2], str | int | float | dict | list)]
    kind = _text(_first(nodes, _KIND))
    is_credit = _is_credit(tree, kind)
    return Facts(
        vendor=_name(_first(nodes, _VENDOR)),
        invoice_id=_text(_first(nodes, _ID)),
        total=_text(_first(nodes, _TOTAL)),
        currency=_text(_first(nodes, _CURRENCY)),
        issued_on=_date(_first(nodes, _DATE)),
        kind=kind,
        words=" ".join(_words(nodes)),
        is_credit=is_credit,
    )


def xml_tree(text: str) -> dict[str, Tree] | None:
    """Parse XML without a DTD into dictionaries under local names; None if it is no XML."""
    try:
        root = fromstring(text.strip(), forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, RecursionError):
        return None
    return {_local(root.tag): _element(root, 0)}


def _element(element: Element, depth: int) -> Tree:
    content = (element.text or "").strip()
    attributes = {_local(name): value for name, value in element.attrib.items()}
    if len(element) == 0 and (content or not attributes):
        return {"value": content, **attributes} if attributes else content
    node: dict[str, Tree] = dict(attributes)
    if depth >= _MAX_DEPTH:
        return node
    for child in element:
        name, value = _local(child.tag), _element(child, depth + 1)
        known = node.get(name)
        if name not in node:
            node[name] = value
        elif isinstance(known, list):
            known.append(value)
        else:
            node[name] = [known, value]
    return node


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _walk(tree: Tree) -> Iterator[tuple[str, int, Tree]]:
    """Yield (key, depth, value) breadth first, leaving the buyer's part out."""
    queue: deque[tuple[str, int, Tree]] = deque([("", 0, tree)])
    while queue:
        key, depth, value = queue.popleft()
        if key:
            yield key, depth, value
        if depth > _MAX_DEPTH:
            continue
        if isinstance(value, dict):
            for name, child in value.items():
                plain = _MARKS.sub("", name.rpartition(":")[2].lower())
                if plain not in _BUYER:
                    queue.append((plain, depth + 1, child))
        elif isinstance(value, list):
            queue.extend((key, depth + 1, child) for child in value)


def _first(nodes: list[tuple[str, int, Tree]], keys: tuple[str, ...]) -> Tree:
    """Return the value whose key ranks first (``a|b`` rank alike); of those the shallowest."""
    rank = {key: index for index, group in enumerate(keys) for key in group.split("|")}
    found = [
        (rank[key], depth, index)
        for index, (key, depth, value) in enumerate(nodes)
        if key in rank and value not in ("", {}, [])
    ]
    return nodes[min(found)[2]][2] if found else None


def _name(value: Tree) -> str | None:
    if isinstance(value, str):
        return " ".join(value.split()) or None
    if isinstance(value, dict | list):
        return _name(_first(list(_walk(value)), _NAME))
    return None


def _text(value: Tree) -> str | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, dict):
        return _text(value.get("value", next(iter(value.values()), None)))
    if isinstance(value, list):
        return _text(value[0]) if value else None
    return str(value).strip() or None


def _date(value: Tree) -> str | None:
    """Return a date as it is written, without the time of day behind it."""
    text = _text(value)
    return text[:10] if text and _DATE_TIME.match(text) else text


def _is_credit(tree: Tree, kind: str | None) -> bool:
    root = next(iter(tree), "") if isinstance(tree, dict) else ""
    if root.rpartition(":")[2].lower() == "creditnote":
        return True
    said = (kind or "").lower()
    return said in _CREDIT_CODES or bool(CREDIT_WORDS.search(said.replace("_", " ")))


def _words(nodes: list[tuple[str, int, Tree]]) -> Iterator[str]:
    for key, _, value in nodes:
        if isinstance(value, str) and key in _WORDS:
            yield value
