"""`supermerge status`: one family, or all of them on one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from infra.cli.output import connect, console, table

if TYPE_CHECKING:
    from infra.overview import Overview
    from infra.queue import MergeQueue


def status(
    family: Annotated[
        str | None, typer.Argument(help="Name of the family.", show_default="all of them")
    ] = None,
) -> None:
    """Champion, waiting experts, pending candidates, recent promotions; all families without a name."""
    settings = connect()
    if family is None:
        from infra.overview import overviews
        from infra.registry.registry import Registry
        from infra.storage.store import connect_store

        seen = overviews(settings, connect_store(settings), Registry.connect(settings))
        show_all(seen)
    else:
        from infra.overview import overview
        from infra.queue import MergeQueue

        queue = MergeQueue.open(family)
        seen = (overview(queue.family, queue.store, queue.registry, recent=5),)
        show_one(queue, seen[0])
    faults: dict[str, list[str]] = {}
    for one in seen:
        for fault in one.faults:
            faults.setdefault(fault, []).append(one.name)
    for fault, names in faults.items():
        console.print(f"[red]{', '.join(names)}: {escape(fault)}[/red]")
    if faults:
        raise typer.Exit(1)


def show_all(seen: tuple[Overview, ...]) -> None:
    """One line for each family; a question mark stands for what could not be read."""
    from infra.overview import ALL

    shown = table(
        "Families", "family", "champion", "since (UTC)", "mode", "experts", "waits for review"
    )
    for one in seen:
        counts = (f"{count} {status}" for status, count in one.counts.most_common())
        reviews = (f"version {candidate.version}" for candidate in one.candidates)
        none, unknown = "–", "?"
        log, experts, candidates = (unknown if part in one.unseen else none for part in ALL)
        shown.add_row(
            one.name,
            str(one.newest.version) if one.newest else log,
            f"{one.deployed.time:%Y-%m-%d %H:%M}" if one.deployed else log,
            _mode(one),
            ", ".join(counts) or experts,
            ", ".join(reviews) or candidates,
        )
    console.print(shown)


def show_one(queue: MergeQueue, one: Overview) -> None:
    """What there is to know of a family."""
    from infra.registry.tags import STATUS

    champion = "unknown" if "log" in one.unseen else "none yet"
    if one.newest:
        champion = f"version {one.newest.version}"
    console.print(f"[bold]{queue.name}[/bold]: champion {champion}, mode {queue.family.promotion}")
    if one.newest and one.newest.frozen:
        from tasks.freeze import frozen

        console.print(escape(str(frozen(queue))))

    if "experts" not in one.unseen:
        experts = table("Experts", "expert", "task", "status", "reason")
        for expert in one.experts:
            status = expert.status or escape(expert.tags.malformed[STATUS])
            experts.add_row(expert.ref, expert.task, status, escape(expert.reason))
        console.print(experts)

    if "candidates" not in one.unseen:
        pending = table(
            "Candidates that wait for review", "version", "experts", "validation", "review"
        )
        for version in one.candidates:
            tags = version.tags
            merged = "\n".join(tags.experts.values())
            pending.add_row(str(version.version), merged, tags.validation, escape(tags.review))
        console.print(pending)

    recent = table("Recent promotions", "no.", "time (UTC)", "version", "action", "decided by")
    for entry in reversed(one.recent):
        recent.add_row(
            str(entry.sequence),
            f"{entry.time:%Y-%m-%d %H:%M}",
            str(entry.version),
            entry.action,
            escape(entry.decided_by),
        )
    console.print(recent)


def _mode(one: Overview) -> str:
    if one.family is None:
        return "?"
    frozen = one.newest is not None and one.newest.frozen
    return f"{one.family.promotion}, frozen" if frozen else one.family.promotion
