"""Which queues there are at a start, when Config.json and the journal disagree."""

from bpa.embedded.service_bus.config import QueueConfig, Status
from bpa.embedded.service_bus.entities import Entity, decode, merge

FILE = QueueConfig("Orders", max_delivery_count=5)
EDITED = QueueConfig("Orders", max_delivery_count=7)
CHANGED = QueueConfig("Orders", max_delivery_count=9, status=Status.SEND_DISABLED)


def test_what_the_file_names_first_is_created():
    assert merge({}, [FILE], 5) == {"orders": Entity(FILE, 5, 5, FILE)}


def test_a_change_over_the_api_outlasts_a_file_that_says_the_same_as_before():
    known = Entity(CHANGED, 1, 2, FILE)
    assert merge({"orders": known}, [FILE], 5) == {"orders": known}


def test_a_file_that_was_edited_is_heard_over_an_earlier_change():
    known = Entity(CHANGED, 1, 2, FILE)
    assert merge({"orders": known}, [EDITED], 5) == {"orders": Entity(EDITED, 1, 5, EDITED)}


def test_a_queue_made_over_the_api_stays_and_the_file_may_come_to_name_it():
    made = Entity(CHANGED, 1, 2)
    assert merge({"orders": made}, [], 5) == {"orders": made}
    assert merge({"orders": made}, [FILE], 5) == {"orders": Entity(FILE, 1, 5, FILE)}


def test_a_queue_only_the_file_knew_goes_with_it():
    assert merge({"orders": Entity(FILE, 1, 1, FILE)}, [], 5) == {}


def test_an_entity_is_read_as_it_was_written():
    for entity in (Entity(CHANGED, 1, 2, FILE), Entity(FILE, 1, 2)):
        assert decode(entity.encoded()) == entity
