"""Writes docs/reference.md: every key, variable, command and option, from the code that reads them.

make docs
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from docstring_parser import DocstringStyle, parse
from pydantic import BaseModel
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from infra.cli import app
from infra.families import Family, Target
from infra.settings import PREFIX, Settings
from merging.gate import GatePolicy
from merging.settings import MergeSettings

PAGE = Path(__file__).with_name("reference.md")
LINKS = {"merge": "[merge](#merge)", "gate": "[gate](#gate)", "notify": "[notify](#notify)"}
HEAD = """\
# Reference

Every key of a family file, every variable of the environment, every command and option. This page is
written by `make docs` from the code that reads them; change the text there.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_family_file(), *_environment(), *_commands()])


def described(model: type[BaseModel]) -> dict[str, str]:
    """What the docstrings of a model and its bases say about each field, in Markdown."""
    texts: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        for item in parse(cls.__doc__ or "", DocstringStyle.GOOGLE).params:
            texts[item.arg_name] = " ".join((item.description or "").split())
    return {name: texts[name] for name in model.model_fields if texts.get(name)}


def commands() -> dict[str, TyperCommand]:
    """The commands of `supermerge`, by name, in the order of its help."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    context = typer.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if isinstance(command, TyperCommand)}


def _family_file() -> Iterator[str]:
    yield "## Family file\n"
    yield "`<families>/<family>.yaml`, explained in [Family files](families.md).\n"
    yield from _keys(Family)
    for title, model, about in (
        ("merge", MergeSettings, "How coefficients are learned, explained in [The method]"),
        ("gate", GatePolicy, "What a candidate must show, explained in [The gate]"),
        (
            "notify",
            Target,
            "A list of targets, each with one of these, explained in [Family files]",
        ),
    ):
        place = {"merge": "method.md", "gate": "gate.md", "notify": "families.md#notifications"}
        yield f"### {title}\n"
        yield f"{about}({place[title]}).\n"
        yield from _keys(model)


def _keys(model: type[BaseModel]) -> Iterator[str]:
    schema, texts = model.model_json_schema(), described(model)
    yield "| key | values | default | |"
    yield "|---|---|---|---|"
    for name, field in schema["properties"].items():
        required = name in schema.get("required", ())
        default = "required" if required else _value(field.get("default", model.model_fields[name]))
        if name in LINKS and model is Family:
            default, values = "", LINKS[name]
        else:
            values = _values(field, schema.get("$defs", {}))
        yield f"| `{name}` | {values} | {default} | {texts[name]} |"
    yield ""


def _values(field: dict[str, Any], parts: dict[str, Any]) -> str:
    """What may stand there, from a JSON schema."""
    if "$ref" in field:
        return _values(parts[field["$ref"].rpartition("/")[2]], parts)
    if "anyOf" in field:
        return " or ".join(_values(option, parts) for option in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_values(field['items'], parts)}"
    if field.get("type") == "object":
        return "mapping"
    words = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field]
    kind = words.get(field["type"], {"null": "`null`"}.get(field["type"], "text"))
    return " ".join([kind, ", ".join(limits)]).strip()


def _value(default: Any) -> str:
    return f"`{json.dumps(default)}`".replace('"', "")


def _environment() -> Iterator[str]:
    yield "## Environment\n"
    yield "Explained in [Operations](operations.md#servers-of-your-own). A variable wins over what"
    yield "`supermerge up` wrote down; an unknown one that starts with `SUPERMERGE_` is refused.\n"
    yield "| variable | |"
    yield "|---|---|"
    texts = described(Settings)
    for name in Settings.model_fields:
        yield f"| `{PREFIX}{name.upper()}` | {texts[name]} |"
    yield ""


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    yield "`supermerge --verbose COMMAND` (`-v`) shows logs. `supermerge COMMAND --help` says the same.\n"
    for name, command in commands().items():
        arguments = [_shown(item) for item in command.params if isinstance(item, TyperArgument)]
        yield f"### {' '.join([name, *arguments])}\n"
        yield f"{' '.join((command.help or '').split())}\n"
        if command.params:
            yield "| | |"
            yield "|---|---|"
            for item in command.params:
                yield f"| `{_shown(item)}` | {getattr(item, 'help', '')} |"
            yield ""


def _shown(item: TyperArgument | TyperOption) -> str:
    """An option by its names, an argument in capitals, as the command's own help shows it."""
    if isinstance(item, TyperArgument):
        return str(item.metavar or item.name).upper()
    return ", ".join((*item.opts, *item.secondary_opts))


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
