"""How the stub chooses a route."""

import pytest

from bpa.embedded.anthropic.routes import CATEGORIES, choose_route

OFFERED = ["general", "it", "logistics", "utilities", "professional-services", "facilities"]


def route(vendor="", words="", offered=OFFERED, total=None):
    return choose_route(offered, vendor=vendor, words=words, total=total).route


@pytest.mark.parametrize(
    ("vendor", "words", "expected"),
    [
        ("Nimbus Cloud Hosting Ltd", "", "it"),
        ("Acme", "Softwarelizenz Januar", "it"),
        ("Nube Ibérica", "Alojamiento de servidores", "it"),
        ("Brightwater Freight Ltd", "", "logistics"),
        ("Spedition Krüger GmbH", "", "logistics"),
        ("Acme", "Frachtkosten", "logistics"),
        ("Transportes Rápidos S.A.", "", "logistics"),
        ("Rheinkraft Stadtwerke GmbH", "", "utilities"),
        ("Acme", "Consumo de electricidad", "utilities"),
        ("Kanzlei Weber", "Beratung", "professional-services"),
        ("Cabinet Moreau", "conseil", "professional-services"),
        ("Limpiezas Sol", "Servicio de limpieza", "facilities"),
        ("Reinigungsdienst Blitz", "", "facilities"),
        ("Unheard Of", "something", "general"),
    ],
)
def test_words_in_three_languages_lead_to_a_route(vendor, words, expected):
    assert route(vendor, words) == expected


def test_the_vendors_name_outweighs_a_line():
    assert route("Brightwater Freight Ltd", "software for tracking") == "logistics"


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        (["general", "IT"], "IT"),
        (["general", "it-software"], "it-software"),
        (["general", "cloud_spend"], "cloud_spend"),
        (["general", "dept-technology"], "dept-technology"),
        (["general", "audit"], "general"),
    ],
)
def test_a_route_is_matched_against_what_the_deployment_offers(offered, expected):
    assert route("Nimbus Cloud", offered=offered) == expected


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        (["travel", "general"], "general"),
        (["travel", "manual-review"], "manual-review"),
        (["alpha", "beta"], "alpha"),
        (["only"], "only"),
    ],
)
def test_without_known_words_the_default_is_taken(offered, expected):
    assert route("Unheard Of", offered=offered) == expected


def test_an_unknown_vendor_with_a_large_amount_goes_to_review():
    offered = ["general", "manual-review"]
    assert route("Unheard Of", offered=offered, total="9.999,00") == "general"
    assert route("Unheard Of", offered=offered, total="10.000,00") == "manual-review"


def test_confidence_lies_between_zero_and_one_and_falls_with_doubt():
    sure = choose_route(OFFERED, vendor="Cloud Hosting Software", words="", total=None)
    torn = choose_route(OFFERED, vendor="Cloud Freight", words="", total=None)
    lost = choose_route(OFFERED, vendor="Unheard Of", words="", total=None)
    assert 1 >= sure.confidence > torn.confidence > lost.confidence >= 0
    assert all("\n" not in choice.reason for choice in (sure, torn, lost))


def test_every_category_is_reached_by_its_own_words():
    for category in CATEGORIES:
        reached = [word for word in category.words if route(word, offered=["x", category.name])]
        assert route(" ".join(category.words), offered=["x", category.name]) == category.name
        assert len(reached) == len(category.words)
