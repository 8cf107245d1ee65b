"""A grid of runs: each trained and evaluated once, whatever interrupts, and one table of all.

A grid is a YAML file::

    base: {images: emoji, size: 32, epochs: 12}   # settings of `ddm pretrain`, for every run
    variants:                                      # what is compared; the first is the baseline
      plain: {ddm.enabled: false}
      coral: {ddm.invariance: coral, ddm.invariance_weight: 0.3}
      dann: {ddm.enabled: false, epochs: 0, finetune.invariance: adversarial}
    held_out: [[twemoji], [openmoji-line]]         # domains left out, one set a run
    seeds: [0, 1, 2]
    reserved: [noto-mono]                          # take no part in anything
    folds: [A, B, C, D, E]                         # of WILDS' poverty (splits), one a run
    finetune: {fractions: [0.01, 1.0]}             # label fractions too, if given (ddm finetune)

Every variant is run for every set of held-out domains, every fold and every seed. Where each such
set has images of its own, ``{held_out}`` in their name stands for its domains, joined by ``+``.
Reserved domains are held out too, and no figure of theirs is kept, so that nothing can be chosen on
them. Beside the runs' files ``manifest.yaml`` says what was run on which images: the grid, and a
hash of each split.
"""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from ddm.bench_tables import distinct, published, table
from ddm.config import FinetuneConfig, PretrainConfig, differences
from ddm.cores import share_cores
from ddm.domains import SUMMARIES
from ddm.errors import DdmError
from ddm.files import write_text
from ddm.messages import tell

#: Protocols as grids.
OWN_GRIDS = Path(__file__).parent / "grids"
_KEYS = ("base", "variants", "held_out", "seeds", "reserved", "folds", "finetune")


@dataclass(frozen=True)
class BenchRun:
    """One run of a grid.

    Args:
        variant: its name in the grid.
        held_out: the domains left out, without the reserved ones.
        seed: of everything random.
        fold: of WILDS' poverty; None where the grid has no folds.
    """

    variant: str
    held_out: tuple[str, ...]
    seed: int
    fold: str | None = None

    @property
    def name(self) -> str:
        """What its files are called."""
        left_out = "+".join(self.held_out) or self.fold or "none"
        if self.held_out and self.fold:
            left_out += f"_{self.fold}"
        return f"{self.variant}_{left_out}_{self.seed}"


@dataclass(frozen=True)
class Grid:
    """A grid of runs.

    Args:
        path: the YAML file, for messages.
        base: settings of every run, with dotted names.
        variants: settings by the name of each variant.
        held_out: sets of domains to leave out.
        seeds: seeds.
        reserved: domains that take no part.
        folds: of WILDS' poverty, which take the place of ``splits``; none elsewhere.
        finetune: settings of the label fractions; None for none.
    """

    path: Path
    base: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    held_out: tuple[tuple[str, ...], ...]
    seeds: tuple[int, ...]
    reserved: tuple[str, ...]
    folds: tuple[str, ...] = ()
    finetune: FinetuneConfig | None = None

    @classmethod
    def load(cls, path: Path, images: str | None = None) -> Grid:
        """Read a grid.

        Args:
            path: a file, or the name of one that comes with the package.
            images: takes the place of ``base.images``.

        Raises:
            DdmError: no such file, no YAML, or not a grid; the message names what is wrong.
        """
        own = OWN_GRIDS / f"{path.name}.yaml"
        if not path.exists() and len(path.parts) == 1 and own.exists():
            path = own
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            names = ", ".join(sorted(p.stem for p in OWN_GRIDS.glob("*.yaml")))
            raise DdmError(
                f"{path} does not exist: give a grid (YAML), or one of {names}"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DdmError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict) or not isinstance(values.get("variants"), dict):
            raise DdmError(f"{path} needs `variants:`, named settings to compare")
        strange = set(values) - set(_KEYS)
        if strange:
            raise DdmError(
                f"{path} has {', '.join(sorted(map(str, strange)))}; known are {', '.join(_KEYS)}"
            )
        parts = [(f"variant {name}", part) for name, part in values["variants"].items()]
        for where, part in [("base", values.get("base")), *parts]:
            if not isinstance(part or {}, dict) or not all(isinstance(k, str) for k in part or {}):
                raise DdmError(f"{path}: {where} must hold settings by name, not {part!r}")
        seeds = values.get("seeds", [0])
        if not isinstance(seeds, list) or not seeds or not all(isinstance(s, int) for s in seeds):
            raise DdmError(f"{path}: seeds must be a list of integers, such as [0, 1, 2]")
        held_out = values.get("held_out", [[]])
        if not isinstance(held_out, list) or not all(isinstance(h, list) for h in held_out):
            raise DdmError(
                f"{path}: held_out must be a list of lists, one list of domains a run: "
                "[[photo], [sketch]]"
            )
        for name in ("reserved", "folds"):
            if not isinstance(values.get(name) or [], list):
                raise DdmError(f"{path}: {name} must be a list, not {values[name]!r}")
        base = dict(values.get("base") or {})
        if images is not None:
            base["images"] = images
        grid = cls(
            path,
            base,
            {str(name): changes or {} for name, changes in values["variants"].items()},
            tuple(tuple(map(str, h)) for h in held_out) or ((),),
            tuple(seeds),
            tuple(map(str, values.get("reserved") or ())),
            tuple(map(str, values.get("folds") or ())),
            _finetune_config(path, values.get("finetune")),
        )
        from ddm.settings import check_settings  # Slow to import.

        for run in grid.runs:  # Every wrong setting is found before the first run starts.
            if "/" in run.name:
                raise DdmError(f"{path}: {run.name!r} cannot be a file's name; rename the variant")
            check_settings(grid.config(run, Path("unused")))
            grid.finetuning(run)
        every = [run.name for run in grid.runs]
        twice = sorted({name for name in every if every.count(name) > 1})
        if twice:
            raise DdmError(
                f"{path} asks twice for {', '.join(twice)}: each seed, fold and set of held-out "
                "domains is to be named once"
            )
        return grid

    @property
    def runs(self) -> list[BenchRun]:
        """All runs: seed by seed, so that an interrupted grid has something to compare."""
        return [
            BenchRun(variant, held_out, seed, fold)
            for seed in self.seeds
            for held_out in self.held_out
            for fold in self.folds or (None,)
            for variant in self.variants
        ]

    def shard(self, part: int, parts: int) -> list[BenchRun]:
        """Every ``parts``-th run, from the ``part``-th on, counted from 1."""
        return self.runs[part - 1 :: parts]

    def config(self, run: BenchRun, output: Path) -> PretrainConfig:
        """The settings of a run.

        Raises:
            DdmError: a setting that does not exist, or of the wrong type.
        """
        module: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        for name, value in [*self.base.items(), *self.variants[run.variant].items()]:
            if name.startswith("finetune."):
                continue
            if name.startswith("ddm."):
                module[name.removeprefix("ddm.")] = value
            elif name == "ddm":
                if not isinstance(value, dict):
                    raise DdmError(f"{self.path}: ddm must hold settings by name, not {value!r}")
                module |= value
            else:
                settings[name] = value
        for name in ("output", "seed", "held_out", *(["splits"] if self.folds else [])):
            if name in settings:
                raise DdmError(f"{self.path}: {name} is not to be set; the grid sets it")
        settings |= {"output": str(output), "seed": run.seed, "ddm": module}
        if run.fold is not None:
            settings["splits"] = run.fold
        settings["held_out"] = [*run.held_out, *self.reserved]
        if "images" in settings:
            left_out = "+".join(run.held_out)
            settings["images"] = str(settings["images"]).replace("{held_out}", left_out)
        return PretrainConfig.from_dict(settings, f"{self.path}, variant {run.variant}")

    def finetuning(self, run: BenchRun) -> FinetuneConfig | None:
        """The settings of a run's label fractions; None for none.

        Raises:
            DdmError: a setting that does not exist, or a variant that changes what no run has.
        """
        prefix = "finetune."
        own = {
            name.removeprefix(prefix): value
            for name, value in {**self.base, **self.variants[run.variant]}.items()
            if name.startswith(prefix)
        }
        if self.finetune is None:
            if own:
                raise DdmError(
                    f"{self.path}, variant {run.variant}: sets {prefix}{next(iter(own))}, but the "
                    "grid has no `finetune:`; add it"
                )
            return None
        where = f"{self.path}, variant {run.variant}, finetune"
        changed = FinetuneConfig.from_dict({**asdict(self.finetune), **own}, where)
        return replace(changed, seed=run.seed)


def _finetune_config(path: Path, values: Any) -> FinetuneConfig | None:
    return None if values is None else FinetuneConfig.from_dict(values, f"{path}, finetune")


def bench(
    grid_file: Path,
    output: Path,
    jobs: int = 1,
    shard: tuple[int, int] = (1, 1),
    images: str | None = None,
    keep_runs: bool = False,
) -> str:
    """Do what is left of a grid, and write the table of all that is done.

    Finished runs are skipped and interrupted ones resumed. One file a run: ``output/<run>.json``.

    Args:
        grid_file: the grid: a file, or the name of one that comes with the package.
        output: folder of the results.
        jobs: runs at a time, each in a process of its own; they share the cores.
        shard: (i, n): do the i-th of n parts of the runs, for job arrays; i counts from 1.
        images: takes the place of the grid's ``base.images``.
        keep_runs: leave each run's folder, with its encoder and features, in ``output/runs``.

    Returns:
        The table, as Markdown, which is also in ``output/table.md``.

    Raises:
        DdmError: an unusable grid, results of another grid in the folder, or runs that failed
            (after all others are done).
    """
    grid = Grid.load(grid_file, images)
    if jobs < 1 or not 1 <= shard[0] <= shard[1]:
        raise DdmError(f"--jobs {jobs} --shard {shard[0]}/{shard[1]}: both count from 1")
    if keep_runs and grid.reserved:
        raise DdmError(
            f"{grid_file} reserves {', '.join(grid.reserved)}, and a kept run holds their figures: "
            "leave out --keep_runs"
        )
    output.mkdir(parents=True, exist_ok=True)
    todo = [run for run in grid.shard(*shard) if not _is_done(grid, run, output)]
    if todo:
        _tell_of_other_code(grid, output)
    failed: list[str] = []
    if jobs == 1:
        for number, run in enumerate(todo, 1):
            print(f"[{number}/{len(todo)}] {run.name}", flush=True)
            failed += _attempt(grid, run, output, keep_runs)
            _write_table(grid, output)
    else:
        # Spawned: a forked process would share torch's threads.
        context = get_context("spawn")
        with ProcessPoolExecutor(jobs, context, share_cores, (jobs,)) as pool:
            futures = {pool.submit(_attempt, grid, run, output, keep_runs): run for run in todo}
            for number, future in enumerate(as_completed(futures), 1):
                print(f"[{number}/{len(todo)}] {futures[future].name}", flush=True)
                try:
                    failed += future.result()
                except BrokenProcessPool:
                    raise DdmError(
                        "the process of a run was killed, for want of memory perhaps; what is done "
                        f"is in {output}: run it again, with fewer --jobs than {jobs}"
                    ) from None
                _write_table(grid, output)
    text = _write_table(grid, output)
    if failed:
        raise DdmError(
            f"{len(failed)} of {len(todo)} runs failed, the others are done: {'; '.join(failed)}"
        )
    return text


def _is_done(grid: Grid, run: BenchRun, output: Path) -> bool:
    path = output / f"{run.name}.json"
    if not path.exists():
        return False
    record = json.loads(path.read_text("utf-8"))
    theirs = PretrainConfig.from_dict(record["config"], str(path))
    config = grid.config(run, Path(theirs.output))
    changed = differences(theirs, config)
    if Path(theirs.images).name != Path(config.images).name:
        changed.append(f"images: {theirs.images} / {config.images}")
    settings = grid.finetuning(run)
    mine = None if settings is None else json.loads(json.dumps(asdict(settings)))
    if record.get("finetune", mine) != mine:
        changed.append(f"finetune: {record['finetune']} / {mine}")
    if changed:
        raise DdmError(
            f"{path} is of another configuration than {grid.path} ({'; '.join(changed)}): "
            "rename the variant, or choose another --output"
        )
    return True


def _tell_of_other_code(grid: Grid, output: Path) -> None:
    """Finished runs of another state of this package may differ from new ones by more than their
    settings say."""
    from ddm.evaluate import code_hash

    paths = [output / f"{run.name}.json" for run in grid.runs]
    theirs = [json.loads(p.read_text("utf-8"))["versions"].get("code") for p in paths if p.exists()]
    other = sum(code != code_hash() for code in theirs)
    if other:
        tell(
            f"{other} finished run(s) in {output} were made by another state of ddm's code than is "
            "installed; where that matters choose another --output"
        )


def _attempt(grid: Grid, run: BenchRun, output: Path, keep_runs: bool) -> list[str]:
    """Do one run; returns what went wrong with it, if anything did."""
    try:
        execute(grid, run, output, keep_runs)
    except DdmError as error:
        return [f"{run.name}: {error}"]
    except Exception as error:  # A fault of ours, or a device without memory: the others go on.
        traceback.print_exc()
        return [f"{run.name}: {type(error).__name__}: {error}"]
    return []


def execute(grid: Grid, run: BenchRun, output: Path, keep_runs: bool = False) -> None:
    """Train, evaluate and write the result of one run.

    Its folder is removed after that, unless ``keep_runs``.
    """
    from ddm.evaluate import environment, evaluate
    from ddm.pretrain import finish
    from ddm.run_folder import RunFolder

    folder = RunFolder(output / "runs" / run.name)
    began = time.monotonic()
    config = grid.config(run, folder.path)
    # Of a run that goes on, or was kept, the time is not known.
    begun = folder.checkpoint_file.exists() or folder.encoder_file.exists()
    if not folder.config_file.exists():
        shutil.rmtree(folder.path, ignore_errors=True)
    finish(config)
    trained = time.monotonic()
    results = evaluate(folder.path)
    rows = results["rows"]
    settings = grid.finetuning(run)
    if settings is not None:
        from ddm.finetune import finetune

        rows += finetune(folder.path, settings)["rows"]
    kept = [row for row in rows if row["domain"] not in grid.reserved]
    if grid.reserved:
        # The summaries over unseen domains hold the reserved ones.
        kept = [r for r in kept if r["side"] != "unseen" or r["domain"] not in SUMMARIES]
    record = {
        "variant": run.variant,
        "held_out": list(run.held_out),
        "fold": run.fold,
        "seed": run.seed,
        "config": asdict(config),
        "finetune": None if settings is None else asdict(settings),
        "data": results["data"],
        "main_label": next(iter(results["data"]["labels"]), None),
        "train_seconds": None if begun else trained - began,
        "evaluate_seconds": time.monotonic() - trained,
        "rows": kept,
        **environment(),
    }
    write_text(output / f"{run.name}.json", json.dumps(record, indent=1))
    if not keep_runs:
        shutil.rmtree(folder.path)


def _write_table(grid: Grid, output: Path) -> str:
    paths = [output / f"{run.name}.json" for run in grid.runs]
    paths = [path for path in paths if path.exists()]
    records = [json.loads(path.read_text("utf-8")) for path in paths]
    text = table(list(grid.variants), records) + published(grid.path.stem)
    manifest = {
        "grid": {
            "base": grid.base,
            "variants": grid.variants,
            "held_out": grid.held_out,
            "seeds": grid.seeds,
            "reserved": grid.reserved,
            "folds": grid.folds,
            "finetune": None if grid.finetune is None else asdict(grid.finetune),
        },
        "data": distinct([r["data"] for r in records]),
        "versions": distinct([r["versions"] for r in records]),
        "machines": distinct([r["machine"] for r in records]),
        "done": [path.stem for path in paths],
    }
    plain = json.loads(json.dumps(manifest))  # Without Python's tuples.
    write_text(output / "manifest.yaml", yaml.safe_dump(plain, sort_keys=False))
    write_text(output / "table.md", text)
    return text
