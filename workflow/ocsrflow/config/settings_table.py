"""The table of settings in ``docs/settings.md``, from the JSON schema of the configuration."""

import json
from collections.abc import Iterator
from typing import Any

Tree = dict[str, Any]

INTRODUCTION = """\
# Settings

Made from the models in `workflow/ocsrflow/config/` by
`python -m ocsrflow.config.experiment --settings > docs/settings.md`.

Every key of `config.yaml`, and of any file given with `--configfile`, where only what differs need stand: mappings are
merged key by key, lists are replaced. An unknown key or a wrong value stops Snakemake before any job, with the key's
path and what was expected there; `python -m ocsrflow.config.experiment config.yaml` checks a whole configuration alone.
"""
WORDS = {
    "string": ("text", "texts"),
    "integer": ("whole number", "whole numbers"),
    "number": ("number", "numbers"),
    "boolean": ("true or false", "truth values"),
    "object": ("section", "sections"),
}
HEAD = "| Key | Type | Default | Allowed | Meaning |\n|---|---|---|---|---|"
# Their keys may stand in two places.
SHARED = {"network": "Network", "training": "Training"}


def settings(schema: Tree) -> str:
    """The page, as Markdown.

    Parameters
    ----------
    schema
        What pydantic makes of the whole configuration.
    """
    definitions = schema["$defs"]
    sections = {key: _sections(key, value, definitions) for key, value in schema["properties"].items()}
    plain = {key: value for key, value in schema["properties"].items() if not sections[key]}
    named = ", ".join(f"[`{key}`](#{key})" for key, made in sections.items() if made)
    parts = [INTRODUCTION, f"Sections: {named}.\n", "## Single keys\n", _rows(plain, schema, definitions)]
    for made in sections.values():
        parts += made
    return "\n".join(parts)


def _sections(key: str, value: Tree, definitions: Tree) -> list[str]:
    """A key's heading, text and tables; none where it is a single value."""
    items = value.get("items", {})
    if key in SHARED:
        own = definitions[SHARED[key]]
        where = f"At the top level for all models, and in a model's own `{key}:` for what is different there."
        return [f"## {key}\n", _about(own), where + "\n", *_table(key, own, definitions)]
    if "oneOf" in items:
        text = f"{value['description']} A list; what an entry may have depends on its `kind`.\n"
        made = [f"## {key}\n", text]
        for one in items["oneOf"]:
            own = _at(one, definitions)
            kind = own["properties"]["kind"]["const"]
            made += [f"### {key}: kind {kind}\n", _about(own), *_table(key, own, definitions)]
        return made
    if (own := _at(items, definitions)) is not None:
        return [f"## {key}\n", f"A list. {_about(own)}", *_table(key, own, definitions)]
    if (own := _at(value, definitions)) is not None:
        return [f"## {key}\n", _about(own), *_table(key, own, definitions)]
    return []


def _table(path: str, own: Tree, definitions: Tree) -> Iterator[str]:
    """The table of a section, and those of the sections in it that stand nowhere else."""
    yield _rows(own["properties"], own, definitions)
    for key, value in own["properties"].items():
        if not _is_shared(key, value) and (inner := _at(value, definitions)) is not None:
            yield f"### {path}.{key}\n"
            yield _about(inner)
            yield from _table(f"{path}.{key}", inner, definitions)


def _rows(properties: Tree, own: Tree, definitions: Tree) -> str:
    lines = [HEAD]
    for key, value in properties.items():
        needed = key in own.get("required", ()) and not _is_shared(key, value)
        default = "required" if needed else f"`{_plain(value['default'])}`" if "default" in value else "–"
        cells = (f"`{key}`", _type(value), default, _allowed(value), _meaning(key, value, definitions))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _is_shared(key: str, value: Tree) -> bool:
    """Whether it is a model's own part of a section that stands at the top level too."""
    return key in SHARED and "$ref" in value


def _at(value: Tree, definitions: Tree) -> Any:
    """The section that a value refers to, or may be where it is not null; None where it is none."""
    named = [choice["$ref"] for choice in [value, *_choices(value)] if "$ref" in choice]
    return definitions[named[0].rsplit("/", 1)[-1]] if len(named) == 1 else None


def _about(own: Tree) -> str:
    """A section's docstring."""
    return _marked(own.get("description", "")) + "\n"


def _marked(text: str) -> str:
    """A docstring's code in Markdown's marks; what looks like HTML is none."""
    return text.replace("``", "`").replace("<", "&lt;")


def _meaning(key: str, value: Tree, definitions: Tree) -> str:
    own = _at(value, definitions)
    text = _marked(value.get("description") or (own or {}).get("description", "").split("\n")[0])
    if _is_shared(key, value):
        return f"As in the section [`{key}`](#{key}), for this model alone."
    return text or {"kind": "Which kind of source it is."}.get(key, "")


def _choices(value: Tree) -> list[Tree]:
    return value.get("anyOf") or value.get("oneOf") or []


def _type(value: Tree, *, several: bool = False) -> str:
    """A value's type in words."""
    if choices := _choices(value):
        return " or ".join(dict.fromkeys(_type(choice) for choice in choices))
    if "prefixItems" in value:
        return "[low, high]"
    if value.get("type") == "null":
        return "null"
    if value.get("type") == "array":
        return f"list of {_type(value['items'], several=True)}"
    return WORDS[value.get("type", "object")][several]


def _allowed(value: Tree) -> str:
    """What a value is restricted to, in words."""
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    parts = dict.fromkeys(_allowed(choice) for choice in [*_choices(value), *value.get("prefixItems", [])])
    if "items" in value and (each := _allowed(value["items"])):
        parts[f"each {each}" if "minimum" in value["items"] else each] = None
    if least := value.get("minItems") if "items" in value else value.get("minLength"):
        parts["not empty" if least == 1 else f"{least} or more"] = None
    parts[_range(value)] = None
    return "; ".join(part for part in parts if part)


def _range(value: Tree) -> str:
    low, high = value.get("minimum"), value.get("maximum")
    if low is not None and high is not None:
        return f"{_number(low)} to {_number(high)}"
    ends = (
        ("{} or more", low),
        ("above {}", value.get("exclusiveMinimum")),
        ("at most {}", high),
        ("below {}", value.get("exclusiveMaximum")),
    )
    return ", ".join(text.format(_number(end)) for text, end in ends if end is not None)


def _number(value: float) -> str:
    return "2³²" if value == 2**32 else f"{value:g}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)
