"""Searches for settings of a model, by successive halving."""

import copy
import difflib
from collections.abc import Iterator, Mapping
from itertools import chain, combinations, product
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError, field_validator, model_validator

from .base import Settings
from .sections import Model, Name

SECTIONS = ("network", "training")  # of a model, whose settings may be varied
# Settings that stay as they are, and why.
FIXED = {
    "network.pretrained": "what a training starts from is one for all trials; make a search for each",
    "training.epochs": "the rungs say how long trials are trained",
    **dict.fromkeys(
        ("training.validate_every", "training.validation_size", "training.decode_length"),
        "trials are compared by their validations, which must be alike",
    ),
}
INSIDE = 0.382  # a point of a range where no whole number is to be expected

Choice = bool | int | float | str | None
Metric = Literal["validation_tanimoto", "validation_loss"]


class Range(Settings):
    """Values between two ends, which are among them; one of the three keys."""

    log: tuple[float, float] | None = Field(
        None, description="Real numbers above 0, as many between 1 and 10 as between 10 and 100."
    )
    uniform: tuple[float, float] | None = Field(None, description="Real numbers, evenly spread.")
    integers: tuple[int, int] | None = Field(None, description="Whole numbers, evenly spread.")

    @model_validator(mode="before")
    @classmethod
    def _is_mapping(cls, value: Any) -> Any:
        if not isinstance(value, Mapping | Range):
            raise ValueError("a list of choices is expected, or log, uniform or integers with the ends of a range")
        return value

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        found = self.log or self.uniform or self.integers
        assert found is not None
        return found

    @model_validator(mode="after")
    def _one_form(self) -> "Range":
        forms = [ends for ends in (self.log, self.uniform, self.integers) if ends is not None]
        if len(forms) != 1:
            raise ValueError("one of log, uniform and integers is expected, with the two ends of the range")
        if forms[0][0] >= forms[0][1]:
            raise ValueError(f"the lower end of the range comes first: {forms[0][0]} is not below {forms[0][1]}")
        if self.log is not None and self.log[0] <= 0:
            raise ValueError("a logarithmic range begins above 0")
        return self


def _form(value: Any) -> str:
    # Told apart by its form, a wrong value gets one message: that of what it was meant to be.
    return "choices" if isinstance(value, list | tuple) else "range"


Values = Annotated[
    Annotated[Range, Tag("range")] | Annotated[list[Choice], Field(min_length=1), Tag("choices")],
    Discriminator(_form),
]
Space = dict[str, Values]


class Search(Settings):
    """Settings of a model to be found: trials of other settings, the worse of which are dropped rung by rung."""

    name: Name
    model: str = Field(description="Name of the model whose settings are varied; all others stay as they are.")
    space: Space = Field(
        min_length=1,
        description="What is varied: dotted keys of the model's settings, such as training.encoder_lr, each with a "
        "range or a list of choices.",
    )
    trials: int = Field(
        9, ge=1, le=10_000, description="Trials to begin with. More of them later keep those that there are."
    )
    rungs: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 3, 9],
        min_length=1,
        description="Epochs after which trials are compared, ascending; the last number is the length of the whole "
        "training, on whose schedule all are trained.",
    )
    keep: float = Field(1 / 3, gt=0, lt=1, description="Share of a rung's trials that go on to the next one.")
    metric: Metric = Field(
        "validation_tanimoto",
        description="What they are compared by: the best one of their validations so far, highest similarity or lowest "
        "loss.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the points that are tried.")

    @field_validator("rungs")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        if sorted(set(value)) != value:
            raise ValueError("ascending numbers are expected, each once")
        return value

    @property
    def places(self) -> list[int]:
        """Trials of each rung."""
        found = [self.trials]
        for _ in self.rungs[1:]:
            found.append(max(1, round(found[-1] * self.keep)))
        return found


def space_to_json(space: Space) -> str:
    """A space as text for a command line, its keys in alphabetical order."""
    return _SPACE.dump_json(dict(sorted(space.items())), exclude_none=True).decode()


def space_from_json(text: str) -> Space:
    """The space of a text."""
    return _SPACE.validate_json(text)


_SPACE: TypeAdapter[Space] = TypeAdapter(Space)


def with_values(settings: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in sections with other values of some of them, which are given by their dotted keys."""
    changed = copy.deepcopy(dict(settings))
    for key, value in values.items():
        *sections, name = key.split(".")
        inner = changed
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return changed


def whole_length(search: Search, model: Model) -> Model:
    """The model with the epochs of the last rung."""
    return model.model_copy(update={"training": model.training.model_copy(update={"epochs": search.rungs[-1]})})


def check(path: str, search: Search, model: Model) -> None:
    """Look whether all trials of a search are models that can be trained.

    The ends of ranges (and a point inside) and all choices are tried, alone and two keys at a time: no condition of a
    model is about more.

    Raises
    ------
    ValueError
        With the key, which begins with ``path``, and what is wrong there.
    """
    model = whole_length(search, model)
    settings = model.model_dump(mode="json")
    known = dict(_flat({section: settings[section] for section in SECTIONS}))
    for key in search.space:
        _check_key(f"{path}.space.{key}", key, model, known)
    for i, epochs in enumerate(search.rungs[:-1]):
        if epochs % model.training.validate_every:
            raise ValueError(
                f"{path}.rungs.{i}: {epochs} is no multiple of training.validate_every "
                f"({model.training.validate_every}) of model {model.name!r}: trials are compared after a validation"
            )
    tried = {key: _tried(values) for key, values in search.space.items()}
    for keys in chain(combinations(tried, 1), combinations(tried, 2)):
        for combination in product(*(tried[key] for key in keys)):
            values = dict(zip(keys, combination, strict=True))
            try:
                Model.model_validate(with_values(settings, values))
            except ValidationError as error:
                _refuse(path, values, error)


def _check_key(path: str, key: str, model: Model, known: Mapping[str, Any]) -> None:
    if key not in known:
        close = difflib.get_close_matches(key, known, 1)
        meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(SECTIONS)} with their settings"
        raise ValueError(f"{path}: model {model.name!r} has no such setting; {meant}")
    if key in FIXED:
        raise ValueError(f"{path}: it cannot be varied: {FIXED[key]}")
    if model.network.parent is not None and key in {f"network.{name}" for name in model.network.shape}:
        raise ValueError(
            f"{path}: it cannot be varied where the model starts from a trained one ({model.network.pretrained}), "
            "whose weights have one shape"
        )


def _tried(values: Range | list[Choice]) -> list[Choice]:
    if not isinstance(values, Range):
        return values
    low, high = values.ends
    inside = low + INSIDE * (high - low)
    return [low, high, int(inside) if values.integers else inside]


def _refuse(path: str, values: Mapping[str, Choice], error: ValidationError) -> None:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    named = next((key for key in values if key == where), [*values][-1])
    message = first["msg"].removeprefix("Value error, ")
    found = ", ".join(f"{key} {value}" for key, value in values.items() if key == where or where not in values)
    if first["type"].startswith("int_"):
        message = "whole numbers are expected: give integers or a list"
    raise ValueError(f"{path}.space.{named}: {message} (tried {found})") from None


def _flat(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
