"""Official split files of image benchmarks: lines ``path label``, held against the folders."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddm.data.benchmarks import UNLISTED, Benchmark, Fault, Survey
from ddm.errors import DdmError


@dataclass(frozen=True)
class SplitFile:
    """A file of lines ``path label``.

    Args:
        domain: the domain whose images it names.
        split: the split that they are in.
        path: the file.
        repeats: whether it names again what the domain's other files name, so that only the rest
            is in this split.
    """

    domain: str
    split: str
    path: Path
    repeats: bool = False


def apply_split_files(survey: Survey, files: Sequence[SplitFile], first_label: int) -> None:
    """Give each image the split under which a file names it, and note what is wrong with the files.

    Args:
        survey: what lies on the disk; its splits are set and its faults extended.
        files: those that repeat others after these.
        first_label: the label of the first class, 0 or 1.
    """
    # Archives that went through another system: accents decomposed, ".JPG" for ".jpg".
    similar = {_spelling(key): i for i, key in enumerate(survey.keys)}
    exact = {key: i for i, key in enumerate(survey.keys)}
    splits = survey.splits = [UNLISTED] * len(survey.keys)
    wanted = frozenset(survey.wanted)
    for file in files:
        try:
            lines = read_split_file(file.path)
        except DdmError as error:
            survey.faults.append(Fault("split", str(error)))
            continue
        if fault := _wrong_line(survey.benchmark, file, lines, first_label):
            survey.faults.append(fault)
            continue
        missing = []
        for number, (key, label) in enumerate(lines, 1):
            if label - first_label not in wanted:
                continue
            i = exact.get(key)
            if i is None:
                i = similar.get(_spelling(key))
            if i is None:
                missing.append(key)
            elif splits[i] in (UNLISTED, file.split):
                splits[i] = file.split
            elif not file.repeats:
                message = (
                    f"{file.path}, line {number}: {key!r} is in the {splits[i]} split too, by "
                    "another file; get the official files again"
                )
                survey.faults.append(Fault("split", message))
                break
        if missing:
            survey.faults.append(
                Fault(
                    "missing",
                    f"{file.path} names {len(missing):,} images that {survey.folder} lacks, first "
                    f"{missing[0]!r}: complete the download, or move the split files away if "
                    "images were removed on purpose",
                    tuple(missing),
                )
            )


def read_split_file(path: Path) -> list[tuple[str, int]]:
    """Lines ``path label`` of a split file; the path may hold spaces.

    Returns:
        (path, label) of each line; empty lines are passed over.

    Raises:
        DdmError: no UTF-8 text; a line without a label.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DdmError(f"{path} is not UTF-8 text: get the official file again") from error
    except OSError as error:
        raise DdmError(f"{path} cannot be read ({error.strerror}): make it readable") from error
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        parts = line.strip().rsplit(None, 1)
        if len(parts) < 2 or not re.fullmatch(r"-?[0-9]+", parts[1]):
            raise DdmError(
                f"{path}, line {number}: {line.strip()!r} is not an image's path and the number of "
                "its class; get the official file again"
            )
        rows.append((parts[0].removeprefix("./"), int(parts[1])))
    if not rows:
        raise DdmError(f"{path} names no images: get the official file again")
    return rows


def _wrong_line(
    benchmark: Benchmark, file: SplitFile, lines: Sequence[tuple[str, int]], first_label: int
) -> Fault | None:
    """The first label or path that contradicts the folders which the line names."""
    wrong: list[tuple[int, str, int, int]] = []
    shifts: Counter[int] = Counter()
    domain = benchmark.domain(file.domain)
    for number, (key, label) in enumerate(lines, 1):
        places = key.split("/", 2)
        position = benchmark.label(places[1]) if len(places) > 2 else None
        if position is None or benchmark.domain(places[0]) != domain:
            return Fault(
                "split",
                f"{file.path}, line {number}: {key!r} is no <domain>/<class>/<image> of domain "
                f"{file.domain!r} and a class of {benchmark.title}; get the official file again",
            )
        shifts[label - position] += 1
        if label != position + first_label:
            wrong.append((number, key, label, position))
    if not wrong:
        return None
    number, key, label, position = wrong[0]
    message = (
        f"{file.path}, line {number}: label {label} for {key!r}, but class "
        f"{benchmark.classes[position]!r} is {position + first_label}: "
    )
    if set(shifts) == {1 - first_label}:
        remedy = "add 1 to" if first_label else "take 1 off"
        message += (
            f"all labels count from {1 - first_label}, those of {benchmark.title} from "
            f"{first_label}; get the official file, or {remedy} each label"
        )
    else:
        message += (
            f"{len(wrong):,} of {len(lines):,} labels contradict the class folder; "
            "get the official file again"
        )
    return Fault("split", message)


def _spelling(key: str) -> str:
    """What two spellings of one path have in common: accents composed, suffix in lower case."""
    stem, suffix = os.path.splitext(key)
    return unicodedata.normalize("NFC", stem) + suffix.lower()
