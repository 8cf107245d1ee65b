"""The report: one file that needs nothing else, and says what the numbers say."""

import base64
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from ddm import comparison, plots, report
from ddm.config import ModuleConfig, PretrainConfig
from ddm.data.base import ImageDataset, Labels
from ddm.domains import SUMMARIES, DomainTable
from ddm.errors import DdmError
from ddm.evaluate import describe, environment
from ddm.probe import bootstrap, paired_difference
from ddm.protocols import Answers, SeenUnseen
from ddm.report import write_report
from ddm.run_folder import RunFolder

THINGS = 60  # in each domain; every third is a test image
WIDTH = 8


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    """Drawing takes most of the time, and UMAP seconds to load: most tests read the text only."""
    monkeypatch.setattr(plots, "umap", lambda features, seed=0: features[:, :2])
    if "drawn" not in request.fixturenames:
        for name in ("bars", "curves", "scatter", "strip"):
            monkeypatch.setattr(plots, name, lambda *_, **__: "data:,")


@pytest.fixture
def drawn():
    """Real plots."""


def make_dataset(domains=("photo", "sketch", "print"), labels=True, instances=True, skipped=()):
    n = len(domains) * THINGS
    thing = np.tile(np.arange(THINGS), len(domains))
    names = [d for d in domains for _ in range(THINGS)]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (n, 12, 12, 3), dtype=np.uint8)
    classes = Labels(thing // 3 % 4, ("ant", "bee", "cat", "<i>dog</i>"))
    return ImageDataset(
        name="things",
        keys=tuple(f"{names[i]}/{thing[i]}.png" for i in range(n)),
        read=lambda i: pixels[i],
        size=12,
        channels=3,
        domains=DomainTable(np.repeat(np.arange(len(domains)), THINGS), tuple(domains)),
        splits=np.asarray(["train", "val", "test"])[thing % 3],
        groups=thing.astype(np.int64),
        labels={"class": classes, "legs": classes} if labels else {},
        instances=thing.astype(np.int64) if instances else None,
        skipped=skipped,
    )


def make_run(path, dataset, enabled=True, unseen=("print",), right=0.5, **settings):
    """An evaluated run: on each domain the first ``right`` share of the answers is right."""
    module = ModuleConfig(enabled=enabled)
    config = PretrainConfig(
        images="/home/someone/things",
        output=str(path),
        held_out=list(unseen),
        ddm=module,
        **settings,
    )
    run = RunFolder.create(config)
    run.save_domains(dataset)
    rng = np.random.default_rng(1)
    features = rng.normal(size=(len(dataset), WIDTH)).astype(np.float32)
    np.save(run.features_file, features)
    protocol = SeenUnseen(dataset, tuple(unseen))
    measures = [("linear", name, "seen") for name in dataset.labels]
    measures += [("linear", name, "own") for name in dataset.labels]
    if dataset.instances is not None:
        measures.append(("retrieval", "instance", "none"))
    answers = []
    for portion in ("all", "invariant", "variant", "whitened"):
        for measure, label, trained_on in measures:
            for side, names in (("seen", protocol.seen), ("unseen", tuple(unseen))):
                if not names or (trained_on == "own" and side == "seen"):
                    continue
                common = {
                    "measure": measure, "label": label, "portion": portion,
                    "trained_on": trained_on, "side": side, "chance": 0.25,
                }  # fmt: skip
                tests = {d: dataset.select((d,), ("test",)) for d in names}
                answers.append(
                    Answers(
                        common,
                        {d: (np.arange(len(t)) < right * len(t), t) for d, t in tests.items()},
                    )
                )
    protocol.table(answers).to_parquet(run.predictions_file, index=False)
    rows = protocol.figures({}, answers)
    if len(protocol.seen) > 1:
        rows += leakage_rows(protocol)
    results = {
        "run": str(path), "data": describe(dataset), "unseen": list(unseen), "feature_dim": WIDTH,
        "variant_dim": 2, "seed": 0, "rows": rows, **environment(),
    }  # fmt: skip
    run.results_file.write_text(json.dumps(results), encoding="utf-8")
    terms = {
        "step": [9, 19, None],
        "epoch": [0, 0, 0],
        "loss": [2.0, 1.0, None],
        "ssl": [2, 1, None],
    }
    if enabled:
        terms["variant"] = [0.7, 0.5, None]
    frame = pd.DataFrame({**terms, "images/s": 1.0, "effective_rank": [None, None, 5.0]})
    frame.to_csv(run.metrics_file, index=False)
    return run.path


def write(tmp_path, dataset, *runs, **settings):
    output = write_report(runs, tmp_path / "report.html", dataset=dataset, **settings)
    return output.read_text(encoding="utf-8")


def leakage_rows(protocol):
    """As the real ones, without fitting a probe."""
    common = {"measure": "leakage", "label": "domain", "trained_on": "seen", "side": "seen"}
    numbers = {"value": 0.4, "low": 0.35, "high": 0.45, "n": 20, "chance": 1 / len(protocol.seen)}
    return [
        {**common, **numbers, "portion": portion, "domain": domain}
        for portion in ("all", "invariant", "variant")
        for domain in (*protocol.seen, *SUMMARIES)
    ]


class Page(HTMLParser):
    """What a page loads, shows and says."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.said, self.headline, self.headings = [], [], "", []
        self.inside = []
        self.feed(text)
        self.text = re.sub(r"\s+", " ", " ".join(self.said))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        self.inside.pop()
        while tag in self.inside[-1:]:
            self.inside.pop()

    def handle_data(self, data):
        if "style" in self.inside[-1:]:
            return
        self.said.append(data)
        if re.fullmatch(r"h\d", self.inside[-1]) if self.inside else False:
            self.headings.append((int(self.inside[-1][1]), data))

    def images(self):
        return [attributes for tag, attributes in self.tags if tag == "img"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The runs of a comparison, the one with DDM better by a quarter of the images."""
    folder = tmp_path_factory.mktemp("runs")
    dataset = make_dataset()
    return (
        dataset,
        make_run(folder / "a", dataset, enabled=True, right=0.75),
        make_run(folder / "b", dataset, enabled=False, right=0.5),
    )


def test_needs_nothing_else(tmp_path, pair, drawn):
    text = write(tmp_path, *pair)
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "srcset", "poster", "data"):
            assert attributes.get(name, "data:").startswith("data:")
        target = attributes.get("href", "#")
        assert target[0] == "#" or target.startswith("data:") or tag == "a"
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style and "@font-face" not in style
    for image in page.images():
        kind, data = image["src"].removeprefix("data:").split(";base64,")
        decoded = base64.b64decode(data, validate=True)
        assert decoded.startswith({"image/png": b"\x89PNG", "image/svg+xml": b"<?xml"}[kind])
        if kind == "image/svg+xml":
            assert set(re.findall(rb'href="(.)', decoded)) <= {b"#"}
            assert b"url(http" not in decoded and b"<image" not in decoded
    # Nothing of the machine it was made on.
    assert str(tmp_path) not in text and "/home/someone" not in text


def test_can_be_read_without_seeing_it(tmp_path, pair):
    page = Page(write(tmp_path, *pair))
    assert page.tags[0] == ("html", {"lang": "en"})
    assert page.images() and all(len(image["alt"]) > 20 for image in page.images())
    assert "sketch (seen): without DDM 50.0%, with DDM 75.0%" in page.images()[3]["alt"]
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def expected_interval(first, second):
    tests = np.arange(20)
    parts = [(tests < first * 20, tests < second * 20, tests * 3 + 2)]
    return comparison._points(paired_difference(parts))


def test_headline_of_a_comparison(tmp_path, pair):
    dataset, having, without = pair
    for runs in ((having, without), (without, having)):
        page = Page(write(tmp_path, dataset, *runs))
        assert (
            "On the unseen domain print the probe trained on the seen domains is right for 75.0% "
            f"of the images with DDM and 50.0% without (difference {expected_interval(0.5, 0.75)})."
        ) in page.text
        assert "+25.0 points, 95% interval +" in page.text
        assert "the run with DDM is better than the run without DDM" in page.text
        assert "no clear difference" not in page.text


def test_headline_where_the_module_loses(tmp_path):
    dataset = make_dataset()
    having = make_run(tmp_path / "a", dataset, enabled=True, right=0.5)
    without = make_run(tmp_path / "b", dataset, enabled=False, right=0.75)
    page = Page(write(tmp_path, dataset, having, without))
    assert f"(difference {expected_interval(0.75, 0.5)})" in page.text
    assert "\N{MINUS SIGN}25.0 points" in page.text
    assert "the run without DDM is better than the run with DDM" in page.text


def test_headline_where_nothing_is_clear(tmp_path):
    dataset = make_dataset()
    having = make_run(tmp_path / "a", dataset, enabled=True, right=0.55, epochs=3)
    without = make_run(tmp_path / "b", dataset, enabled=False, right=0.5, epochs=2)
    page = Page(write(tmp_path, dataset, having, without))
    assert "The interval holds zero" in page.text
    assert "no clear difference" in page.text
    assert "without DDM / with DDM: the runs also differ in epochs: 2 / 3." in page.text
    assert "ddm.enabled: " not in page.text


def test_same_predictions_differ_by_nothing(tmp_path):
    dataset = make_dataset()
    runs = [make_run(tmp_path / n, dataset, enabled=n == "a") for n in "ab"]
    assert (
        "(difference 0.0 points, 95% interval 0.0 to 0.0)"
        in Page(write(tmp_path, dataset, *runs)).text
    )


def test_different_images_are_not_paired(tmp_path):
    dataset = make_dataset()
    runs = [make_run(tmp_path / "a", dataset), make_run(tmp_path / "b", dataset, enabled=False)]
    frame = pd.read_parquet(runs[0] / "domains.parquet")
    frame.loc[0, "split"] = "val"
    frame.to_parquet(runs[0] / "domains.parquet", index=False)
    page = Page(write(tmp_path, dataset, *runs))
    assert "no interval of a difference" in page.text
    assert "different images or other splits" in page.text
    assert "points, 95%" not in page.text


def test_one_run(tmp_path, pair):
    dataset, having, without = pair
    page = Page(write(tmp_path, dataset, having))
    assert "is right for 75.0% of the images (95% interval" in page.text
    assert "75.0% on the seen domains, chance is 25.0%." in page.text
    assert "At a glance" not in page.text
    assert "ddm embed RUN IMAGES --portion invariant" in page.text
    assert "The same on your own images" not in page.text  # They are.
    assert "Invariant portion" in page.text and "whitening.safetensors" in page.text
    page = Page(write(tmp_path, dataset, without, title="A <title>"))
    assert "ddm embed RUN IMAGES -o" in page.text
    assert "Invariant portion" not in page.text
    assert page.headings[0][1] == "A <title>"


def test_three_runs(tmp_path, pair):
    dataset, having, without = pair
    third = make_run(tmp_path / "third", dataset, right=0.5, seed=1)
    page = Page(write(tmp_path, dataset, having, without, third))
    assert "75.0% (a), 50.0% (b) and 50.0% (third) of the images; chance is 25.0%." in page.text
    assert "a / third: the runs differ in seed: 0 / 1." in page.text
    assert page.text.count("no clear difference") + page.text.count(" worse ") == 6 + 10
    assert page.text.count("Retrieval, unseen domains, all features, whitened") == 2


def test_no_labels(tmp_path):
    dataset = make_dataset(labels=False)
    runs = [make_run(tmp_path / n, dataset, enabled=n == "a") for n in "ab"]
    page = Page(write(tmp_path, dataset, *runs))
    assert "These images have no labels" in page.text
    assert "the nearest image of another domain shows the same thing for 50.0%" in page.text
    bare = make_dataset(labels=False, instances=False)
    runs = [make_run(tmp_path / n, bare, enabled=n == "c") for n in "cd"]
    page = Page(write(tmp_path, bare, *runs))
    assert "a fresh probe finds the domain of" in page.text
    assert "Random images of each domain" in page.text
    assert "Finding the same thing" not in page.text
    assert "By domain" in page.text and "By class" not in page.text


def test_nothing_to_measure(tmp_path):
    dataset = make_dataset(domains=("photo",), labels=False, instances=False)
    page = Page(write(tmp_path, dataset, make_run(tmp_path / "a", dataset, False, unseen=())))
    assert "there is nothing to measure" in page.text


def test_labels_that_no_probe_could_learn(tmp_path):
    dataset = make_dataset(instances=False)
    run = make_run(tmp_path / "a", dataset, enabled=False)
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "rows": []}))
    page = Page(write(tmp_path, dataset, run))
    assert "nothing to measure yet: these images have labels, but a probe needs" in page.text
    assert "No accuracy was measured: these images have labels" in page.text
    assert "no labels" not in page.text


def test_few_groups_are_named(tmp_path):
    dataset = make_dataset()
    many = Page(write(tmp_path, dataset, make_run(tmp_path / "a", dataset)))
    assert "fewer than" not in many.text
    few = replace(dataset, groups=dataset.groups % 3)
    page = Page(write(tmp_path, few, make_run(tmp_path / "b", few)))
    assert "the test images of photo, sketch, print are in fewer than 10 groups" in page.text


def test_nothing_held_out(tmp_path):
    dataset = make_dataset()
    run = make_run(tmp_path / "a", dataset, unseen=())
    page = Page(write(tmp_path, dataset, run))
    assert "On average over the 3 seen domains (photo, sketch, print) the probe" in page.text
    assert "No domain was held out" in page.text and "--held_out to find out" in page.text
    # Holding one out would tell nothing where nothing can be read.
    bare = make_dataset(labels=False, instances=False)
    page = Page(write(tmp_path, bare, make_run(tmp_path / "bare", bare, unseen=())))
    assert "No domain was held out" in page.text and "--held_out to find out" not in page.text
    assert "without classes, or the same things in several domains, nothing could" in page.text


def test_runs_of_other_images_have_a_chance_and_a_number_each(tmp_path):
    bare = make_dataset(labels=False, instances=False)
    runs = [make_run(tmp_path / n, bare, enabled=n == "a") for n in "ab"]
    results = json.loads((runs[1] / "results.json").read_text())
    for row in results["rows"]:
        row.update(chance=0.2, n=1234)
    (runs[1] / "results.json").write_text(json.dumps(results))
    page = Page(write(tmp_path, bare, *runs))
    # The run without the module comes first.
    assert "chance is 20.0% / 50.0%." in page.text
    leakage = next(r for r in json.loads((runs[0] / "results.json").read_text())["rows"])
    assert f"1,234 / {leakage['n']:,}" in page.text


def test_other_domains_are_unseen(tmp_path):
    dataset = make_dataset()
    runs = [make_run(tmp_path / n, dataset, unseen=(n,)) for n in ("print", "sketch")]
    page = Page(write(tmp_path, dataset, *runs))
    assert "different domains are unseen (print / sketch)" in page.text
    assert "points, 95%" not in page.text


ODD = (
    "<b>&amp;",
    "病院",
    "$x^2$ ${",
    "_",
    "a" * 60,
    "a" * 59 + "b",
    "Größe",
    "%s {{ x }}",
    "mean ",
)


@pytest.mark.filterwarnings("error")
def test_odd_and_many_names(tmp_path, drawn):
    domains = (*ODD, *(f"domain number {i}" for i in range(8)))
    dataset = make_dataset(domains=domains)
    run = make_run(tmp_path / "<run>", dataset, unseen=ODD[:2])
    text = write(tmp_path, dataset, run)
    page = Page(text)
    assert "<b>" not in text and "<run>" not in text and "<i>dog" not in text
    for name in domains:
        assert re.sub(r"\s+", " ", name).strip() in page.text
    # What a plot cannot print is numbered, and the number explained.
    assert page.text.count("called domain") == 3
    assert "On average over the 2 unseen domains (<b>&amp;, 病院)" in page.text
    assert len(text) < 3e6


def test_names_that_no_plot_can_print(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plots, "scatter", lambda p, i, names, *_: drawn.update({len(names): names}))
    monkeypatch.setattr(
        plots, "bars", lambda lines, series, *_: drawn.update(bars=lines, of=series)
    )
    dataset = make_dataset(domains=("写真", "photo", "print"))
    labels = {"class": replace(dataset.labels["class"], names=("犬", "bee", "猫", "cat"))}
    dataset = replace(dataset, labels=labels)
    run = make_run(tmp_path / "実験", dataset, unseen=("写真",))
    page = Page(write(tmp_path, dataset, run))
    assert "実験 (run 1 in the plots)" in page.text
    assert "写真 called domain 3 in the plots" in page.text
    assert "class 1 is 犬; class 3 is 猫" in page.text
    assert drawn[3] == ["domain 3", "photo", "print"]
    assert drawn[4] == ["class 1", "bee", "class 3", "cat"]
    assert drawn["of"] == ["run 1"]


def test_skipped_images_are_listed(tmp_path):
    dataset = make_dataset(skipped=tuple((f"photo/{i}<.png", "damaged") for i in range(12)))
    page = Page(write(tmp_path, dataset, make_run(tmp_path / "a", dataset)))
    assert "12 images could not be read and took no part; the first 10" in page.text
    assert "photo/9<.png : damaged" in page.text
    assert "photo/10<" not in page.text


def test_all_figures_are_in_the_table(tmp_path, pair):
    page = Page(write(tmp_path, *pair))
    rows = json.loads((pair[1] / "results.json").read_text())["rows"]
    for row in rows:
        ends = f"[{100 * row['low']:.1f} to {100 * row['high']:.1f}]"
        assert f"{100 * row['value']:.1f} {ends}" in page.text


def test_images_are_opened_as_configured(tmp_path, pair, monkeypatch):
    asked = []
    dataset, *runs = pair

    def load(config):
        asked.append((config.images, config.size, config.channels, config.strict, config.splits))
        return dataset

    monkeypatch.setattr(report, "open_images", load)
    (tmp_path / "folder").mkdir()
    output = write_report(runs, tmp_path / "folder")
    assert output == tmp_path / "folder" / "report.html" and output.exists()
    assert asked == [("/home/someone/things", 64, 3, False, "drawn")]
    # Where domains are discovered a folder is a heap: that is another way of reading it.
    heap = make_run(tmp_path / "heap", dataset, domains="discover")
    asked.clear()
    write_report([heap, runs[0]], tmp_path / "folder")
    assert len(asked) == 2


@pytest.mark.parametrize("missing", ["results.json", "predictions.parquet", "features.npy"])
def test_not_evaluated_yet(tmp_path, missing):
    dataset = make_dataset()
    run = make_run(tmp_path / "a", dataset)
    (run / missing).unlink()
    with pytest.raises(DdmError, match=f"{missing} is missing.*`ddm evaluate {run}`"):
        write(tmp_path, dataset, run)
    assert not (tmp_path / "report.html").exists()


def test_unusable_runs(tmp_path, pair):
    dataset, run, _ = pair
    with pytest.raises(DdmError, match="name one or more"):
        write(tmp_path, dataset)
    with pytest.raises(DdmError, match="a is named twice"):
        write(tmp_path, dataset, run, run / ".." / "a")
    with pytest.raises(DdmError, match="not a run folder"):
        write(tmp_path, dataset, tmp_path)
    with pytest.raises(DdmError, match="things has changed"):
        write(tmp_path, replace(dataset, keys=("new", *dataset.keys[1:])), run)
    broken = make_run(tmp_path / "broken", dataset)
    (broken / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(DdmError, match="damaged; evaluate anew"):
        write(tmp_path, dataset, broken)
    np.save(broken / "features.npy", np.zeros((3, WIDTH)))
    (broken / "results.json").write_bytes((run / "results.json").read_bytes())
    with pytest.raises(DdmError, match="holds 3 images, the data 180"):
        write(tmp_path, dataset, broken)


def test_without_umap(tmp_path, pair, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(DdmError, match="pip install umap-learn"):
        write(tmp_path, *pair)


# Paired differences --------------------------------------------------------------------------


def make_parts(seed=0):
    rng = np.random.default_rng(seed)
    return [
        (rng.random(n) < 0.6, rng.random(n) < 0.7, rng.integers(0, 12, n)) for n in (40, 25, 60)
    ]


def test_paired_difference_is_that_of_a_plain_loop():
    parts = make_parts()
    groups = np.unique(np.concatenate([g for _, _, g in parts]))
    rng = np.random.default_rng(3)
    draws = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=200)
    resampled = []
    for draw in draws:
        weight = dict(zip(groups.tolist(), draw.tolist(), strict=True))
        means = []
        for first, second, mine in parts:
            w = [weight[g] for g in mine.tolist()]
            gained = sum(x * (int(b) - int(a)) for x, a, b in zip(w, first, second, strict=True))
            means.append(gained / sum(w))
        resampled.append(sum(means) / len(means))
    found = paired_difference(parts, seed=3, resamples=200)
    assert found.value == pytest.approx(np.mean([b.mean() - a.mean() for a, b, _ in parts]))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(resampled, [2.5, 97.5])))


def test_paired_difference_of_the_same_is_exactly_nothing():
    same = [(first, first, groups) for first, _, groups in make_parts()]
    found = paired_difference(same)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_paired_difference_turned_round_and_against_one_that_is_never_right():
    parts = make_parts()
    one, other = paired_difference(parts), paired_difference([(b, a, g) for a, b, g in parts])
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    zero = paired_difference([(np.zeros_like(a), b, g) for a, b, g in parts])
    _, mean, _ = bootstrap([(b, g) for _, b, g in parts])
    assert (zero.value, zero.low, zero.high) == pytest.approx((mean.value, mean.low, mean.high))


def test_paired_difference_of_nothing():
    with pytest.raises(ValueError, match="no samples"):
        paired_difference([])


def test_answers_give_the_figures():
    """predictions.parquet holds what results.json was made from."""
    dataset = make_dataset()
    rng = np.random.default_rng(2)
    features = rng.normal(size=(len(dataset), WIDTH)).astype(np.float32)
    features += np.eye(WIDTH, dtype=np.float32)[dataset.labels["class"].index]
    protocol = SeenUnseen(dataset, ("print",))
    answers = protocol.answers({"all": features})
    table = protocol.table(answers)
    keys = ["measure", "label", "portion", "trained_on", "side", "domain"]
    exact = table.groupby(keys, observed=True)["right"].agg(["mean", "size"])
    rows = protocol.figures({}, answers)
    for row in rows:
        if row["domain"] not in SUMMARIES:
            measure = row["measure"].removesuffix("_balanced")
            where = (measure, *(row[k] for k in keys[1:]))
            mean, size = exact.loc[where]
            if measure != row["measure"]:
                mine = table[(table[keys] == pd.Series(where, keys)).all(axis=1)]
                truth = dataset.labels[row["label"]].index[mine["sample"]]
                mean = np.mean([mine["right"][truth == one].mean() for one in np.unique(truth)])
            assert (row["value"], row["n"]) == (pytest.approx(mean), size)
    measures = {
        "linear",
        "linear_balanced",
        "linear_validation",
        "knn",
        "knn_balanced",
        "retrieval",
    }
    assert {row["measure"] for row in rows} == measures
    assert (table["group"] == dataset.groups[table["sample"]]).all()
    assert SeenUnseen(make_dataset(labels=False), ()).table([]).empty


def test_runs_with_and_without_labels(tmp_path, monkeypatch, drawn):
    labelled, bare = make_dataset(), make_dataset(labels=False, instances=False)
    images = {"named": labelled, "bare": bare}
    monkeypatch.setattr(report, "_datasets", lambda runs, _: [images[run.name] for run in runs])
    runs = [make_run(tmp_path / "named", labelled), make_run(tmp_path / "bare", bare)]
    for given in (runs, runs[::-1]):
        page = Page(write(tmp_path, None, *given))
        assert "No accuracy was measured of bare." in page.text
        assert "the 4 classes of “class”" in page.text
        assert "these images have labels" not in page.text
        assert "Of the runs that have labels accuracy stands below." in page.text


def test_runs_whose_labels_have_other_names(tmp_path, monkeypatch):
    first = make_dataset(instances=False)
    second = replace(first, labels={"kind": first.labels["class"]})
    runs = [make_run(tmp_path / "a", first), make_run(tmp_path / "b", second)]
    monkeypatch.setattr(report, "_datasets", lambda *_: [first, second])
    page = Page(write(tmp_path, None, *runs))
    assert "The runs were probed on classes of different names" in page.text
    assert "accuracy cannot be measured" not in page.text
    assert "No labels that all of the runs have tell whether that helps" in page.text


def test_classes_that_lie_in_one_domain_each(tmp_path):
    dataset = make_dataset()
    apart = Labels(dataset.domains.index.copy(), dataset.domains.names)
    assert dataset.shared_classes("class") == 4
    dataset = replace(dataset, labels={"class": apart})
    assert dataset.shared_classes("class") == 0
    page = Page(write(tmp_path, dataset, make_run(tmp_path / "a", dataset)))
    assert "a: no class occurs in two domains, so that telling the domains apart" in page.text
