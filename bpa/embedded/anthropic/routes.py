"""Choose a route out of those a deployment offers. Pure.

A category has names under which deployments offer it and words, in English, German, Spanish and
French, that speak for it. A word of the vendor's name counts three, a word of the lines one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from bpa.embedded.anthropic.facts import amount

VENDOR_WEIGHT = 3
LARGE_AMOUNT = 10_000.0


@dataclass(frozen=True, slots=True)
class Category:
    """One kind of purchase: the names routes give it, and the words that speak for it.

    Words of five letters and more also match as a beginning, of German compounds as an end too.
    """

    name: str
    offered_as: tuple[str, ...]
    words: tuple[str, ...]


def _category(name: str, offered_as: str, words: str) -> Category:
    return Category(name, (name, *offered_as.split()), tuple(words.split()))


CATEGORIES: tuple[Category, ...] = (
    _category(
        "it",
        "software cloud saas technology tech ict informatik edv hardware ti informatique "
        "informatica it-services it-software engineering",
        "software cloud saas hosting server domain licence license lizenz licencia licences "
        "subscription subscripción suscripción abonnement laptop notebook computer ordenador "
        "ordinateur monitor webhosting datacenter rechenzentrum database datenbank backup "
        "storage speicher firewall api informatica informática informatique compute kubernetes "
        "gpu vpn helpdesk edv systems digital desarrollo développement entwicklung hosted "
        "alojamiento servidor serveur nube nuage",
    ),
    _category(
        "logistics",
        "freight shipping transport transportation logistik logistica logistique delivery "
        "warehouse supply-chain fleet",
        "freight logistics logistic logistik logística logistica logistique shipping shipment "
        "transport transporte transports spedition fracht versand haulage courier kurier envío "
        "envíos mensajería container pallet palette palé warehouse "
        "lager lagerung almacén almacenaje entrepôt cargo parcel paket paquete colis customs "
        "zoll aduana douane flete trucking",
    ),
    _category(
        "utilities",
        "energy utility energie energia electricity power water telecom",
        "energy energie energía energia électricité electricity strom electricidad eléctrica "
        "gas gaz water wasser agua eau utility utilities kwh stadtwerke heating heizung "
        "calefacción chauffage power netzentgelt meter zähler contador compteur fernwärme solar "
        "telecom telekom telefonía internet broadband",
    ),
    _category(
        "professional-services",
        "professional services consulting legal advisory professional_services beratung "
        "consultoria conseil audit accounting",
        "legal law lawyer attorney solicitor consulting consultancy consultant advisory audit "
        "accounting tax-advice beratung rechtsanwalt rechtsanwälte kanzlei steuerberater "
        "wirtschaftsprüfung anwalt notar consultoría consultoria asesoría asesoramiento "
        "abogados abogado auditoría contabilidad conseil avocat avocats cabinet juridique "
        "comptable notaire expertise counsel translation übersetzung training schulung",
    ),
    _category(
        "facilities",
        "facility maintenance cleaning rent property gebäude building real-estate premises",
        "cleaning reinigung limpieza nettoyage maintenance wartung mantenimiento entretien "
        "facility facilities gebäude edificio bâtiment rent miete alquiler loyer hausmeister "
        "janitorial repair reparatur reparación réparation elektro elektriker plumbing security "
        "sicherheit seguridad gardening lease nebenkosten betriebskosten grundbesitz "
        "installation handwerk montage aufzug elevator",
    ),
    _category(
        "office",
        "office-supplies stationery supplies buero büro bureau oficina procurement",
        "office büro buero oficina bureau stationery papelería papeterie papier paper papel "
        "bürobedarf toner druckerpapier envelopes umschläge sobres enveloppes pens stifte "
        "bolígrafos stylos ordner trennblätter folders archivadores desk schreibtisch "
        "escritorio chair stuhl stühle silla chaise furniture möbel muebles mobilier whiteboard "
        "cartridge printing druck impresión imprimerie fournitures",
    ),
    _category(
        "marketing",
        "advertising media werbung publicidad publicité communications events",
        "marketing advertising werbung publicidad publicité campaign kampagne campaña campagne "
        "anzeige annonce media seo branding agency agentur agencia agence brochure flyer event "
        "messe feria salon presse",
    ),
    _category(
        "travel",
        "travel-expenses expenses reise viajes voyage t-and-e",
        "travel reise reisen viaje viajes voyage voyages hotel flight flug vuelo airline "
        "taxi mietwagen autovermietung rental-car train bahn tren rail accommodation "
        "übernachtung alojamientos hébergement",
    ),
    _category(
        "insurance",
        "insurances versicherung seguros assurance",
        "insurance versicherung versicherungsverein seguro seguros assurance assurances "
        "póliza prämie versicherungsschein",
    ),
    _category(
        "catering",
        "food catering-food hospitality verpflegung",
        "catering food lebensmittel alimentos alimentation coffee kaffee café beverage getränke "
        "bebidas boissons restaurant bakery bäckerei panadería boulangerie fruit obst lunch "
        "kantine moulin",
    ),
    _category(
        "manufacturing",
        "materials raw-materials production direct-materials parts industrial",
        "steel stahl acero acier metal metall metallbau machine machinery maschine maschinenbau "
        "maquinaria tooling werkzeug herramienta outil bearing lager-teile bolts schrauben "
        "tornillos vis raw rohstoff components bauteile componentes pump pumpe bomba valve "
        "ventil válvula chemicals chemie plastics kunststoff",
    ),
)
_FALLBACKS = ("general", "manual-review", "manual_review", "review", "other", "default", "misc")
_REVIEWS = ("manual-review", "manual_review", "review", "approval", "high-value")
_WORD = re.compile(r"[^\W\d_][\w-]*")
_STEM = 5
_COMPOUND = 9
_INDEX = {word: item.name for item in reversed(CATEGORIES) for word in item.words}


@dataclass(frozen=True, slots=True)
class Choice:
    """A route, how sure the rules are of it (0..1), and why in one line."""

    route: str
    confidence: float
    reason: str


def choose_route(
    offered: Sequence[str], *, vendor: str | None, words: str, total: str | None
) -> Choice:
    """Choose one of ``offered``, which must not be empty."""
    routes = {name: route for name in _names() if (route := _offer(name, offered)) is not None}
    vendor_hits, line_hits = _hits(vendor or ""), _hits(words)
    scores = Counter({name: VENDOR_WEIGHT * count for name, count in vendor_hits.items()})
    scores.update(line_hits)
    ranked = sorted(
        ((score, name) for name, score in scores.items() if name in routes),
        key=lambda item: (-item[0], _names().index(item[1])),
    )
    if not ranked:
        return _fallback(offered, total, knows_vendor=vendor is not None)
    best, name = ranked[0]
    rest = ranked[1][0] if len(ranked) > 1 else 0
    share = best / (best + rest)
    confidence = 0.5 + 0.3 * share + min(best, 6) / 6 * 0.18
    where = "the vendor's name" if vendor_hits.get(name) else "the lines"
    return Choice(routes[name], round(confidence, 2), f"Words for {name} in {where}.")


def _fallback(offered: Sequence[str], total: str | None, *, knows_vendor: bool) -> Choice:
    large = abs(amount(total)) >= LARGE_AMOUNT
    plain = {route.strip().lower(): route for route in offered}
    for name in (*_REVIEWS, *_FALLBACKS) if large else _FALLBACKS:
        if name in plain:
            return Choice(
                plain[name],
                0.4 if knows_vendor else 0.2,
                "No known words; large amount." if large else "No known words in the document.",
            )
    return Choice(offered[0], 0.3 if knows_vendor else 0.1, "No known words; the first route.")


@lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    return tuple(item.name for item in CATEGORIES)


@lru_cache(maxsize=1024)
def _offer_of(name: str, offered: tuple[str, ...]) -> str | None:
    item = next(item for item in CATEGORIES if item.name == name)
    plain = [(route, re.sub(r"[\s_]+", "-", route.strip().lower())) for route in offered]
    for alias in item.offered_as:
        for route, text in plain:
            if text == alias:
                return route
    for alias in item.offered_as:
        for route, text in plain:
            if alias in text.split("-"):
                return route
    return None


def _offer(name: str, offered: Sequence[str]) -> str | None:
    return _offer_of(name, tuple(offered))


def _hits(text: str) -> Counter[str]:
    hits: Counter[str] = Counter()
    for word in set(_WORD.findall(text.lower())):
        name = _speaks_for(word)
        if name is not None:
            hits[name] += 1
    return hits


@lru_cache(maxsize=8192)
def _speaks_for(word: str) -> str | None:
    """Return the category a lower-case word speaks for; also "softwarelizenz", "büropapier"."""
    if word in _INDEX:
        return _INDEX[word]
    for length in range(len(word) - 1, _STEM - 1, -1):
        name = _INDEX.get(word[:length])
        if name is not None:
            return name
    if len(word) >= _COMPOUND:
        for start in range(1, len(word) - _STEM + 1):
            name = _INDEX.get(word[start:])
            if name is not None:
                return name
    return None
