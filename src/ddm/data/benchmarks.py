"""What the readers of image benchmarks share: known folders, and what is wrong with them.

A survey lists what lies on the disk and every fault in it, without opening an image. A reader
refuses at the first fault; `ddm.data.check` reports them all.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ddm.data.base import ImageDataset, ImageReader, Labels, split_by_group
from ddm.data.folder import check_unicode, is_hidden, walk_images
from ddm.data.images import check_images, is_image_name, keep_readable
from ddm.data.rows import RowReader, Rows
from ddm.domains import DomainTable
from ddm.errors import DdmError

#: In no split of a set that has official ones.
UNLISTED = ""

#: Use the official splits where there are any, or draw them all anew.
Splits = Literal["official", "drawn"]

_NAMED_AT_MOST = 3
_REMEDY = "complete the download, or take what there is (--partial)"
# What is looked at in search of the folder that was meant, so that the search takes no time.
_LOOKED_INTO_AT_MOST = 20
_DOMAINS_AMONG_AT_MOST = 200


@dataclass(frozen=True)
class Benchmark:
    """A data set that everyone knows by its folders: ``<domain>/<class>/<image>``.

    Args:
        title: what people call it.
        domains: its domains, as their folders are called. Case, spaces, ``_`` and ``-`` may differ
            on the disk.
        classes: its classes, in the order of their official labels.
        beside: folders that its archives and tools leave beside the domains, ``Path``-like names.
        everywhere: whether each domain holds each class.
        by_name: whether equal file names in one domain are one image, filed under several classes.
    """

    title: str
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    beside: tuple[str, ...] = ()
    everywhere: bool = True
    by_name: bool = False

    def domain(self, folder: str) -> int | None:
        """Index of the domain that a folder of this name holds."""
        return _positions(self.domains).get(_plain(folder))

    def label(self, folder: str) -> int | None:
        """Index of the class that a folder of this name holds."""
        return _positions(self.classes).get(_plain(folder))


@dataclass(frozen=True)
class Fault:
    """Something that a reader refuses.

    Args:
        kind: ``"missing"`` (also tolerated as partial), ``"stray"`` or ``"split"`` (a split file
            that cannot be right).
        message: one line that names the culprit and the remedy.
        items: all the culprits, where the line names only the first.
    """

    kind: Literal["missing", "stray", "split"]
    message: str
    items: tuple[str, ...] = ()


@dataclass
class Survey:
    """What lies on the disk of one benchmark, by name alone.

    Args:
        benchmark: which one.
        layout: which of its layouts, in a few words.
        folder: what the keys are relative to: the folder of the domains.
        wanted: the classes to look at, indices into the benchmark's, in the order of their labels.
        keys: all images in known domains and classes, sorted.
        domains: domain of each, index into the benchmark's.
        labels: class of each, index into the benchmark's.
        splits: split of each, `UNLISTED` where no split file names it; None where there are no
            official splits.
        faults: what a reader refuses.
        stray: files and folders that belong to no domain or class, folders with a final ``/``.
        rows: where the images are not files of their own; the keys are mere names then.
    """

    benchmark: Benchmark
    layout: str
    folder: Path
    wanted: tuple[int, ...]
    keys: list[str] = field(default_factory=list)
    domains: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    splits: list[str] | None = None
    faults: list[Fault] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    rows: Rows | None = None

    def final_splits(self) -> NDArray[np.str_]:
        """The official splits, shape (N,), or drawn ones where there are none."""
        if self.splits is not None:
            return np.array(self.splits, dtype=str)
        return split_by_group(self.group_names())

    def group_names(self) -> list[str]:
        """A name of each image's group, N of them.

        Under the usual names of domain and class, so that one image is drawn into one split however
        an archive spelt its folders ("Real World", "RealWorld") and accents.
        """
        if self.rows is not None:
            return self.keys
        names = []
        for key, domain, label in zip(self.keys, self.domains, self.labels, strict=True):
            name = unicodedata.normalize("NFC", key.split("/", 2)[2])
            middle = "" if self.benchmark.by_name else f"{self.benchmark.classes[label]}/"
            names.append(f"{self.benchmark.domains[domain]}/{middle}{name}")
        return names

    def refuse(self, partial: bool) -> None:
        """Raise `DdmError` at the first fault; ``partial`` forgives what is missing."""
        for fault in self.faults:
            if not (partial and fault.kind == "missing"):
                raise DdmError(fault.message)


def survey_folders(
    folder: Path, benchmark: Benchmark, layout: str, classes: Sequence[str] | None = None
) -> Survey:
    """List ``folder/<domain>/<class>/**/image``.

    Args:
        folder: the folder of the domains.
        benchmark: which data set it is.
        layout: which of its layouts, in a few words.
        classes: those to look at, in the order of their labels; all for None.

    Raises:
        DdmError: a class that the benchmark lacks or that repeats; a folder that cannot be listed;
            a name that is not UTF-8.
    """
    survey = Survey(benchmark, layout, folder, wanted_classes(benchmark, classes))
    wanted = frozenset(survey.wanted)
    folder_of: dict[tuple[int, int], list[str]] = defaultdict(list)
    rows: list[tuple[str, int, int]] = []
    for domain_name, domain in _known_folders(survey, "", benchmark.domains, benchmark.beside):
        for class_name, label in _known_folders(survey, domain_name, benchmark.classes, ()):
            if label not in wanted:
                continue
            place = f"{domain_name}/{class_name}"
            # A link in a class folder that leads back up must not bring in the other classes.
            above = frozenset(map(_identity, (folder, folder / domain_name)))
            keys = list(walk_images(os.fspath(folder / place), f"{place}/", above))
            rows += [(key, domain, label) for key in keys]
            if keys:
                folder_of[domain, label].append(place)
    _look_for_missing(survey, set(folder_of))
    for (domain, label), places in folder_of.items():
        if len(places) > 1:
            survey.faults.append(
                Fault(
                    "stray",
                    f"{folder / places[0]} and {folder / places[1]} both hold class "
                    f"{benchmark.classes[label]!r} of {benchmark.domains[domain]!r}: "
                    "keep one of the two",
                    tuple(places),
                )
            )
    rows.sort()
    survey.keys = [key for key, _, _ in rows]
    survey.domains = [domain for _, domain, _ in rows]
    survey.labels = [label for _, _, label in rows]
    check_unicode(folder, survey.keys)
    return survey


def wanted_classes(benchmark: Benchmark, classes: Sequence[str] | None) -> tuple[int, ...]:
    """Indices of the named classes; of all for None. `DdmError` for an unknown or repeated one."""
    if classes is None:
        return tuple(range(len(benchmark.classes)))
    wanted: list[int] = []
    for name in classes:
        label = benchmark.label(name)
        if label is None or label in wanted:
            what = "is no class of" if label is None else "is named twice among the classes of"
            raise DdmError(
                f"classes: {name!r} {what} {benchmark.title} ({some(benchmark.classes)})"
            )
        wanted.append(label)
    return tuple(wanted)


def _known_folders(
    survey: Survey, inside: str, names: Sequence[str], beside: Sequence[str]
) -> Iterator[tuple[str, int]]:
    """Domain folders of the root, or class folders of the domain ``inside``; notes the strays."""
    folder, positions = survey.folder / inside, _positions(tuple(names))
    ignored = {_plain(name) for name in beside}
    for entry in _listing(folder):
        name = f"{inside}/{entry.name}" if inside else entry.name
        if not entry.is_dir():
            if is_image_name(entry.name):
                survey.stray.append(name)
            continue
        position = positions.get(_plain(entry.name))
        if position is not None:
            yield entry.name, position
        elif _plain(entry.name) not in ignored:
            survey.stray.append(f"{name}/")
            # A folder of notes does no harm. Images would become a domain or class of their own in
            # other people's readers, and shift the numbers of those that follow.
            if next(walk_images(entry.path), None) is not None:
                what = "class" if inside else "domain"
                survey.faults.append(
                    Fault(
                        "stray",
                        f"{folder / entry.name} holds images, but is no {what} of "
                        f"{survey.benchmark.title} ({some(names)}): move it out of {folder}",
                        (f"{name}/",),
                    )
                )


def _look_for_missing(survey: Survey, present: set[tuple[int, int]]) -> None:
    benchmark, folder = survey.benchmark, survey.folder
    domains = sorted({domain for domain, _ in present})
    lacking = [name for i, name in enumerate(benchmark.domains) if i not in domains]
    if lacking:
        survey.faults.append(
            Fault(
                "missing",
                f"{folder} lacks {len(lacking)} of {benchmark.title}'s {len(benchmark.domains)} "
                f"domains ({some(lacking)}): {_REMEDY}",
                tuple(f"{name}/" for name in lacking),
            )
        )
    found = {label for _, label in present}
    nowhere = [benchmark.classes[i] for i in survey.wanted if i not in found]
    if nowhere:
        survey.faults.append(
            Fault(
                "missing",
                f"{folder} lacks {len(nowhere)} of {benchmark.title}'s {len(survey.wanted)} "
                f"classes ({some(nowhere)}): {_REMEDY}",
                tuple(f"*/{name}/" for name in nowhere),
            )
        )
    if not benchmark.everywhere:
        return
    gaps = [
        f"{benchmark.domains[domain]}/{benchmark.classes[label]}/"
        for domain in domains
        for label in sorted(found)
        if (domain, label) not in present
    ]
    if gaps:
        survey.faults.append(
            Fault(
                "missing",
                f"{folder} lacks images of {len(gaps)} classes in some domain ({some(gaps)}): "
                + _REMEDY,
                tuple(gaps),
            )
        )


def open_survey(
    survey: Survey,
    size: int,
    channels: int,
    strict: bool,
    partial: bool,
) -> ImageDataset:
    """The surveyed images as a data set.

    Where there are no official splits they are drawn, by a hash of each key. Images that no
    official split names are left out, and listed as skipped.

    Args:
        survey: what lies on the disk.
        size: side of the square images in pixels.
        channels: 3 for colour, 1 for grey.
        strict: refuse the data if an image cannot be read, rather than skip that image.
        partial: take what there is where images, classes or domains are missing.

    Raises:
        DdmError: a fault of the survey; no image is left; under ``strict``, an unreadable image.
    """
    survey.refuse(partial)
    benchmark = survey.benchmark
    chosen = list(range(len(survey.keys)))
    unlisted: list[int] = []
    if survey.splits is not None:
        unlisted = [i for i in chosen if survey.splits[i] == UNLISTED]
        chosen = [i for i in chosen if survey.splits[i] != UNLISTED]
    if not chosen:
        raise DdmError(f"{survey.folder} holds no images of {benchmark.title}: complete it")
    reader, kept, skipped, enlarged = _keep_readable(survey, chosen, size, channels, strict)
    rows = np.array([chosen[k] for k in kept])
    keys = [survey.keys[i] for i in rows]
    groups = np.arange(len(rows))
    if benchmark.by_name:
        names = survey.group_names()
        groups = Labels.from_names([names[i] for i in rows]).index
    label_of = {label: i for i, label in enumerate(survey.wanted)}
    return ImageDataset(
        name=benchmark.title,
        keys=tuple(keys),
        read=reader,
        size=size,
        channels=channels,
        domains=domain_table(benchmark, [survey.domains[i] for i in rows]),
        splits=survey.final_splits()[rows],
        groups=groups,
        labels={
            "class": Labels(
                np.array([label_of[survey.labels[i]] for i in rows], dtype=np.int64),
                tuple(benchmark.classes[i] for i in survey.wanted),
            )
        },
        skipped=skipped + tuple((survey.keys[i], "no split file names it") for i in unlisted),
        enlarged=enlarged,
    )


def _keep_readable(
    survey: Survey, chosen: list[int], size: int, channels: int, strict: bool
) -> tuple[ImageReader, list[int], tuple[tuple[str, str], ...], int]:
    """`keep_readable`, for rows too."""
    keys = [survey.keys[i] for i in chosen]
    if survey.rows is None:
        return keep_readable(survey.folder, keys, size, channels, strict)
    reader = RowReader(survey.rows, chosen, size, channels)
    name = f"Checking {survey.benchmark.title}"
    unreadable = dict(check_images(reader, keys, strict, name))
    kept = [k for k in range(len(keys)) if k not in unreadable]
    if not kept:
        raise DdmError(
            f"none of the {len(keys):,} images in {survey.folder} can be read, first {keys[0]!r} "
            f"({unreadable[0]}): get the files again"
        )
    skipped = tuple((keys[k], reason) for k, reason in unreadable.items())
    enlarged = len(kept) if reader.is_enlarged(kept[0]) else 0
    reader = RowReader(survey.rows, [chosen[k] for k in kept], size, channels)
    return reader, kept, skipped, enlarged


def domain_table(benchmark: Benchmark, domains: Sequence[int]) -> DomainTable:
    """Domains under their usual names, those that have images alone, in the benchmark's order."""
    present = sorted(set(domains))
    position = {domain: i for i, domain in enumerate(present)}
    return DomainTable(
        np.array([position[domain] for domain in domains], dtype=np.int64),
        tuple(benchmark.domains[domain] for domain in present),
    )


def holds(folder: Path, benchmark: Benchmark, named: bool = False) -> bool:
    """Whether a folder looks like the benchmark: over half of its domains, with classes of it.

    Over half, so that a truncated download is still known for what it is. A folder of other classes
    too is the benchmark, and has strays, where over half of its classes are there; else it is
    someone's own, whose domains are called alike.

    Args:
        folder: where to look.
        benchmark: what for.
        named: something else names the benchmark, the user or its split files: then one domain is
            enough, so that the others are told to be missing.
    """
    least = 1 if named else len(benchmark.domains) // 2 + 1
    try:
        found = [e for e in _few(folder) if benchmark.domain(e.name) is not None and e.is_dir()]
        if len(found) < least:
            return False
        labels = {
            benchmark.label(entry.name)
            for domain in found
            for entry in os.scandir(domain.path)
            if entry.is_dir() and not is_hidden(entry.name)
        }
        known = labels - {None}
        return bool(known) and (named or labels == known or len(known) > len(benchmark.classes) / 2)
    except OSError:
        return False


def _few(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that is not too full to hold nothing but domains."""
    with os.scandir(folder) as entries:
        return list(islice(entries, _DOMAINS_AMONG_AT_MOST))


def wrong_root(root: Path, benchmark: Benchmark, is_root: Callable[[Path], bool]) -> DdmError:
    """The error for a root that is not the benchmark's, naming the folder that was meant.

    Args:
        root: what was given.
        benchmark: what should be there.
        is_root: whether the reader would take a folder.
    """
    give = f"give the folder that holds {benchmark.title}'s domains ({some(benchmark.domains)})"
    if not root.exists():
        return DdmError(f"{root} does not exist: {give}")
    if not root.is_dir():
        return DdmError(f"{root} is not a folder: {give}")
    if meant := meant_root(root, is_root):
        return DdmError(f"{root} is not the folder of {benchmark.title}: {meant}")
    return DdmError(f"{root} does not hold {benchmark.title}: {give}")


def meant_root(root: Path, is_root: Callable[[Path], bool]) -> str | None:
    """Which folder was meant, one or two too high or too low, as the end of a sentence."""
    below = _folders_in(root)
    below += [deeper for folder in below for deeper in _folders_in(folder)]
    for side, folders in (("below", below), ("above", list(root.absolute().parents)[:2])):
        for folder in folders:
            if is_root(folder):
                return f"the one {side} it is, give {folder}"
    return None


def _folders_in(folder: Path) -> list[Path]:
    """Its sub-folders, not too many of them, none where it cannot be listed."""
    try:
        folders = sorted(e.path for e in _few(folder) if e.is_dir() and not is_hidden(e.name))
    except OSError:
        return []
    return [Path(path) for path in folders[:_LOOKED_INTO_AT_MOST]]


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _listing(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden, by name."""
    try:
        entries = [entry for entry in os.scandir(folder) if not is_hidden(entry.name)]
    except OSError as error:
        raise DdmError(
            f"{folder} cannot be listed ({error.strerror}): make it readable or move it away"
        ) from error
    return sorted(entries, key=lambda entry: entry.name)


@lru_cache(maxsize=4096)
def _plain(name: str) -> str:
    """What two spellings of a folder's name have in common: "Real World", "real_world"."""
    return re.sub(r"[\s_-]", "", unicodedata.normalize("NFC", name).casefold())


@lru_cache(maxsize=64)
def _positions(names: tuple[str, ...]) -> dict[str, int]:
    return {_plain(name): i for i, name in enumerate(names)}


def some(names: Sequence[str]) -> str:
    """The first names of a list, and that there are more."""
    more = ", ..." if len(names) > _NAMED_AT_MOST else ""
    return ", ".join(names[:_NAMED_AT_MOST]) + more
