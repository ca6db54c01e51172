"""Looking at a pulled expert before it costs anything: does it fit, and are its examples usable?"""

from __future__ import annotations

from prefect import task

from infra.contracts import check_examples
from infra.layout import find_layout_on_disk
from infra.manifest import MergedExpert
from infra.queue import MergeQueue
from merging.errors import IncompatibleExpert, InvalidInput
from merging.experts import open_expert
from merging.preflight import check_expert
from tasks.values import Base, Member, Pulled


@task
def preflight(queue: MergeQueue, base: Base, pulled: Pulled) -> Member:
    """Opens an expert after checking its weights against the base and its examples table.

    Raises:
        IncompatibleExpert: its tensors, tokenizer or configuration differ from the base's.
        InvalidInput: its examples table does not keep the data contract.
    """
    kind = queue.family.kind
    layout = find_layout_on_disk(pulled.directory)
    checkpoint = pulled.directory / layout.checkpoint
    table = pulled.directory / layout.examples
    if mismatches := check_expert(base.directory, checkpoint, kind):
        raise IncompatibleExpert(
            pulled.version.ref,
            mismatches,
            f"Fine-tune it again from the base of family {queue.name!r} ({queue.family.base}).",
        )
    expert = open_expert(pulled.version.task, checkpoint, kind, examples=table)
    contract = check_examples(table, expert, kind, queue.family.gate)
    if not contract.passed:
        raise InvalidInput(
            where=f"examples of {pulled.version.ref}",
            expected="a table that keeps the data contract",
            found=" ".join(contract.sentences),
            remedy="Correct the table and register the expert again.",
        )
    record = MergedExpert(
        task=pulled.version.task,
        name=pulled.version.name,
        version=pulled.version.version,
        source=str(pulled.source),
        digest=pulled.digest,
    )
    return Member(record, expert)
