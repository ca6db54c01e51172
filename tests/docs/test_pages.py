"""What the pages point to is there: files, headings, commands, options, targets, modules."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml

from docs.reference import commands
from tests.docs.pages import (
    PAGES,
    ROOT,
    anchors,
    blocks,
    code_in_sentences,
    links,
    shell_lines,
    text_of,
)

every_page = pytest.mark.parametrize("page", PAGES)
COMMANDS = commands()
CODE = ("flows", "tasks", "merging", "infra", "tests", "docs", "benchmarks")
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def typed(page: str, program: str) -> list[list[str]]:
    """The words that follow a program, up to a comment or the next command."""
    lines = [re.split(r"\s#|[;|&…]", line)[0].strip() for line in shell_lines(page)]
    return [line.split()[1:] for line in lines if line.split()[:1] == [program]]


@every_page
def test_a_link_leads_to_a_file_and_a_heading_that_are_there(page):
    for target in links(page):
        path, _, fragment = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if fragment:
            assert fragment in anchors(str(file.resolve().relative_to(ROOT))), target


@every_page
def test_a_command_that_is_named_exists_with_its_options(page):
    for words in typed(page, "supermerge"):
        if words and not words[0].startswith("-") and not words[0].isupper():
            command = COMMANDS[words[0].rstrip(",")]
            known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
            assert {w.strip("[]") for w in words if w.strip("[").startswith("--")} <= known | {
                "--help"
            }


@every_page
def test_a_make_target_that_is_named_exists(page):
    for words in typed(page, "make"):
        assert {word for word in words if "=" not in word} <= TARGETS


@every_page
def test_a_module_that_is_to_be_run_exists_with_its_options(page):
    for words in typed(page, "python") + typed(page, ".venv/bin/python"):
        module = words[words.index("-m") + 1] if "-m" in words else None
        if module and module.startswith(("benchmarks", "infra", "docs")):
            path = ROOT / module.replace(".", "/")
            file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
            source = file.read_text()
            for option in (word for word in words if word.startswith("--")):
                assert f'"{option}"' in source, option


@pytest.mark.parametrize("page", sorted({*PAGES} - {"CHANGELOG.md"}))
def test_a_file_or_folder_that_is_named_is_there(page):
    for code in code_in_sentences(page):
        if re.fullmatch(rf"({'|'.join(CODE)})/[\w./-]*", code):
            assert (ROOT / code).exists(), code


def test_every_variable_that_is_read_stands_in_a_page():
    names = {
        *re.findall(r"(\w+) \?=", MAKEFILE),
        *re.findall(r"\$\((\w+_(?:LINKS|ARGS))\)", MAKEFILE),
    }
    for path in (file for folder in CODE for file in (ROOT / folder).rglob("*.py")):
        names.update(re.findall(r'environ\.get\("(\w+)"', path.read_text()))
        names.update(re.findall(r'(?<![+] )"(\w+)" in os\.environ', path.read_text()))
    text = "".join(map(text_of, PAGES))
    assert not {name for name in names if f"`{name}" not in text}


def test_what_a_hook_runs_before_a_commit_is_what_ci_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = {hook["entry"] for repository in hooks for hook in repository["hooks"]}
    assert entries
    assert entries <= set((ROOT / ".ci" / "run").read_text().splitlines())


def test_the_map_shows_every_room_that_the_import_contracts_name():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    floors = [floor for contract in contracts for floor in contract.get("layers", ())]
    names = [name.strip().split(".") for floor in floors for name in floor.split("|")]
    rooms = {name[-1] for name in names if len(name) <= 2}  # and not the modules in a room
    plan = blocks("docs/development.md", "")[0]
    assert not {room for room in rooms if not re.search(rf"\b{room}\b", plan)}


def test_every_make_target_says_what_it_does():
    phony = set(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[0].split())
    assert phony == set(re.findall(r"^([a-z-]+):.*## \S", MAKEFILE, re.MULTILINE))


@pytest.fixture(scope="module")
def words() -> set[str]:
    """Every word of the code and of the Makefile."""
    files = (path for folder in CODE for path in (ROOT / folder).rglob("*.py"))
    return {
        word
        for path in (*files, ROOT / "Makefile")
        for word in re.findall(r"\w+", path.read_text())
    }


@pytest.mark.parametrize("name", ["development", "method", "gate", "quality", "families", "states"])
def test_a_name_that_is_used_stands_in_the_code(name, words):
    codes = code_in_sentences(f"docs/{name}.md")
    names = {code for code in codes if re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", code)}
    assert not {name for name in names if not words.issuperset(name.split("."))}
