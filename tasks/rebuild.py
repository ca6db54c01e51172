"""MLflow made again from the object store: what it lacks of a family, and how each thing is made.

The pages that the queue kept say what there was. Of what was deployed before pages were kept, the
promotion log and the manifests say enough.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from prefect import get_run_logger, task

from infra.errors import Corrupt, Unreadable
from infra.queue import MergeQueue
from infra.registry.runs import RunRecord
from infra.registry.tags import REASON, STATUS, CandidateTags, ExpertTags, is_a_persons
from infra.report.summary import gate_metrics, markdown_summary
from infra.storage.attempts import Decided
from infra.storage.manifest import Manifest, MergedExpert, download_part
from infra.storage.pages import Page
from infra.storage.promotions import Promotion, Recorded
from merging.gate import GateReport
from merging.models.folder import REPORT, MergedFolder
from tasks.find import compare_with_built_on
from tasks.mirror import standing
from tasks.record import flat
from tasks.register import candidate_tags
from tasks.retry import SIDE_EFFECT

_ON_ITS_WAY = ("waiting", "merging")
_HELD = (
    "MLflow was made again, and it is not in the deployed model. To merge it: supermerge release"
)


@task(**SIDE_EFFECT)
def find_lost(queue: MergeQueue) -> tuple[Page, ...]:
    """The experts, and then the merged versions, that MLflow lacks, by name and number."""
    there = _in_mlflow(queue)
    lost = [page for page in on_record(queue) if _find(page, there) is None]
    # A run that starts meanwhile takes an expert for deleted only where the deployed version is there.
    return tuple(sorted(lost, key=lambda p: (p.name == queue.name, p.name, p.version)))


@task(**SIDE_EFFECT)
def find_changed(queue: MergeQueue) -> tuple[tuple[Page, dict[str, str | None]], ...]:
    """The pages in MLflow with other tags than the queue wrote there, and what it wrote.

    What people write is left alone, and so is an expert that waits or is being merged.
    """
    return changed_pages(queue)


def changed_pages(queue: MergeQueue) -> tuple[tuple[Page, dict[str, str | None]], ...]:
    """As :func:`find_changed`, for a task that asks for it."""
    there = _in_mlflow(queue)
    found = []
    for page in on_record(queue):
        present = _find(page, there)
        if present is None or present.tags.get(STATUS) in _ON_ITS_WAY:
            continue
        names = {name for name in {*page.tags, *present.tags} if not is_a_persons(name)}
        changes = {n: page.tags.get(n) for n in names if page.tags.get(n) != present.tags.get(n)}
        if changes:
            found.append((present, dict(sorted(changes.items()))))
    return tuple(found)


@task(**SIDE_EFFECT)
def restore(queue: MergeQueue, page: Page, changes: dict[str, str | None]) -> str:
    """Writes again what the queue had written on a page; says on which."""
    queue.registry.restore(page, changes)
    return f"{', '.join(changes)} of {page.name}/{page.version}"


def on_record(queue: MergeQueue) -> list[Page]:
    """Every page as it has to be: as it was kept and, where the promotion log says more, as that says."""
    kept = {(page.name, page.version, page.source): page for page in queue.pages.all()}
    known = {(page.name, page.source) for page in kept.values()}
    for page in _named_by_the_log(queue):
        key = (page.name, page.version, page.source)
        if (page.name, page.source) not in known:
            kept.setdefault(key, page)
        elif page.name == queue.name:
            own = kept.get(key) or max(
                (p for p in kept.values() if (p.name, p.source) == (page.name, page.source)),
                key=lambda p: p.version,
            )
            by_log = {name: page.tags[name] for name in (STATUS, REASON)}
            kept[own.name, own.version, own.source] = own.model_copy(
                update={"tags": {**own.tags, **by_log}}
            )
    return list(kept.values())


def _in_mlflow(queue: MergeQueue) -> list[Page]:
    pages = [version.page for version in queue.registry.merged.of(queue.name)]
    return pages + [expert.page for expert in queue.registry.experts.of(queue.name)]


def _find(page: Page, there: Sequence[Page]) -> Page | None:
    """The page in MLflow, under another number where its own had been given to something else."""
    same = [p for p in there if (p.name, p.source) == (page.name, page.source)]
    numbers = {p.version for p in there if p.name == page.name}
    own = [p for p in same if p.version == page.version]
    others = same if page.version in numbers else []
    return next(reversed(own or others), None)


@task(**SIDE_EFFECT)
def remake(queue: MergeQueue, page: Page) -> str:
    """Makes one expert or merged version again; says under which number."""
    if page.name != queue.name:
        return queue.registry.experts.remake(page).ref
    run_id, description = None, ""
    try:
        model, report = queue.attempts.judged(page.version, page.source)
        run_id = _log_run(queue, model, report)
    except (Corrupt, Unreadable) as error:
        get_run_logger().warning("version %d comes without its report: %s", page.version, error)
    else:
        description = markdown_summary(report, queue.registry.runs.page(run_id))
    return f"version {queue.registry.merged.remake(page, run_id, description).version}"


def _named_by_the_log(queue: MergeQueue) -> Iterator[Page]:
    """What the promotion log, and the manifests that it names, say of versions and experts."""
    entries = queue.promotions.entries()
    held: dict[MergedExpert, Promotion] = {}  # The first entry whose model holds the expert.
    merged: tuple[MergedExpert, ...] = ()
    firsts = {entry.model: entry for entry in reversed(entries)}.values()
    for entry in sorted(firsts, key=lambda entry: -entry.sequence):
        tags = CandidateTags(manifest_sha256=entry.manifest_sha256)
        try:
            manifest = _manifest(queue, entry.model)
            arrived, left = compare_with_built_on(queue, entry.model)
            report = queue.attempts.report(entry.model)
        except (Corrupt, Unreadable) as error:
            get_run_logger().warning("version %d: %s", entry.version, error)
        else:
            tasks = [record.task for record in arrived]
            tags = candidate_tags(manifest, report, tasks, entry.manifest_sha256, entry.run_id)
            withdrawn = tuple(record.ref for record in left)
            tags = tags.model_copy(update={"withdrawn": withdrawn})
            held |= dict.fromkeys(manifest.experts, entry)
            merged = manifest.experts if entry.model == entries[-1].model else merged
        status, reason = standing(entry.model, entries)
        tags = tags.model_copy(update={"status": status, "reason": reason})
        yield Page(name=queue.name, version=entry.version, source=entry.location, tags=tags.write())
    for record, entry in held.items():
        reason = (
            f"Merged in version {entry.version}." if record in merged else f"{_HELD} {record.ref}"
        )
        expert = ExpertTags(
            family=queue.name,
            task=record.task,
            digest=record.digest,
            status="merged" if record in merged else "held",
            reason=reason,
        )
        yield Page(
            name=record.name, version=record.version, source=record.source, tags=expert.write()
        )


def _manifest(queue: MergeQueue, model: Recorded) -> Manifest:
    return Manifest.read(queue.store, model.location, model.manifest_sha256)


def _log_run(queue: MergeQueue, model: Recorded, report: GateReport) -> str:
    """Logs the attempt's run again, without its learning curve, which only MLflow had.

    Raises:
        Corrupt, Unreadable: The manifest or the pages of the report are not what was recorded.
    """
    manifest = _manifest(queue, model)
    arrived, _ = compare_with_built_on(queue, model)
    settings = {"rung": manifest.rung, **flat(manifest.settings)}
    with tempfile.TemporaryDirectory() as folder:
        download_part(queue.store, model.location, manifest, REPORT, Path(folder))
        run_id = queue.registry.runs.record(
            RunRecord(
                family=queue.name,
                build_key=manifest.build_key,
                title=f"{manifest.rung}: {', '.join(record.task for record in arrived)}",
                verdict=report.verdict,
                settings={name: str(value) for name, value in settings.items()},
                metrics=gate_metrics(report),
                losses=(),
                examples=(),
                report=MergedFolder(Path(folder)).report,
            )
        )
    decided = Decided(run_id=run_id, manifest_sha256=model.manifest_sha256, report=report)
    queue.attempts.record(model.key, decided)
    return run_id
