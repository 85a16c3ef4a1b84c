"""One value for all molecules, or the two ends of a range of which each has its own."""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Discriminator, Tag

Number = TypeVar("Number", int, float)


def _ordered(value: Any) -> Any:
    if isinstance(value, tuple) and value[0] > value[1]:
        raise ValueError(f"the lower end of the range comes first: {value[0]} is above {value[1]}")
    return value


def _form(value: Any) -> str:
    # Told apart by its form, a wrong value gets one message: that of what it was meant to be.
    return "range" if isinstance(value, list | tuple) else "number"


OneOrRange = Annotated[
    Annotated[Number, Tag("number")] | Annotated[tuple[Number, Number], Tag("range")],
    Discriminator(_form),
    AfterValidator(_ordered),
]
