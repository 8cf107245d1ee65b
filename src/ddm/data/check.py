"""What a folder or a table of images holds, and what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ddm.cores import cores
from ddm.data import huggingface, wilds
from ddm.data.arrays import read_array
from ddm.data.base import split_by_group
from ddm.data.benchmarks import UNLISTED, Fault, Survey
from ddm.data.folder import (
    check_unicode,
    has_classes,
    is_unicode,
    lie_apart,
    list_images,
    other_formats,
)
from ddm.data.images import UnreadableImage, read_image
from ddm.data.manifest import MANIFESTS, read_listed
from ddm.data.recognition import recognize, refuse_near_miss
from ddm.errors import DdmError

# Decoding at a small size still reads the whole file.
_DECODED_SIZE = 32
_AT_ONCE = 64
_SHOWN = 5
_CLASS_COLUMNS = 12
#: In the order of a table's columns.
_SPLITS = ("train", "id_val", "val", "id_test", "test", UNLISTED)


@dataclass(frozen=True)
class Count:
    """How many images of one domain, class and split there are; ``""`` where there is none."""

    domain: str
    label: str
    split: str
    images: int


@dataclass(frozen=True)
class DataReport:
    """What lies in a folder, or is listed in a manifest.

    Args:
        root: the folder or manifest.
        layout: what it is, in a few words.
        images: how many, readable or not, duplicates included.
        counts: how many by domain, class and split, those of which there are none left out.
        faults: one line for each reason why a reader refuses the folder.
        missing: domains, classes (``domain/class/``) and images that should be there.
        unreadable: (image, reason).
        duplicates_within: images of one domain whose files are equal byte by byte.
        duplicates_across: such images that lie in several domains.
        duplicates_parted: those of either kind that are in several splits.
        stray: files and folders that belong to no domain or class, folders with a final ``/``.
        unlisted: images that no split file names, where there are split files.
        remarks: what a reader takes and its user may not mean, a line each.
    """

    root: str
    layout: str
    images: int
    counts: tuple[Count, ...]
    faults: tuple[str, ...]
    missing: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    duplicates_within: tuple[tuple[str, ...], ...]
    duplicates_across: tuple[tuple[str, ...], ...]
    duplicates_parted: tuple[tuple[str, ...], ...]
    stray: tuple[str, ...]
    unlisted: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether a reader takes the folder as it is."""
        return not self.faults and self.images > len(self.unreadable)

    def to_json(self) -> str:
        """The report as a JSON object, with all names."""
        return json.dumps({"usable": self.usable, **asdict(self)}, ensure_ascii=False, indent=1)

    def __str__(self) -> str:
        """The report as a table and the first names of each kind of trouble."""
        return "\n".join([*self._head(), "", *self._table(), *self._troubles()])

    def _head(self) -> list[str]:
        domains = len({c.domain for c in self.counts if c.domain})
        labels = len({c.label for c in self.counts if c.label})
        return [
            f"{self.root}: {self.layout}",
            f"{_number(self.images, 'image')}, {_number(domains, 'domain')}, "
            + (_number(labels, "class", "classes") if labels else "no classes"),
        ]

    def _table(self) -> list[str]:
        labels = sorted({c.label for c in self.counts if c.label})
        present = {c.split for c in self.counts}
        splits = [s for s in _SPLITS if s in present] + sorted(present - {*_SPLITS})
        total: Counter[tuple[str, str, str]] = Counter()
        for c in self.counts:
            for domain in (c.domain, "all"):
                total[domain, "", ""] += c.images
                total[domain, "split", c.split] += c.images
                total[domain, "class", c.label] += c.images
        columns = [("images", "", ""), *((s or "no split", "split", s) for s in splits)]
        if len(labels) <= _CLASS_COLUMNS:
            columns += [(label, "class", label) for label in labels]
        rows = [["domain", *(title for title, _, _ in columns)]]
        for domain in [*sorted({c.domain for c in self.counts}), "all"]:
            rows.append([domain, *(f"{total[domain, kind, name]:,}" for _, kind, name in columns)])
            if len(labels) > _CLASS_COLUMNS:
                sizes = [total[domain, "class", label] for label in labels]
                rows[-1].append(f"{min(sizes):,} to {max(sizes):,}")
        if len(labels) > _CLASS_COLUMNS:
            rows[0].append("per class")
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]

    def _troubles(self) -> list[str]:
        lines: list[str] = []

        def tell(title: str, items: Sequence[str], all_of_them: bool = False) -> None:
            if items:
                shown = items if all_of_them else items[:_SHOWN]
                lines.extend(["", f"{title}: {len(items):,}", *(f"  {item}" for item in shown)])
                if len(items) > len(shown):
                    lines.append(f"  ... and {len(items) - len(shown):,} more (--json lists all)")

        tell("Refused by the reader", self.faults, all_of_them=True)
        tell("To be looked at", self.remarks, all_of_them=True)
        tell("Missing", self.missing)
        tell("Unreadable", [f"{key} ({reason})" for key, reason in self.unreadable])
        tell("Duplicated within a domain", [" = ".join(g) for g in self.duplicates_within])
        tell("Duplicated across domains", [" = ".join(g) for g in self.duplicates_across])
        tell("Duplicated across splits", [" = ".join(g) for g in self.duplicates_parted])
        tell("Stray", self.stray)
        tell("In no split file", self.unlisted)
        return lines or [
            "",
            "Nothing is missing, unreadable, duplicated or stray.",
        ]


def check_data(root: str | os.PathLike[str]) -> DataReport:
    """Say what images a folder or manifest holds and what is wrong; every image is decoded.

    Takes PACS, DomainNet, OfficeHome, VLCS and TerraIncognita in the layouts that the readers know,
    WILDS, saved Hugging Face data sets, and any folder that `load_folder` or manifest that
    `load_manifest` reads. What a reader refuses is reported, not raised, but for a table that
    cannot be read. Works on all cores, under a progress bar on stderr. Duplicates are files of
    equal content; the same picture in another encoding is not found. Stray files are not looked for
    where a table names every image, as a manifest and those of WILDS do.

    Args:
        root: the folder or manifest.

    Returns:
        The report; ``str(report)`` is a readable table.

    Raises:
        DdmError: a root that is missing or without images, or a file and no manifest; the folder
            just above or below a benchmark's; a folder that cannot be listed; a benchmark's image
            whose name is not UTF-8; HDF5 files without ``h5py``, or damaged ones; a table of WILDS
            that is missing or damaged; a manifest that `load_manifest` refuses for what it says.
    """
    root = Path(root)
    found = _find(root)
    digests, unreadable = _read_all(found)
    copies = _copies(digests)
    counts = Counter(zip(found.domains, found.labels, found.splits, strict=True))
    return DataReport(
        root=os.fspath(root),
        layout=found.layout,
        images=len(found.keys) + len(found.unreadable),
        counts=tuple(Count(*place, n) for place, n in sorted(counts.items())),
        faults=tuple(fault.message for fault in found.faults),
        missing=tuple(
            dict.fromkeys(
                [
                    *(i for fault in found.faults if fault.kind == "missing" for i in fault.items),
                    *found.missing,
                ]
            )
        ),
        unreadable=(*found.unreadable, *unreadable),
        duplicates_within=_named(found, copies, lambda g: not _several(found.domains, g)),
        duplicates_across=_named(found, copies, lambda g: _several(found.domains, g)),
        duplicates_parted=_named(found, copies, lambda g: _several(found.splits, g)),
        stray=tuple(found.stray),
        unlisted=tuple(
            key for key, s in zip(found.keys, found.splits, strict=True) if s == UNLISTED
        ),
        remarks=tuple(found.remarks),
    )


@dataclass(frozen=True)
class _Found:
    """The images by name, N of them, with their domains, classes and splits by name."""

    layout: str
    #: The bytes of an image that can be decoded; raises `UnreadableImage`.
    content: Callable[[int], bytes]
    keys: list[str]
    domains: list[str]
    labels: list[str]
    splits: list[str]
    faults: list[Fault] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    #: Those that are not among the keys.
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def _find(root: Path) -> _Found:
    if root.is_file() and root.suffix.lower() in MANIFESTS:
        return _of_manifest(root)
    if wilds.recognize(root) is not None:
        return _of_wilds(root)
    if huggingface.recognize(root) is not None:
        return _of_huggingface(root)
    refuse_near_miss(root)
    source = recognize(root)
    return _of_folder(root) if source is None else _of_survey(source.survey(root))


def _of_manifest(path: Path) -> _Found:
    listed, _, splits, table = read_listed(path)
    there = np.flatnonzero([(path.parent / key).is_file() for key in listed])
    keys = [listed[int(i)] for i in there]
    missing = np.setdiff1d(np.arange(len(listed)), there)
    fault = f"none of the {len(listed):,} files that {path} lists exists under {path.parent}"

    def column(name: str) -> list[str]:
        return [table[name][i] for i in there] if name in table else [""] * len(keys)

    return _Found(
        "manifest",
        _content(path.parent, keys, partial(read_image, size=_DECODED_SIZE)),
        keys,
        column("domain"),
        column("class"),
        splits[there].tolist(),
        faults=[] if keys else [Fault("missing", fault)],
        missing=[listed[int(i)] for i in missing],
    )


def _of_wilds(root: Path) -> _Found:
    part, domains, layout, bands = wilds.survey(root)
    there = [(root / key).is_file() for key in part.keys]
    rows = np.flatnonzero(there)
    kept = part.subset(rows)
    labels = kept.labels if kept.labels is not None else np.full(len(rows), -1)
    read: Callable[[Path], object] = partial(read_image, size=_DECODED_SIZE)
    if bands != 3:
        read = partial(read_array, size=_DECODED_SIZE, channels=bands)
    missing = [key for key, found in zip(part.keys, there, strict=True) if not found]
    fault = f"{root} holds none of the {len(missing):,} images that its table lists"
    return _Found(
        layout,
        _content(root, kept.keys, read),
        kept.keys,
        [domains.names[i] for i in domains.index[rows]],
        [part.classes[i] if i >= 0 else "" for i in labels],
        kept.splits.tolist(),
        faults=[] if len(rows) else [Fault("missing", fault)],
        missing=missing,
    )


def _of_huggingface(root: Path) -> _Found:
    dataset = huggingface.load_huggingface(root, _DECODED_SIZE)
    assert isinstance(dataset.read, huggingface.ArrowReader)
    label = next(iter(dataset.labels.values()), None)
    names = (*dataset.domains.names, "")
    return _Found(
        "saved Hugging Face data set",
        dataset.read.content,
        list(dataset.keys),
        [names[i] for i in dataset.domains.index],
        [""] * len(dataset) if label is None else [(*label.names, "")[i] for i in label.index],
        dataset.splits.tolist(),
        unreadable=list(dataset.skipped),
    )


def _content(
    folder: Path, keys: Sequence[str], read: Callable[[Path], object]
) -> Callable[[int], bytes]:
    """Reads the bytes of a file that ``read`` can decode."""

    def content(i: int) -> bytes:
        path = folder / keys[i]
        read(path)
        return path.read_bytes()

    return content


def _of_survey(survey: Survey) -> _Found:
    benchmark, rows = survey.benchmark, survey.rows
    content = _content(survey.folder, survey.keys, partial(read_image, size=_DECODED_SIZE))
    return _Found(
        survey.layout,
        content if rows is None else lambda i: rows.raw(i).tobytes(),
        survey.keys,
        [benchmark.domains[i] for i in survey.domains],
        [benchmark.classes[i] for i in survey.labels],
        survey.final_splits().tolist(),
        survey.faults,
        survey.stray,
    )


def _of_folder(root: Path) -> _Found:
    listed, others = list_images(root)
    keys = [key for key in listed if is_unicode(key)]
    faults, stray = [], []
    try:
        check_unicode(root, listed)
    except DdmError as error:
        faults.append(Fault("stray", str(error)))
    try:
        with_classes = has_classes(root, keys)
    except DdmError as error:
        faults.append(Fault("stray", str(error)))
        with_classes = any(key.count("/") > 1 for key in keys)
        depth = 2 if with_classes else 1
        stray = [key for key in keys if key.count("/") < depth]
    if not any("/" in key for key in keys):
        # Not one of them is astray: there are no domains at all.
        stray, layout = [], "flat folder, without domains"
    else:
        layout = "folder of domains and classes" if with_classes else "folder of domains"
    places = [unicodedata.normalize("NFC", key).split("/") for key in keys]
    domains = [place[0] if len(place) > 1 else "" for place in places]
    classes = [place[1] if with_classes and len(place) > 2 else "" for place in places]
    remarks = [other_formats(others)] if others else []
    if apart := lie_apart(domains, classes):
        remarks.append(apart)
    return _Found(
        layout,
        _content(root, keys, partial(read_image, size=_DECODED_SIZE)),
        keys,
        domains,
        classes,
        split_by_group(keys).tolist(),
        faults,
        stray,
        remarks=remarks,
    )


def _read_all(found: _Found) -> tuple[list[bytes], tuple[tuple[str, str], ...]]:
    """A digest of each image's content (empty where it cannot be read), and the unreadable ones."""

    def examine(start: int) -> list[tuple[bytes, str]]:
        results = []
        for i in range(start, min(start + _AT_ONCE, len(found.keys))):
            try:
                results.append((_digest(found.content(i)), ""))
            except UnreadableImage as error:
                results.append((b"", error.reason))
        return results

    results: list[tuple[bytes, str]] = []
    # Threads are enough: Pillow and hashlib release the interpreter's lock while they work.
    with (
        ThreadPoolExecutor(cores()) as pool,
        tqdm(total=len(found.keys), desc="Checking images", unit="image") as progress,
    ):
        for part in pool.map(examine, range(0, len(found.keys), _AT_ONCE)):
            results += part
            progress.update(len(part))
    unreadable = tuple(
        (key, reason) for key, (_, reason) in zip(found.keys, results, strict=True) if reason
    )
    return [digest for digest, _ in results], unreadable


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _copies(digests: Sequence[bytes]) -> list[list[int]]:
    """Groups of equal images."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, digest in enumerate(digests):
        if digest:
            groups[digest].append(i)
    return [members for members in groups.values() if len(members) > 1]


def _several(places: Sequence[str], members: Sequence[int]) -> bool:
    """Whether these images lie in several domains or splits; where none is known is no place."""
    return len({places[i] for i in members if places[i]}) > 1


def _named(
    found: _Found, groups: Sequence[Sequence[int]], where: Callable[[Sequence[int]], bool]
) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(found.keys[i] for i in members) for members in groups if where(members))


def _number(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"
