"""Manifests as spreadsheets and pandas write them, and every row that must be refused."""

import csv
import string

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ddm.data.manifest import load_manifest
from ddm.errors import DdmError


def make(root, *names):
    """Write an 8 x 8 image under each name, the k-th of grey value k."""
    for shade, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), shade).save(path)
    return root


@pytest.fixture
def root(tmp_path):
    return make(tmp_path, "a.png", "b.png", "c.png", "d.png")


def manifest(root, text, name="m.csv", encoding="utf-8"):
    path = root / name
    path.write_text(text, encoding=encoding)
    return path


def named(table):
    return [table.names[i] if i >= 0 else None for i in table.index]


FULL = """path,domain,class,split,group,instance,width
c.png,01,007,test,g1,x,8
a.png,,cat,train,g2,y,8
b.png,1,,validation,g2b,x,8
d.png,nan,NA,valid,,,8
"""


def check_full(dataset):
    assert dataset.keys == ("c.png", "a.png", "b.png", "d.png")
    assert named(dataset.domains) == ["01", None, "1", None]
    assert list(dataset.domains.confidence) == [1, 0, 1, 0]
    assert named(dataset.labels["class"]) == ["007", "cat", None, "NA"]
    assert list(dataset.splits) == ["test", "train", "val", "val"]
    assert len(set(dataset.groups)) == 4
    assert dataset.instances[0] == dataset.instances[2] != dataset.instances[1]
    assert dataset.instances[3] == -1
    assert [dataset.read(i)[0, 0, 0] for i in range(4)] == [2, 0, 1, 3]


def test_csv(root):
    dataset = load_manifest(manifest(root, FULL), size=4, channels=1)
    check_full(dataset)
    assert dataset.name == "m"
    assert dataset.read(0).shape == (4, 4, 1)


def test_parquet(root):
    manifest(root, FULL)
    frame = pd.read_csv(root / "m.csv", dtype=str, keep_default_na=False)
    frame.to_parquet(root / "m.parquet")
    check_full(load_manifest(root / "m.parquet"))


def test_parquet_of_numbers_and_gaps(root):
    frame = pd.DataFrame(
        {
            "path": ["a.png", "b.png", "c.png"],
            "domain": pd.Categorical(["x", None, "y"]),
            "class": [7.0, np.nan, 8.0],
            "group": [3, 3, 4],
        }
    )
    (root / "domain=z").mkdir()
    frame.to_parquet(root / "domain=z" / "m.PARQUET")
    dataset = load_manifest(root / "domain=z" / "m.PARQUET", root=root)
    assert named(dataset.domains) == ["x", None, "y"]
    assert named(dataset.labels["class"]) == ["7", None, "8"]
    assert dataset.groups[0] == dataset.groups[1] != dataset.groups[2]


def test_paths_alone(root):
    dataset = load_manifest(manifest(root, "path\na.png\nb.png\n"))
    assert list(dataset.domains.index) == [-1, -1]
    assert dataset.domains.names == ()
    assert dataset.labels == {}
    assert dataset.instances is None
    assert len(set(dataset.groups)) == 2


def test_excel_writes_a_mark_and_carriage_returns(root):
    text = "path, domain \r\na.png, x\r\n\r\nb.png,x \r\n"
    dataset = load_manifest(manifest(root, text, encoding="utf-8-sig"))
    assert named(dataset.domains) == ["x", "x"]


def test_odd_paths(tmp_path):
    odd = ["a, b.png", 'say "hi".png', "ä ö/日本 🙂.png", " lead.png"]
    make(tmp_path / "images", *odd)
    with open(tmp_path / "m.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["path"], *([name] for name in odd)])
    dataset = load_manifest(tmp_path / "m.csv", root=tmp_path / "images")
    assert dataset.keys == tuple(odd)
    assert [dataset.read(i)[0, 0, 0] for i in range(4)] == [0, 1, 2, 3]


def test_absolute_paths(root):
    dataset = load_manifest(manifest(root, f"path\n{root / 'b.png'}\n"), root="elsewhere")
    assert dataset.read(0)[0, 0, 0] == 1


def test_splits_are_drawn_by_group(tmp_path):
    names = [f"{i}.png" for i in range(40)]
    make(tmp_path, *names)
    rows = "".join(f"{name},patient {i // 4}\n" for i, name in enumerate(names))
    dataset = load_manifest(manifest(tmp_path, "path,group\n" + rows), size=2)
    assert len(set(dataset.splits)) > 1
    for group in set(dataset.groups):
        assert len(set(dataset.splits[dataset.groups == group])) == 1


def test_missing_and_damaged_files_are_skipped(root):
    (root / "c.png").write_bytes(b"")
    path = manifest(root, "path,domain\na.png,x\nnowhere.png,z\nc.png,x\nd.png,y\n")
    dataset = load_manifest(path)
    assert dataset.keys == ("a.png", "d.png")
    assert named(dataset.domains) == ["x", "y"]
    assert [dataset.read(i)[0, 0, 0] for i in range(2)] == [0, 3]
    assert dataset.skipped == (("nowhere.png", "no such file"), ("c.png", "the file is empty"))
    with pytest.raises(DdmError, match=r"2 of 4 images .* first 'nowhere.png' \(no such file\)"):
        load_manifest(path, strict=True)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators(root, separator):
    names = ["images/a.png", "images/b, c.png"]
    make(root, *names)
    rows = [("domain", "path"), ("x,y", names[0]), ("z", names[1])]
    text = "".join(separator.join(row) + "\n" for row in rows)
    dataset = load_manifest(manifest(root, text))
    assert list(dataset.keys) == names and dataset.domains.names == ("x,y", "z")


def test_all_missing_means_a_wrong_root(root):
    path = manifest(root, "path\nimages/a.png\nimages/b.png\n")
    with pytest.raises(
        DdmError,
        match=r"none of the 2 files .*images/a.png: .* put the manifest back where they start",
    ):
        load_manifest(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: its first line must name the columns"),
        ("path,domain\n", "lists no images"),
        (
            "file_name,class\na.png,x\n",
            "no column 'path', only 'file_name', 'class': .*'file_name'",
        ),
        ("Path,domain\na.png,x\n", "no column 'path', only 'Path', 'domain': .* perhaps 'Path'"),
        ("path,Domain\na.png,x\n", "column 'Domain' must be called 'domain'"),
        ("path,class,class\na.png,x,y\n", "several columns 'class'"),
        ("path,class\na.png,x\n,y\n", "row 2: the path is empty"),
        ("path\na.png\nb.png\n./a.png\n", r"row 3: path './a.png' is also in row 1"),
        ("path,split\na.png,train\nb.png,dev\n", "row 2: split is 'dev'; use train, val or test"),
        ("path,split\na.png,\n", "row 1: split is ''"),
        (
            "path,split,group\na.png,train,g\nb.png,test,g\n",
            "row 2: group 'g' is in test, but in tr",
        ),
        ("path,class\na.png,x\nb, c.png,y\n", "row 2: 3 fields, but the header has 2; put"),
        ("path,class\na.png\n", "row 1: 1 fields, but the header has 2"),
        ('path\n"a.png\n', "is not valid CSV .*: check its quotes"),
    ],
)
def test_refused(root, text, message):
    with pytest.raises(DdmError, match=message) as caught:
        load_manifest(manifest(root, text))
    assert "m.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_kinds_of_file(root):
    with pytest.raises(
        DdmError, match=r"m.xlsx is no manifest: its name must end in .csv or .parq"
    ):
        load_manifest(manifest(root, "path\n", name="m.xlsx"))
    with pytest.raises(DdmError, match=r"gone.csv does not exist or is not a file"):
        load_manifest(root / "gone.csv")
    with pytest.raises(DdmError, match=r"m.csv is not UTF-8 text: save it as CSV UTF-8"):
        load_manifest(manifest(root, "path\ncafé.png\n", encoding="latin-1"))
    with pytest.raises(DdmError, match=r"m.parquet is not a readable Parquet file") as caught:
        load_manifest(manifest(root, "path\na.png\n", name="m.parquet"))
    assert "\n" not in str(caught.value)


def test_parquet_without_paths(root):
    pd.DataFrame({"img_path": ["a.png"], "y": [1]}).to_parquet(root / "m.parquet")
    with pytest.raises(DdmError, match=r"no column 'path', only 'img_path', 'y': .* 'img_path'"):
        load_manifest(root / "m.parquet")


names = st.text(string.ascii_letters + " 0123456789,\"'\n;äé漢🙂", max_size=8)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(st.tuples(names, names, names), min_size=1, max_size=4))
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_any_names_come_back(root, kind, rows):
    """Whatever the names hold, both kinds of file give them back, without the blanks around."""
    paths = ["a.png", "b.png", "c.png", "d.png"][: len(rows)]
    frame = pd.DataFrame(rows, columns=["domain", "class", "group"]).assign(path=paths)
    if kind == "csv":
        frame.to_csv(root / "m.csv", index=False)
    else:
        frame.to_parquet(root / "m.parquet")
    dataset = load_manifest(root / f"m.{kind}", size=2)
    domains, classes, _ = zip(*rows, strict=True)
    assert named(dataset.domains) == [cleaned(name) for name in domains]
    if "class" in dataset.labels:
        assert named(dataset.labels["class"]) == [cleaned(name) for name in classes]
    else:
        assert not any(map(cleaned, classes))


def cleaned(name):
    name = name.strip()
    return name if name and name.lower() != "nan" else None
