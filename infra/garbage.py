"""What lies in a family's folder in the object store and is needed by nothing any more.

Needed are the models that the promotion log names or that wait for review, the experts that a merged
model or MLflow still counts on, and what was decided and answered about them. Only what the queue wrote
itself is looked at, by the names that it gives.

It can be removed whatever runs at the same time:

* A candidate is built on one entry of the log, which is part of its key, and can be committed as the
  next entry only. Once a later entry deploys something it never can be, and no build looks for it.
* The folder of an expert is made for one upload, so what was found unneeded is never written to again.
* Answers that are gone are worked out again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from infra.errors import Corrupt, Refused, Unreadable
from infra.families import load_family
from infra.names import NAME_PATTERN
from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion
from infra.registry.merged import find_version
from infra.storage.manifest import Manifest
from infra.storage.promotions import Promotion, PromotionLog
from infra.storage.store import S3Uri, StoredObject
from merging.errors import InvalidInput
from merging.models.folder import MANIFEST

_KEY = "[0-9a-f]{64}"
_CANDIDATE = re.compile(rf"merged/({_KEY})/.+|attempts/({_KEY})\.json")
_MANIFEST = re.compile(rf"(merged/{_KEY})/{re.escape(MANIFEST)}")
_ANSWERS = re.compile(rf"answers/({_KEY})\.json")
_EXPERT = re.compile(rf"(experts/{NAME_PATTERN}/{_KEY}(?:-[0-9a-f]+)?)/.+")
# Time within which an upload is finished and the version that names it is made.
_UPLOADED_WITHIN = timedelta(days=1)


@dataclass(frozen=True)
class Unneeded:
    """Something that nothing needs.

    Attributes:
        path: Where it is, relative to the family's folder.
        why: Why it is not needed, for people.
        objects: Its objects in the order in which they are to be removed: what makes the others be
            found goes first.
        versions: Versions in MLflow whose files these are.
    """

    path: str
    why: str
    objects: tuple[StoredObject, ...]
    versions: tuple[ExpertVersion, ...] = ()

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return sum(item.size for item in self.objects)


def find_unneeded(queue: MergeQueue) -> tuple[list[Unneeded], str]:
    """Everything that may be removed from the family's folder.

    Returns:
        What it is, and a sentence about what was left alone because it could not be told.

    Raises:
        Refused: MLflow does not know the deployed version, so it cannot say what else is unneeded.
    """
    entries = queue.promotions.entries()
    there = queue.store.list(queue.family.root)
    versions = queue.registry.merged.of(queue.name)
    if entries and find_version(entries[-1].model, versions) is None:
        raise Refused(
            f"MLflow does not know version {entries[-1].version} of {queue.name}, which is deployed.",
            "Nothing was removed, since MLflow says what else is needed. First: "
            f"supermerge rebuild {queue.name}",
        )
    named = {entry.location for entry in entries}
    named |= {version.source for version in versions if version.status == "candidate"}
    found = _candidates(queue, there, entries, named)
    gone = {item.path for candidate in found for item in candidate.objects}
    try:
        manifests = _manifests(queue, [item for item in there if item.path not in gone])
    except (Corrupt, Unreadable, InvalidInput) as error:
        return found, f"Experts were left alone, since it cannot be told which are needed: {error}"
    known = queue.registry.experts.of(queue.name)
    found += _experts(queue, there, manifests, known)
    return found + _answers(there, manifests, known), ""


def needed_now(queue: MergeQueue, unneeded: Unneeded) -> bool:
    """Whether an expert has been registered or released since it was found."""
    is_expert = unneeded.path.startswith("experts/")
    return is_expert and _versions_in(queue, queue.family.root / unneeded.path)[1]


def _candidates(
    queue: MergeQueue,
    there: Iterable[StoredObject],
    entries: Sequence[Promotion],
    named: set[str],
) -> list[Unneeded]:
    """Merged models and decisions that can never be deployed any more."""
    if not entries:
        return []
    newest = entries[-1].deployment
    since = next(i.modified for i in there if i.path == f"promotions/{newest:08d}.json")
    groups: dict[str, list[StoredObject]] = {}
    for item in there:
        if match := _CANDIDATE.fullmatch(item.path):
            groups.setdefault(match[1] or match[2], []).append(item)
    found = []
    for key, objects in groups.items():
        location = queue.attempts.candidate(key)
        # The clock of the store wrote both: what is older than the entry was not built on it.
        if str(location) in named or any(item.modified >= since for item in objects):
            continue
        built_on = _built_on(queue, location)
        if built_on is None:
            why = "rejected, or never finished"
        elif built_on < newest:
            why = f"a candidate built on promotion {built_on} and never deployed"
        else:
            continue
        found.append(Unneeded(f"merged/{key}", why, tuple(sorted(objects, key=_order))))
    return found


def _built_on(queue: MergeQueue, location: S3Uri) -> int | None:
    try:
        return Manifest.read(queue.store, location).champion_sequence
    except (Corrupt, Unreadable):
        return None


def _order(item: StoredObject) -> tuple[bool, ...]:
    """A decision goes before the manifest that it names, and weights before what explains them."""
    name = item.path.rpartition("/")[2]
    decision = item.path.startswith("attempts/")
    return (not decision, name != MANIFEST, not name.endswith(".safetensors"))


def _manifests(queue: MergeQueue, there: Iterable[StoredObject]) -> list[Manifest]:
    """The manifests of merged models that stay, of this family and of those that may share experts.

    Raises:
        Corrupt, Unreadable, InvalidInput: One of them, or the file of a family, cannot be read.
    """
    places = [match[1] for item in there if (match := _MANIFEST.fullmatch(item.path))]
    found = [Manifest.read(queue.store, queue.family.root / place) for place in places]
    for name in queue.settings.family_names():
        other = load_family(name, queue.settings.families_dir)
        if name != queue.name and queue.family.bucket in (other.bucket, *other.expert_buckets):
            log = PromotionLog(queue.store, other.root / "promotions")
            models = {entry.model for entry in log.entries()}
            found += [Manifest.read(queue.store, m.location, m.manifest_sha256) for m in models]
    return found


def _answers(
    there: Iterable[StoredObject], manifests: Iterable[Manifest], known: Iterable[ExpertVersion]
) -> list[Unneeded]:
    """Answers of models that are gone, or that nobody compares with any more."""
    needed = {version.tags.digest for version in known}
    for manifest in manifests:
        needed |= {expert.digest for expert in manifest.experts}
        needed.add(manifest.model_digest)
    return [
        Unneeded(item.path, "answers of a model that is not needed", (item,))
        for item in there
        if (match := _ANSWERS.fullmatch(item.path)) and match[1] not in needed
    ]


def _experts(
    queue: MergeQueue,
    there: Iterable[StoredObject],
    manifests: Iterable[Manifest],
    known: Iterable[ExpertVersion],
) -> list[Unneeded]:
    """Experts of which no merged model was made, and that nobody waits for."""
    needed = {version.source for version in known if version.status != "rejected"}
    needed |= {expert.source for manifest in manifests for expert in manifest.experts}
    uploaded = datetime.now(UTC) - _UPLOADED_WITHIN
    groups: dict[str, list[StoredObject]] = {}
    for item in there:
        if match := _EXPERT.fullmatch(item.path):
            groups.setdefault(match[1], []).append(item)
    found = []
    for path, objects in groups.items():
        folder = queue.family.root / path
        if any(_within(source, folder) for source in needed):
            continue
        if any(item.modified > uploaded for item in objects):
            continue
        versions, counted_on = _versions_in(queue, folder)
        if not counted_on:
            why = "a rejected expert" if versions else "an expert without a version in MLflow"
            ordered = tuple(sorted(objects, key=_order))
            found.append(Unneeded(path, why, ordered, versions))
    return found


def _versions_in(queue: MergeQueue, folder: S3Uri) -> tuple[tuple[ExpertVersion, ...], bool]:
    """The versions whose files lie in a folder, and whether one of them may still be merged."""
    versions = queue.registry.experts.at(folder)
    return versions, any(version.status != "rejected" for version in versions)


def _within(source: str, folder: S3Uri) -> bool:
    """Whether the files at a source are those of a folder, some of them, or all and more."""
    ours, theirs = f"{folder}/", f"{source.rstrip('/')}/"
    return ours.startswith(theirs) or theirs.startswith(ours)
