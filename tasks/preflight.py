"""Looking at an expert before it costs anything: does it fit, and are its examples usable?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from prefect import task

from infra.contracts import ContractResult, check_examples
from infra.engine import Engine
from infra.families import Family
from infra.storage.layout import find_layout_on_disk, left_aside, paths_in
from infra.storage.manifest import MergedExpert
from merging.errors import InvalidInput, MergeQueueError
from merging.experts.expert import Expert, ExpertFiles, open_expert, read_head
from merging.experts.tables import read_table
from merging.preflight.expert import check_task_model, comparisons
from merging.preflight.mismatch import Mismatch
from merging.preflight.proof import prove
from merging.preflight.remarks import remarks
from merging.preflight.rounding import rounding_remarks
from tasks.files import expert_files
from tasks.inspection import Inspection, Told
from tasks.values import Base, Member, Pulled


class IncompatibleExpert(MergeQueueError):
    """An expert cannot be merged into this base.

    Attributes:
        where: The expert, as people call it.
        mismatches: Each tensor or setting that does not fit.
        remedy: What to do, as a sentence.
    """

    def __init__(self, where: str, mismatches: Sequence[Mismatch], remedy: str) -> None:
        rows = "\n".join(
            f"  {m.tensor}: expected {m.expected}, found {m.found}" for m in mismatches
        )
        super().__init__(f"{where} does not fit its base:\n{rows}\n{remedy}")
        self.where = where
        self.mismatches = tuple(mismatches)
        self.remedy = remedy


class Checked(NamedTuple):
    """An expert that fits.

    Attributes:
        expert: The expert, opened.
        contract: How its examples table keeps the data contract.
        remarks: Sentences worth knowing, none of which keeps it from being merged.
    """

    expert: Expert
    contract: ContractResult
    remarks: tuple[str, ...]


@task(persist_result=False)
def preflight(family: Family, engine: Engine, base: Base, pulled: Pulled) -> Member:
    """Opens a pulled expert after checking it; raises as :func:`open_checked` does."""
    version, where = pulled.version, pulled.directory
    tags = version.tags
    checked = open_checked(family, base, version.task, where, version.ref, prove=engine.prove)
    record = MergedExpert(
        task=version.task,
        name=version.name,
        version=version.version,
        source=str(pulled.source),
        digest=pulled.digest,
    )
    known = (*pulled.remarks, *checked.remarks)
    return Member(
        record,
        checked.expert,
        checked.contract,
        tags.releases or 0,
        known,
        replaces=tags.replaces,
        wish=tags.wish,
    )


def open_checked(
    family: Family,
    base: Base,
    task_name: str,
    directory: Path,
    who: str,
    told: Told = lambda _: None,
    examples: Path | None = None,
    *,
    prove: Callable[..., tuple[Mismatch, ...]] = prove,
) -> Checked:
    """Opens an expert's folder after checking weights and examples.

    Args:
        family: What it is to be merged into.
        base: What it has to fit.
        task_name: Its ML task.
        directory: Its folder.
        who: What messages call it.
        prove: Holds the opened expert against its author's library, as `merging.preflight.proof` does.
        told: Is told what each check found, also those after one that refused.
        examples: Its examples table, where that is not in the folder.

    Raises:
        IncompatibleExpert: Its tensors, tokenizer or configuration differ from the base's, or it
            answers otherwise than as its author's library loads it.
        InvalidInput: Its examples table does not keep the data contract.
    """
    kind, inspection = family.kind, Inspection(told)
    with inspection.look("files") as aside:
        aside += left_aside(paths_in(directory), str(directory))
        checkpoint, table = find_layout_on_disk(directory, examples)
        files = ExpertFiles(checkpoint, base.checkpoint)
        _ = files.config, files.adapter if files.is_adapter else files.checkpoint
    inspection.stop_if_refused()

    def fits(mismatches: Iterable[Mismatch]) -> None:
        if found := tuple(mismatches):
            raise _incompatible(family, who, found)

    for check, mismatches in comparisons(base.checkpoint, files, kind):
        with inspection.look(check):
            fits(mismatches)
    if not inspection.refusals:
        with inspection.look("values"):
            fits(check_task_model(base.checkpoint, files, kind))
    with inspection.look("examples") as warnings:
        expert_files(directory, examples, kind)
        contract = _check_table(family, files, table, task_name, who)
        warnings += contract.warnings
    inspection.stop_if_refused()
    with inspection.look("expert") as sentences:
        opened = open_expert(task_name, files, kind, examples=table)
        expert = opened.on(base.checkpoint, kind)
        sentences += remarks(expert)
        write_dtype = family.merge.write_dtype
        sentences += rounding_remarks(base.checkpoint, expert, kind, write_dtype)
    inspection.stop_if_refused()
    with inspection.look("proof"):
        fits(prove(base.checkpoint, expert, kind, told=inspection.measured))
    inspection.stop_if_refused()
    return Checked(expert, contract, (*aside, *sentences))


def _check_table(
    family: Family, files: ExpertFiles, table: Path, task_name: str, who: str
) -> ContractResult:
    labels = read_head(task_name, files, family.kind).labels
    contract = check_examples(read_table(table), family.kind, labels, family.gate, task=task_name)
    if not contract.passed:
        found = " ".join(contract.sentences)
        raise InvalidInput(
            where=f"examples of {who}",
            expected="a table that keeps the data contract",
            found=found,
            remedy=f"Correct the table and register the expert again.{files.label_hint(found)}",
        )
    return contract


def _incompatible(family: Family, who: str, mismatches: Sequence[Mismatch]) -> IncompatibleExpert:
    again = f"Fine-tune it again from the base of family {family.name!r} ({family.base})."
    # What may be mended otherwise comes first: most people stop at the first remedy.
    remedies = dict.fromkeys(m.remedy or again for m in mismatches)
    return IncompatibleExpert(who, mismatches, " ".join(sorted(remedies, key=again.__eq__)))
