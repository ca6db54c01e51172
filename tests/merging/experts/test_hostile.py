"""Files that lie are refused in a sentence, in bounded memory and time."""

from __future__ import annotations

import json
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint
from merging.safefile import load_tensors

Copy = Callable[[Path], Path]
INDEX = "model.safetensors.index.json"
MEMORY = 300 << 20  # Bytes that refusing a file may take beside what is taken already.


def tensor(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def safetensors(header: object, data: bytes = b"\0" * 16, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


HUNDRED_GB = 100 * 10**9
LIES = {
    "nothing": b"",
    "half a length": b"\0\0\0",
    "no header": safetensors(b""),
    "a header of 2⁶³ bytes": safetensors({}, length=1 << 63),
    "a header that ends in another place": safetensors({"a": tensor(0, 16, [4])}, length=5),
    "a large header": safetensors(b"{" + b" " * (33 << 20) + b"}"),
    "a deep header": safetensors(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "no JSON": safetensors(b"\xff\xfe{}"),
    "a list": safetensors([]),
    "100 GB in 16 bytes": safetensors({"a": tensor(0, HUNDRED_GB, [HUNDRED_GB // 4])}),
    "truncated": safetensors({"a": tensor(0, 16, [4])}, b"\0" * 15),
    "more than it says": safetensors({"a": tensor(0, 16, [4])}, b"\0" * 17),
    "overlap": safetensors({"a": tensor(0, 12, [3]), "b": tensor(8, 16, [2])}),
    "a hole": safetensors({"a": tensor(0, 4, [1]), "b": tensor(8, 16, [2])}),
    "backwards": safetensors({"a": tensor(16, 0, [4])}),
    "negative": safetensors({"a": tensor(-4, 12, [4])}),
    "another size than its shape": safetensors({"a": tensor(0, 16, [5])}),
    "a shape that overflows": safetensors({"a": tensor(0, 16, [1 << 62, 1 << 62, 4])}),
    "a negative shape": safetensors({"a": tensor(0, 16, [-4])}),
    "vast and empty": safetensors({"a": tensor(0, 0, [0, 1 << 60])}, b""),
    "an unknown dtype": safetensors({"a": tensor(0, 16, [4], "F99")}),
    "a dtype that is not read": safetensors({"a": tensor(0, 16, [16], "F8_E4M3")}),
    "no tensors": safetensors({}, b""),
    "metadata that is no text": safetensors({"__metadata__": {"a": 1}}, b""),
    "a pickle": b"PK\3\4" + b"\0" * 100,
}


@pytest.fixture(scope="module")
def checkpoint(text_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose files a test may overwrite, one at a time."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "config.json").write_bytes((text_base / "config.json").read_bytes())
    return folder


@pytest.mark.parametrize("case", LIES)
def test_a_weight_file_that_lies_is_refused(checkpoint: Path, case: str) -> None:
    (checkpoint / "model.safetensors").write_bytes(LIES[case])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    with pytest.raises(InvalidInput) as caught:
        Checkpoint.open(checkpoint)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before < MEMORY
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/root/x", "a/b", "..", "", "\n", "<b>x</b>", "\u202e", "a" * 5000]
)
def test_the_name_of_a_tensor_is_only_a_name(checkpoint: Path, name: str) -> None:
    (checkpoint / "model.safetensors").write_bytes(safetensors({name: tensor(0, 16, [4])}))
    opened = Checkpoint.open(checkpoint)
    assert [opened.read(n).shape for n in opened.tensors] == [(4,)]


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[1]"])
def test_metadata_that_lies_is_refused(tmp_path: Path, text: str) -> None:
    header = {"__metadata__": {"json": text}, "a": tensor(0, 16, [4])}
    (tmp_path / "a.safetensors").write_bytes(safetensors(header))
    with pytest.raises(InvalidInput):
        load_tensors(tmp_path / "a.safetensors")


def changed(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for place, length, new in changes:
        start = place % (len(content) + 1)
        content = content[:start] + new + content[start + length :]
    return content


PIECES = st.one_of(
    st.binary(max_size=4),
    st.sampled_from([b"9" * 18, b"-1", b"[", b"{", b'"', b"null", b"1e999", b'\\ud800"', b"true"]),
)
CHANGES = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.integers(0, 12), PIECES), min_size=1, max_size=4
)
FUZZED = settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", INDEX])
def test_a_damaged_file_is_read_or_refused(text_base: Path, tmp_path: Path, name: str) -> None:
    for path in text_base.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if name == INDEX:
        tensors = load_file(text_base / "model.safetensors")
        (tmp_path / "model.safetensors").unlink()
        save_file(tensors, tmp_path / "model-1.safetensors", {"format": "pt"})
        whole = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model-1.safetensors")}
        (tmp_path / INDEX).write_text(json.dumps(whole))
    path = tmp_path / name
    sound = path.read_bytes()

    @FUZZED
    @given(CHANGES)
    @example([(0, 0, b"")])
    def damage(changes: list[tuple[int, int, bytes]]) -> None:
        # What stands first in a weight file is what can lie.
        path.write_bytes(changed(sound[:6000], changes) + sound[6000:])
        try:
            opened = Checkpoint.open(tmp_path)
        except InvalidInput as error:
            assert len(str(error)) < 1000  # noqa: PT017 - most damage is refused, some is harmless
        else:
            for tensor_name, info in opened.tensors.items():
                assert opened.read(tensor_name).shape == info.shape

    damage()
