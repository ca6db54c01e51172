"""All checks, in the order in which one mends what they find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from infra.doctor import machine, servers, storage
from infra.doctor.finding import Check, Finding, carried_out
from infra.families import Family, load_family
from infra.settings import Settings


def examine(settings: Settings, names: Sequence[str] | None = None) -> Iterator[Finding]:
    """What is right and what is not, with what to do.

    Args:
        settings: Where the servers are.
        names: The families to look at; by default all there are.
    """
    yield from machine.look_at_shell(settings)
    settings.apply()
    families: list[Family] = []
    for name in settings.family_names() if names is None else names:
        yield from carried_out(f"family {name}", partial(_read, settings, name, families))
    checks: dict[str, Check] = {
        "packages": partial(machine.look_at_packages, settings),
        "disk": partial(machine.look_at_disk, settings),
        "memory": partial(machine.look_at_memory, settings),
        "stack": partial(servers.look_at_parts, settings),
        "object store": partial(storage.look_at_store, settings, families),
        "MLflow": partial(servers.look_at_mlflow, settings),
        "Prefect": partial(servers.look_at_prefect, settings, families),
    }
    for name, check in checks.items():
        yield from carried_out(name, check)


def _read(settings: Settings, name: str, families: list[Family]) -> Iterator[Finding]:
    families.append(load_family(name, settings.families_dir))
    yield from ()
