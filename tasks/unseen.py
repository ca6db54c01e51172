"""What people registered or asked for and nobody would ever look at: it is named, once.

A family without a file here, a task without a family, a tag that says what it cannot say, an expert under the
name of a merged model. What is wrong stands on the version itself, which still waits: corrected, it goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from prefect import task

from infra.families import load_family
from infra.notify import Notice
from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion
from infra.registry.tags import FAMILY, PRIORITY, STATUS, WITHDRAW
from tasks.notify import notify
from tasks.retry import SIDE_EFFECT

PATIENCE = timedelta(hours=1)
"""Time that people have to set one tag after the other."""
_EXPECTED = {WITHDRAW: "true or false", PRIORITY: "a whole number"}


@task(**SIDE_EFFECT)
def name_unseen(queue: MergeQueue) -> None:
    """Names what nobody would ever look at, on its version and in a notice.

    Versions of no family at all are looked for by the first of the families only.
    """
    experts = queue.registry.experts
    for expert in experts.of(queue.name):
        for tag, value in expert.tags.malformed.items():
            words = f"Its tag {tag} says {value!r}; expected was {_EXPECTED.get(tag, 'something else')}."
            if tag != STATUS and expert.status:
                experts.settle(expert, expert.status, words)
            _tell(queue, expert, words)
        if expert.reason.startswith("Waits for its tag") and _is_old(expert):
            _tell(queue, expert, expert.reason)
    if queue.name != queue.settings.family_names()[0]:
        return
    for expert, words in _homeless(queue):
        if expert.status == "waiting" and _is_old(expert):
            _tell(queue, expert, words, everybody=True)
            experts.settle(expert, "waiting", words)


def _homeless(queue: MergeQueue) -> Iterator[tuple[ExpertVersion, str]]:
    """Versions that no family's sweep finds, and why."""
    known = queue.settings.family_names()
    listed = ", ".join(known)
    for expert in queue.registry.experts.everywhere():
        family = expert.tags.family
        if expert.name in known and "/merged/" not in expert.source:
            name = f"{expert.name} is the name of a family's merged models"
            yield expert, f"{name}, so nobody looks at it here. Register it under another."
        elif not family:
            yield expert, f"Its tag {FAMILY} is missing, so nobody looks at it. Families: {listed}."
        elif family not in known:
            words = f"Its tag {FAMILY} says {family!r}, of which there is no file here."
            yield expert, f"{words} Correct it ({listed}), or write the file."


def _is_old(expert: ExpertVersion) -> bool:
    return expert.registered is not None and datetime.now(UTC) - expert.registered > PATIENCE


def _tell(queue: MergeQueue, expert: ExpertVersion, words: str, *, everybody: bool = False) -> None:
    """Tells the family's people or, where it belongs to nobody, those of every family."""
    subject = f"{expert.ref} waits for somebody to look at it"
    notice = Notice("unseen", queue.name, subject, words, f"{expert.ref}: {words}")
    targets = queue.family.notify
    if everybody:
        settings = queue.settings
        families = [load_family(name, settings.families_dir) for name in settings.family_names()]
        targets = tuple(dict.fromkeys(target for family in families for target in family.notify))
    notify(queue, notice, targets)
