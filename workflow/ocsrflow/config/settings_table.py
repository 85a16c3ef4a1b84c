"""The table of settings in ``docs/settings.md``, from the JSON schema of the configuration."""

import json
import re
from collections.abc import Iterator
from typing import Any

Tree = dict[str, Any]

INTRODUCTION = """\
# Settings

Made from the models in `workflow/ocsrflow/config/` by
`ocsrflow config --settings > docs/settings.md`.

Every key of `config.yaml`, and of any file given with `--configfile`, where only what differs need stand: mappings are
merged key by key, lists are replaced. An unknown key or a wrong value stops Snakemake before any job, with the key's
path and what was expected there; `ocsrflow config config.yaml` checks a whole configuration alone.

`network` and `training` stand at the top level, for all models, and in a model's own entry, for what differs there.
"""
SHARED = {"network": "Network", "training": "Training"}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def settings(schema: Tree) -> str:
    """The page, as Markdown; ``schema`` is what pydantic makes of the whole configuration."""
    single = {key: value for key, value in schema["properties"].items() if not _sections(key, value, schema)}
    lines = [INTRODUCTION, "## Single keys", "", *_table({"properties": single})]
    for key, value in schema["properties"].items():
        if found := _sections(key, value, schema):
            lines += ["", f"## {key}", "", *([f"A list. {value.get('description', '')}"] if "items" in value else [])]
            for own in found:
                if len(found) > 1:
                    lines += ["", f"### {key}: kind {own['properties']['kind']['const']}", ""]
                lines += _section(key, own, schema)
    return "\n".join(lines) + "\n"


def _sections(key: str, value: Tree, schema: Tree) -> list[Tree]:
    """The sections that a value may be, or the items of its list; none where it is a plain value."""
    one = value.get("items", value)
    names = [SHARED[key]] if key in SHARED else re.findall(r'"#/\$defs/(\w+)"', json.dumps(one.get("oneOf", one)))
    return [schema["$defs"][name] for name in dict.fromkeys(names)]


def _section(path: str, own: Tree, schema: Tree) -> Iterator[str]:
    """A section's text and table, and after it the sections in it that stand nowhere else."""
    yield from [_marked(own.get("description", "")), "", *_table(own)]
    for key, value in own["properties"].items():
        for inner in [] if key in SHARED else _sections(key, value, schema):
            yield from ["", f"### {path}.{key}", "", *_section(f"{path}.{key}", inner, schema)]


def _table(own: Tree) -> Iterator[str]:
    yield from ["| Key | Value | Default | Meaning |", "|---|---|---|---|"]
    for key, value in own["properties"].items():
        default = f"`{json.dumps(value['default'], ensure_ascii=False)}`" if "default" in value else "–"
        default = "required" if key in own.get("required", ()) and key not in SHARED else default
        where = f"What differs for this model from [`{key}`](#{key})." if key in SHARED and "$ref" in value else ""
        cells = (f"`{key}`", _value(value), default, where or _marked(value.get("description", "")))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(value: Tree) -> str:
    """What a value may be, in words."""
    if choices := value.get("anyOf") or value.get("oneOf") or value.get("prefixItems"):
        forms = dict.fromkeys(map(_value, choices))
        return f"list of {len(choices)}: {' and '.join(forms)}" if "prefixItems" in value else " or ".join(forms)
    if "enum" in value or "const" in value:
        return " or ".join(f"`{choice}`" for choice in value.get("enum", [value.get("const")]))
    if "items" in value:
        return f"list of {_value(value['items'])}"
    bounds = [f"{sign} {value[name]:,}" for name, sign in BOUNDS.items() if name in value]
    return ", ".join([value.get("type", "section"), *bounds])


def _marked(text: str) -> str:
    """A docstring's code in Markdown's marks; what looks like HTML is none."""
    return text.replace("``", "`").replace("<", "&lt;")
