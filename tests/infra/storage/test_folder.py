"""What a folder has to keep beyond the common contract: nothing leaves its bucket."""

from __future__ import annotations

import pytest

from infra.storage.store import S3Uri
from merging.errors import InvalidInput


@pytest.mark.parametrize(
    ("bucket", "key"),
    [
        ("bucket", "../other/file"),
        ("bucket", "a/../../x"),
        ("bucket", "/etc/passwd"),
        ("bucket", "a//b"),
        ("bucket", "."),
        ("bucket", ""),
        ("..", "file"),
        (".beside", "file"),
    ],
)
def test_no_name_leads_out_of_its_bucket(store, bucket, key):
    uri = S3Uri(bucket, key)
    for use in (store.read, store.exists, store.list, store.delete):
        with pytest.raises(InvalidInput, match="plain file names"):
            use(uri)
    with pytest.raises(InvalidInput, match="plain file names"):
        store.write(uri, b"")


def test_no_link_leads_out_of_its_bucket(store, folder, tmp_path):
    (tmp_path / "secret").write_text("secret")
    store.write(folder / "file", b"")
    inside = tmp_path / "store" / folder.bucket / folder.key
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "links").symlink_to(tmp_path)

    assert [item.path for item in store.list(folder)] == ["file"]
    for path in ("link", "links/secret"):
        with pytest.raises(InvalidInput, match="inside its bucket"):
            store.read(folder / path)


def test_a_key_that_is_also_a_folder_is_refused_in_words(store, folder):
    store.write(folder / "a/b", b"")
    with pytest.raises(InvalidInput, match="also the folder"):
        store.write(folder / "a", b"")
    with pytest.raises(InvalidInput, match="also the folder"):
        store.create(folder / "a/b/c", b"")


def test_nothing_is_left_beside_objects(store, folder, tmp_path):
    store.write(folder / "a", b"1")
    store.create(folder / "b", b"1")
    assert list((tmp_path / "store" / ".beside").iterdir()) == []
