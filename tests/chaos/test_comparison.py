"""What the chaos tests stand on: the comparison of the upstream's log with the books sees every way in which they can differ."""

from types import SimpleNamespace
from typing import Any, Literal

import pytest

from tests.chaos.scene import differences
from tests.real.witness import Served


def served(output: int = 5, end: Literal["whole", "left"] = "whole") -> dict[str, Served]:
    return {"a": Served("a", 3, output, end)}


def booked(outcome: str = "complete", output: int = 5, name: str = "a") -> dict[str, Any]:
    return {name: SimpleNamespace(id=name, input=3, output=output, outcome=outcome)}


@pytest.mark.parametrize(
    ("log", "books", "seen"),
    [
        (served(), booked(), {"a"}),
        (served(), booked("recovered", 0), set()),
        (served(end="left"), booked("cut", 4), set()),
        ({}, booked("recovered", 0), set()),
        ({}, booked("failed", 0), set()),
    ],
)
def test_what_agrees_is_no_difference(log: dict[str, Served], books: dict[str, Any], seen: set[str]) -> None:
    assert differences(log, books, seen) == []


@pytest.mark.parametrize(
    ("log", "books", "seen"),
    [
        (served(), {}, set()),
        (served(), booked(output=4), set()),
        (served(), booked("recovered", 0), {"a"}),
        (served(), booked("cut"), {"a"}),
        (served(), booked("failed", 0), set()),
        (served(end="left", output=3), booked("cut", 4), set()),
        (served(), booked() | booked(name="b"), set()),
        (served(), booked(), {"a", "b"}),
    ],
)
def test_what_differs_is_said(log: dict[str, Served], books: dict[str, Any], seen: set[str]) -> None:
    assert len(differences(log, books, seen)) == 1
