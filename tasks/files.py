"""Which files of a person's disk make up an expert."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePosixPath

from infra.names import check_relative_path
from infra.storage.layout import files_in, find_layout_on_disk
from merging.errors import InvalidInput
from merging.experts.table_names import TABLES
from merging.experts.tables import image_files
from merging.kinds import ModelKind


def expert_files(directory: Path, examples: Path | None, kind: ModelKind) -> dict[str, Path]:
    """What is uploaded of an expert: the file by its path in the target folder.

    Args:
        directory: The expert's folder.
        examples: Its table, where that is not in the folder.
        kind: The kind of model.

    Raises:
        InvalidInput: An image of the table would not be found where the table says.
    """
    files = {path: directory / path for path in files_in(directory)}
    _, table = find_layout_on_disk(directory, examples)
    place = PurePosixPath()
    if examples is None:
        place = PurePosixPath(table.relative_to(directory).parent.as_posix())
    else:  # A table given apart stands for any in the folder.
        files = {p: file for p, file in files.items() if PurePosixPath(p).name not in TABLES}
        files[f"examples{examples.suffix}"] = examples
    if kind.reads_images:
        known = {unicodedata.normalize("NFC", path): path for path in files}
        for image in image_files(table):
            path = (place / image.relative_to(table.parent.resolve()).as_posix()).as_posix()
            there = known.get(unicodedata.normalize("NFC", path))
            if examples is not None and there is None:
                files[check_relative_path(path, str(examples))] = image
            elif there is None or not files[there].samefile(image):
                raise InvalidInput(
                    where=str(table),
                    expected="images among the files that are uploaded, each under a path of its own",
                    found=repr(path[:200]),
                    remedy="Rename it (no leading dot), or put the images' bytes into the table.",
                )
    return dict(sorted(files.items()))
