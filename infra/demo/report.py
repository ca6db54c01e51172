"""The table and the answers that end the demo."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion
from infra.registry.merged import CHAMPION
from infra.registry.versions import version_page

QUESTIONS = {
    "movie-review": (
        "A tender, funny film that earns every one of its tears.",
        "Two hours of noise in search of a plot.",
    ),
    "tweet-sentiment": (
        "best concert of my life, still smiling!!",
        "my flight is delayed again, so tired of this",
    ),
    "icd10-chapter": (
        "Fracture of the left wrist after a fall",
        "Acute inflammation of the middle ear",
    ),
}


def show_result(console: Console, queue: MergeQueue, settled: Sequence[ExpertVersion]) -> None:
    """One row per expert: scores, recovered gap, verdict; then where to look."""
    newest = queue.promotions.newest()
    report = queue.attempts.report(newest.model) if newest is not None else None
    decisions = {decision.task: decision for decision in report.tasks} if report else {}
    table = Table(
        title=f"Accuracy of the deployed model on gate examples, version "
        f"{newest.version if newest else 'none'}",
        title_justify="left",
    )
    for column in ("task", "base + head", "expert", "deployed", "recovered gap", "verdict"):
        table.add_column(column, justify="left" if column in ("task", "verdict") else "right")
    for expert in settled:
        decision = decisions.get(expert.task)
        scores = (decision.base, decision.expert, decision.candidate) if decision else (None,) * 3
        base, own, merged = (score.value if score else None for score in scores)
        merged_in = expert.status == "merged"
        table.add_row(
            expert.task,
            *(_share(value) if merged_in else "" for value in (base, own, merged)),
            _gap(base, own, merged) if merged_in else "",
            "[green]merged[/green]" if merged_in else "[red]bounced[/red]",
        )
    console.print()
    console.print(table)
    for expert in settled:
        if expert.status != "merged":
            console.print(f"[red]{expert.ref} bounced[/red]: {escape(expert.reason)}")
    for entry in queue.promotions.entries():
        console.print(f"version {entry.version}: {entry.action}, {escape(entry.reason)}")
    _show_pages(console, queue)


def ask_deployed_model(console: Console, family: str, tasks: Collection[str]) -> None:
    """Asks the deployed model through MLflow, as any application would."""
    import mlflow.pyfunc

    uri = f"models:/{family}@{CHAMPION}"
    console.print(f'\nAsking mlflow.pyfunc.load_model("{uri}"):')
    model = mlflow.pyfunc.load_model(uri)
    for task, inputs in QUESTIONS.items():
        if task not in tasks:
            continue
        for text, answer in zip(
            inputs, model.predict({"task": task, "inputs": list(inputs)}), strict=True
        ):
            console.print(
                f"  {task}: {escape(repr(text))} → [bold]{escape(answer['label'])}[/bold] "
                f"({answer['score']:.2f})"
            )


def _show_pages(console: Console, queue: MergeQueue) -> None:
    newest = queue.promotions.newest()
    if newest is None:
        return
    prefect = queue.settings.prefect_api.removesuffix("/api")
    page = version_page(queue.settings.mlflow_uri, queue.name, newest.version)
    console.print(f"MLflow:  {page}")
    console.print(f"Prefect: {prefect}/runs/flow-run/{newest.run_id}")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _gap(base: float | None, expert: float | None, merged: float | None) -> str:
    if base is None or expert is None or merged is None or expert <= base:
        return "–"
    return f"{(merged - base) / (expert - base):.2f}"
