"""Request ids: UUIDv7 by RFC 9562, in the order of their instants."""

import uuid

from gateway.ids import instant_us, uuid7
from tests.clock import START_US


def test_an_id_is_a_version_7_uuid_of_its_instant() -> None:
    made = uuid.UUID(uuid7(START_US + 123_456))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert instant_us(str(made)) == START_US + 123_000


def test_ids_sort_by_their_instants_to_the_microsecond() -> None:
    made = [uuid7(START_US + us) for us in range(3000)]
    assert made == sorted(made)


def test_ids_of_one_instant_differ() -> None:
    assert len({uuid7(START_US) for _ in range(10_000)}) == 10_000


def test_the_layout_is_that_of_the_rfc_example() -> None:
    assert uuid7(0x017F22E279B0 * 1000)[:18] == "017f22e2-79b0-7000"
