"""What has to hold of a queue whatever happens to it, read from the store and from MLflow alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise

from infra.queue import MergeQueue
from infra.registry.merged import CHAMPION, PREVIOUS
from infra.storage.manifest import Manifest, MergedExpert
from infra.storage.promotions import Promotion, model_before
from infra.storage.store import S3Uri

_OPEN = ("waiting", "merging")


class Log:
    """The promotion log as it was last seen: it only ever grows."""

    def __init__(self) -> None:
        self._seen: list[bytes] = []

    def grown(self, queue: MergeQueue) -> list[Promotion]:
        """Compares the log with what was seen of it before; gives the entries that are new.

        Raises:
            AssertionError: An entry was changed, removed or left out.
        """
        folder = queue.family.root / "promotions"
        items = queue.store.list(folder)
        assert [item.path for item in items] == [f"{n:08d}.json" for n in range(1, len(items) + 1)]
        stored = [queue.store.read(item.uri) for item in items]
        assert stored[: len(self._seen)] == self._seen, "an entry of the log was changed or removed"
        fresh = stored[len(self._seen) :]
        self._seen = stored
        entries = [Promotion.model_validate_json(data) for data in stored]
        for before, after in pairwise(entries):
            assert after.previous == before.version, f"{after} does not follow {before}"
        promoted = [entry.manifest_sha256 for entry in entries if entry.action == "promote"]
        assert len(promoted) == len(set(promoted)), f"promoted twice: {promoted}"
        return entries[len(entries) - len(fresh) :]


def check_entry(queue: MergeQueue, entry: Promotion) -> Manifest:
    """What was just deployed is whole, was judged by this queue, and passed.

    Raises:
        AssertionError: It is not.
    """
    location = S3Uri.parse(entry.location)
    manifest = Manifest.read(queue.store, location, entry.manifest_sha256)
    stored = {item.path for item in queue.store.list(location)}
    assert set(manifest.files) <= stored, f"unfinished: {set(manifest.files) - stored}"
    tasks = [expert.task for expert in manifest.experts]
    assert len(tasks) == len(set(tasks)), f"a task twice: {tasks}"
    if entry.action == "promote":
        decided = queue.attempts.find(manifest.build_key)
        assert decided is not None, f"version {entry.version} was never judged"
        assert decided.manifest_sha256 == entry.manifest_sha256
        assert decided.report.verdict in queue.family.gate.acceptable
        before = queue.promotions.entries()[: entry.sequence - 1]
        built_on = before[-1].deployment if before else 0
        assert manifest.champion_sequence == built_on, "built on another model"
        assert not (before and before[-1].frozen), "promoted while the family was frozen"
    return manifest


def deployed_experts(queue: MergeQueue) -> tuple[MergedExpert, ...]:
    """The experts of the deployed model."""
    newest = queue.promotions.newest()
    if newest is None:
        return ()
    location = S3Uri.parse(newest.location)
    return Manifest.read(queue.store, location, newest.manifest_sha256).experts


def mirror_faults(queue: MergeQueue) -> Iterator[str]:
    """Where MLflow does not say what the log says."""
    entries = queue.promotions.entries()
    versions = {v.version: v for v in queue.registry.merged.of(queue.name)}
    sources = {version.source for version in versions.values()}
    aliases = queue.registry.merged.aliases(queue.name)
    before = model_before(entries)
    wanted = {CHAMPION: entries[-1].location if entries else None}
    wanted[PREVIOUS] = str(before.location) if before else None
    for alias, location in wanted.items():
        to = versions.get(aliases.get(alias, 0))
        if (location is None or location in sources) and (to and to.source) != location:
            yield f"{alias} is version {to and to.version}, not that of {location}"
    for version in versions.values():
        deployed = bool(entries) and version.source == wanted[CHAMPION]
        if (version.status == "promoted") > deployed:
            yield f"version {version.version} is {version.status}, and not deployed"
    shown = [v for v in versions.values() if v.source == wanted[CHAMPION]]
    if shown and not any(version.status == "promoted" for version in shown):
        yield f"version {shown[-1].version} is {shown[-1].status}, and deployed"
    yield from _expert_faults(queue)


def _expert_faults(queue: MergeQueue) -> Iterator[str]:
    records = deployed_experts(queue)
    refs, contents = {r.ref for r in records}, {(r.task, r.digest) for r in records}
    for expert in queue.registry.experts.of(queue.name):
        if expert.ref in refs and expert.status != "merged":
            yield f"{expert.ref} is deployed, but {expert.status}"
        if expert.status == "merged" and (expert.task, expert.tags.digest) not in contents:
            yield f"{expert.ref} is merged, but not deployed"
        if expert.status in ("rejected", "held") and not expert.reason:
            yield f"{expert.ref} is {expert.status} without a reason"


def stuck(queue: MergeQueue) -> list[str]:
    """The experts that are neither settled nor in a candidate that waits for a person."""
    pending = [v for v in queue.registry.merged.of(queue.name) if v.status == "candidate"]
    in_review = {ref for version in pending for ref in version.tags.experts.values()}
    return [
        f"{e.ref} is {e.status}: {e.reason}"
        for e in queue.registry.experts.of(queue.name)
        if e.status in _OPEN and not (e.status == "merging" and e.ref in in_review)
    ]


def states(queue: MergeQueue) -> Mapping[str, str]:
    """Everything that people see of versions and experts, to compare two moments."""
    registry = queue.registry
    versions = registry.merged.of(queue.name)
    experts = registry.experts.of(queue.name)
    seen: dict[str, str] = {f"{queue.name}/{v.version}": v.tags.model_dump_json() for v in versions}
    seen |= {e.ref: e.tags.model_dump_json() for e in experts}
    return seen | {"aliases": json.dumps(registry.merged.aliases(queue.name), sort_keys=True)}
