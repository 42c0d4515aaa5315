"""Says in plain words what pydantic found wrong with a value: for the configuration, the admin API and the command line alike.

Pydantic's own sentences are written for programmers ("Input should be a valid integer, unable to parse string as an integer"). What a
check of ours said is left as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "json_invalid": "is not JSON",
    "bool": "must be true or false",
    "int": "must be a whole number",
    "float": "must be a number",
    "finite_number": "must be a number",
    "string": "must be text",
    "path": "must be a path",
    "list": "must be a list",
    "tuple": "must be a list",
    "dict": "must be names with values",
    "model": "must be names with values",
    "datetime": "must be an instant with its zone, like 2027-01-01T12:00:00+01:00",
    "timezone": "must be an instant with its zone, like 2027-01-01T12:00:00+01:00",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must name at least {min_length}",
    "too_long": "must name at most {max_length}",
    "string_pattern_mismatch": "must fit the pattern {pattern}",
}
OWN = "value_error"  # a check of ours said it
UNKNOWN = "extra_forbidden"


def plain(fault: Mapping[str, Any]) -> str:
    """Say what is wrong with a value, after its name: one of pydantic's `errors()` in plain words."""
    kind, context = str(fault["type"]), fault.get("ctx") or {}
    if kind in ("literal_error", "enum"):
        return "must be one of " + str(context["expected"]).replace("'", "").replace(" or ", ", ")
    words = WORDS.get(kind) or WORDS.get(kind.partition("_")[0])
    if words is None or kind == OWN:
        return str(fault["msg"]).removeprefix("Value error, ")
    return words.format(**context)


def shows_value(fault: Mapping[str, Any]) -> bool:
    """Tell whether the value that was given belongs beside the words: it is short, and nothing has quoted it yet."""
    return fault["type"] not in ("missing", "extra_forbidden", "json_invalid", OWN) and not isinstance(fault["input"], dict | list)


def meant(word: str, known: Sequence[str], spell: Callable[[str], str] = str) -> str:
    """Say, after what is unknown, which of the known names was probably meant, or all of them where none is near."""
    close = get_close_matches(word, known, n=1)
    return f"; did you mean `{spell(close[0])}`?" if close else (f"; known here: {', '.join(sorted(known))}" if known else "")


def names_at(model: Any, place: Sequence[str | int]) -> list[str]:
    """List the names that a place within a model's values may have; none where any may stand."""
    kind = model
    for part in place:
        kind = _inside(kind, part)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _inside(kind: Any, part: str | int) -> Any:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        kind = kind.model_fields[str(part)].annotation if str(part) in kind.model_fields else None
    elif get_origin(kind) in (dict, list, tuple):
        kind = get_args(kind)[-1]
    if get_origin(kind) in (Union, UnionType):
        kind = next((option for option in get_args(kind) if option is not type(None)), None)
    return kind
