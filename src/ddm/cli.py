"""The command ``ddm``: a thin shell over the library's functions.

Heavy imports wait until a command runs, so that help answers at once.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from ddm import __version__
from ddm.config import FinetuneConfig, PretrainConfig, in_words
from ddm.errors import DdmError

#: How many unreadable images `ddm embed` names.
UNREADABLE_TOLD = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the words after ``ddm``; those of the process by default.

    Returns:
        The exit status: 0, 1 for data that were checked and found unusable, 2 for input that
        cannot be used, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = build_parser().parse_args(_config_first(words))
    command = options.command
    try:
        status = COMMANDS[command](options[command])
        sys.stdout.flush()
    except DdmError as error:
        print(f"ddm: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # `ddm encoders | head` has seen enough. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # A full disk, a folder that may not be written to, a file that went away.
        # Files are written under another name first, which nobody has heard of.
        where = re.sub(r"\.([^/]+)\.[0-9a-f]{16}\.part$", r"\1", str(error.filename or ""))
        where = where or "a file of this command"
        reason = error.strerror or error
        print(f"ddm: error: {where}: {reason}; what was saved is kept", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nddm: interrupted{_how_to_go_on(command, options[command])}", file=sys.stderr)
        return 130
    return status or 0


def _how_to_go_on(command: str, options: Namespace) -> str:
    """What continues an interrupted command; empty where it is to be given again."""
    if command in ("bench", "demo"):
        return "; the same command goes on where it was"
    if command not in ("pretrain", "resume"):
        return ""
    run = options["output" if command == "pretrain" else "run"]
    begun = os.path.exists(os.path.join(run, "config.yaml"))
    return f"; `ddm resume {run}` continues it" if begun else ""


def _config_first(words: list[str]) -> list[str]:
    """The words with ``--config FILE`` before all others, which then override what it says."""
    for i, word in enumerate(words[1:], 1):
        length = 2 if word == "--config" else 1 if word.startswith("--config=") else 0
        if length:
            return [words[0], *words[i : i + length], *words[1:i], *words[i + length :]]
    return words


class Parser(ArgumentParser):
    """Says what is wrong in one line; the whole usage would bury it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the line and leave with status 2."""
        words = in_words(message)
        near = _near_option(words, [name for a in self._actions for name in a.option_strings])
        program = self.prog.replace(" [options]", "")
        # Of a command's own arguments the parser of all commands says "required: pretrain.images".
        if found := re.search(r"required: ([\w.]+)\.(\w+)", words):
            program = f"ddm {found[1].replace('.', ' ')}"
            words = f"{program} needs {found[2]}"
        print(f"ddm: error: {words}{near}; see `{program} --help`", file=sys.stderr)
        raise SystemExit(2)


def _near_option(message: str, options: Sequence[str]) -> str:
    """What an option that there is not may have been meant as."""
    found = re.search(r"[Uu]nrecognized arguments: (--[^\s=]+)", message)
    if found is None:
        return ""
    # Options have underscores, as the settings in YAML files do.
    near = difflib.get_close_matches("--" + found[1][2:].replace("-", "_"), options, 1)
    return f"; did you mean {near[0]}?" if near else ""


def build_parser() -> ArgumentParser:
    """The commands and their options, made from the settings' own types and docstrings."""
    parser = Parser(
        prog="ddm",
        description="Domain disentanglement for self-supervised learning.",
        version=__version__,
    )
    commands = parser.add_subcommands(required=True, dest="command")

    pretrain = Parser(description="Train an encoder on images from several domains.")
    pretrain.add_argument("images", help='folder, manifest (.csv, .parquet) or "emoji"')
    pretrain.add_argument(
        "--config", action="config", help="YAML file with any of the options below"
    )
    # Said by hand where the usual spelling is shorter than what the type would give.
    pretrain.add_argument(
        "--output", "-o", default=PretrainConfig.output, help="the run folder, made anew"
    )
    pretrain.add_argument(
        "--strict", action="store_true", help="refuse unreadable images instead of skipping them"
    )
    pretrain.add_argument(
        "--held_out", nargs="*", default=[], help="domains that take no part: the unseen ones"
    )
    skip = {"images", "output", "strict", "held_out"}
    pretrain.add_class_arguments(PretrainConfig, as_group=False, skip=skip)
    commands.add_subcommand("pretrain", pretrain, help="train an encoder")

    discover = Parser(
        description="Find the domains of images that nobody labelled, and show them on a page. "
        "Sub-folders and a manifest's domains are not looked at."
    )
    discover.add_argument(
        "images", help='folder of any depth, manifest (.csv, .parquet) or "emoji"'
    )
    discover.add_argument(
        "--output", "-o", default="domains.parquet", help="table (.parquet or .csv) to train with"
    )
    discover.add_argument(
        "--num_domains", help="how many (5), or a range (3-8, 3-); found by default"
    )
    discover.add_argument("--page", help="HTML page; beside the table by default")
    discover.add_argument(
        "--overwrite", action="store_true", help="replace a table that is there, corrected or not"
    )
    discover.add_argument("--seed", type=int, default=0, help="of the clusterings")
    discover.add_argument("--channels", type=int, default=3, help="3 for colour, 1 for grey")
    discover.add_argument(
        "--strict", action="store_true", help="refuse unreadable images instead of skipping them"
    )
    commands.add_subcommand("discover", discover, help="find the domains of unlabelled images")

    resume = Parser(description="Continue an interrupted run to its end.")
    resume.add_argument("run", help="run folder")
    commands.add_subcommand("resume", resume, help="continue an interrupted run")

    evaluate = Parser(description="Probe a run on seen and unseen domains.")
    evaluate.add_argument("run", help="run folder")
    evaluate.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    commands.add_subcommand("evaluate", evaluate, help="probe a run on seen and unseen domains")

    embed = Parser(
        description="Embed images that the run need not have seen: a table of their features."
    )
    embed.add_argument("run", help="run folder")
    embed.add_argument("images", help='folder of any depth, manifest (.csv, .parquet) or "emoji"')
    embed.add_argument(
        "--output", "-o", default="features.parquet", help="table: path, and a list of numbers"
    )
    embed.add_argument(
        "--portion",
        default="all",
        help="all, invariant, variant, or whitened (to search across domains)",
    )
    embed.add_argument(
        "--strict", action="store_true", help="refuse unreadable images instead of skipping them"
    )
    embed.add_argument("--overwrite", action="store_true", help="replace a table that is there")
    commands.add_subcommand("embed", embed, help="features of any images, as a table")

    finetune = Parser(description="Judge a run by what a share of the labels makes of it.")
    finetune.add_argument("run", help="run folder")
    finetune.add_class_arguments(FinetuneConfig, as_group=False)
    commands.add_subcommand("finetune", finetune, help="judge a run by label fractions")

    report = Parser(description="Write an HTML report on one or several evaluated runs.")
    report.add_argument("runs", nargs="+", help="run folders")
    report.add_argument("--output", "-o", default="report.html", help="file to write")
    commands.add_subcommand("report", report, help="write an HTML report on evaluated runs")

    bench = Parser(
        description="Train and evaluate a grid of runs, resumed where it stopped; one table of all."
    )
    bench.add_argument(
        "grid",
        help="YAML file (base, variants, held_out, seeds, ...), or pacs-lodo, emoji-lodo, ...",
    )
    bench.add_argument("--images", help="in place of the grid's own")
    bench.add_argument("--output", "-o", required=True, help="folder of the results")
    bench.add_argument("--jobs", type=int, default=1, help="runs at a time")
    bench.add_argument("--shard", default="1/1", help="i/n: do the i-th of n parts of the runs")
    bench.add_argument(
        "--keep_runs", action="store_true", help="keep each run's folder, with encoder and features"
    )
    commands.add_subcommand("bench", bench, help="train and evaluate a grid of runs")

    data = Parser(description="Look at data before training on them.")
    commands.add_subcommand("data", data, help="check images")
    of_data = data.add_subcommands(required=True, dest="what")
    check = Parser(
        description="What a folder or manifest is, how many images it holds, what is missing, "
        "unreadable, duplicated or stray. Exit status 1 where a reader would refuse it."
    )
    check.add_argument("root", help="folder of images, or manifest (.csv, .parquet)")
    check.add_argument("--json", action="store_true", help="all of it, for machines")
    of_data.add_subcommand("check", check, help="what it holds and what is wrong with it")

    methods = Parser(description="The self-supervised methods.")
    commands.add_subcommand("methods", methods, help="list the self-supervised methods")

    objectives = Parser(description="The objectives of the module, by role.")
    commands.add_subcommand("objectives", objectives, help="list the module's objectives")

    encoders = Parser(description="The encoders: the small one, and those of timm.")
    encoders.add_argument("pattern", nargs="?", default="*", help='such as "resnet*"')
    commands.add_subcommand("encoders", encoders, help="list the encoders")

    demo = Parser(description="Emoji with and without the module, and a report on both.")
    demo.add_argument(
        "--output", "-o", default="runs/demo", help="folder; continued if interrupted"
    )
    demo.add_argument("--held_out", default="noto-mono", help="the unseen domain")
    demo.add_argument("--epochs", type=int, default=DEMO_EPOCHS, help="of each of the two runs")
    demo.add_argument("--seed", type=int, default=0, help="of both runs")
    commands.add_subcommand("demo", demo, help="see it work on emoji in a few minutes")
    return parser


DEMO_EPOCHS = 10


def _pretrain(options: Namespace) -> None:
    from ddm.pretrain import pretrain
    from ddm.processes import is_first_process

    values = options.as_dict()
    values.pop("config", None)
    run = pretrain(PretrainConfig.from_dict(values, "the command line"))
    if not is_first_process():
        return
    print(f"{run.encoder_file}: the encoder; {run.path / 'load_encoder.py'} shows how to load it")
    print(f"Next: ddm evaluate {run.path}")


def _discover(options: Namespace) -> None:
    from pathlib import Path

    from ddm.discovery_page import headline
    from ddm.messages import tell
    from ddm.pseudo_domains import discover, has_files, pretrain_command

    output = Path(options.output)
    page = Path(options.page) if options.page else output.with_suffix(".html")
    if page.suffix.lower() not in (".html", ".htm"):
        raise DdmError(f"--page {page}: a page's name ends in .html")
    numbers = _number_of_domains(options.num_domains)
    found, dataset = discover(
        options.images,
        output,
        numbers,
        options.seed,
        options.channels,
        options.strict,
        options.overwrite,
        page,
    )
    if dataset.skipped:
        first, reason = dataset.skipped[0]
        count = len(dataset.skipped)
        what = f"{count:,} images" if count > 1 else "1 image"
        tell(f"{what} could not be read, first {first} ({reason}); {page} lists them")
    print("\n".join(headline(found, len(dataset))))
    for name, count in zip(found.table().names, found.table().counts(), strict=True):
        print(f"  {name}: {count:,} images")
    print(f"{page}: to look at")
    command = pretrain_command(options.images, str(output), found)
    if command:
        look = "look at the page, correct the table, " if has_files(options.images) else ""
        print(f"Next: {look}{command}")


def _number_of_domains(text: str | None) -> int | tuple[int, int | None] | None:
    if text is None:
        return None
    try:
        low, dash, high = text.partition("-")
        return (int(low), int(high) if high else None) if dash else int(low)
    except ValueError:
        raise DdmError(f"--num_domains {text}: give a number (5) or a range (3-8, 3-)") from None


def _resume(options: Namespace) -> None:
    from ddm.pretrain import resume
    from ddm.processes import is_first_process

    run = resume(options.run)
    if not is_first_process():
        return
    print(f"{run.encoder_file}: the encoder")
    print(f"Next: ddm evaluate {run.path}")


def _evaluate(options: Namespace) -> None:
    from ddm.evaluate import evaluate, summary_table

    results = evaluate(options.run, seed=options.seed)
    print(summary_table(results["rows"]))
    print(f"Next: ddm report {options.run}")


def _embed(options: Namespace) -> None:
    from pathlib import Path

    from ddm.embeddings import embed_images
    from ddm.messages import tell

    dataset = embed_images(
        options.run,
        options.images,
        Path(options.output),
        options.portion,
        options.strict,
        options.overwrite,
    )
    for key, reason in dataset.skipped[:UNREADABLE_TOLD]:
        tell(f"{key} could not be read ({reason})")
    more = len(dataset.skipped) - UNREADABLE_TOLD
    if more > 0:
        tell(f"nor could {more:,} more: `ddm data check {options.images} --json` lists them")
    print(f"{options.output}: features of {len(dataset):,} images")


def _finetune(options: Namespace) -> None:
    from ddm.domains import SUMMARIES
    from ddm.finetune import finetune

    values = options.as_dict()
    results = finetune(values.pop("run"), FinetuneConfig(**values))
    for row in results["rows"]:
        if row["domain"] in SUMMARIES:
            value, low, high = (100 * row[key] for key in ("value", "low", "high"))
            what = f"{row['measure']:9} {row['trained_on']:10} {row['side']:7} {row['domain']:6}"
            print(f"{what} {value:.1f} [{low:.1f}, {high:.1f}]")


def _report(options: Namespace) -> None:
    from pathlib import Path

    from ddm.report import write_report

    print(write_report([Path(run) for run in options.runs], Path(options.output)))


def _bench(options: Namespace) -> None:
    from pathlib import Path

    from ddm.bench import bench

    try:
        part, parts = (int(number) for number in options.shard.split("/"))
    except ValueError:
        raise DdmError(f"--shard {options.shard}: give i/n, such as 2/8") from None
    shard = (part, parts)
    print(
        bench(
            Path(options.grid),
            Path(options.output),
            options.jobs,
            shard,
            options.images,
            options.keep_runs,
        )
    )


def _data(options: Namespace) -> int:
    from pathlib import Path

    from ddm.data.check import check_data

    report = check_data(Path(options.check.root))
    print(report.to_json() if options.check.json else report)
    return 0 if report.usable else 1


def _methods(options: Namespace) -> None:
    from dataclasses import fields

    from ddm.methods import METHODS

    for name, method in METHODS.items():
        print(f"{name:14}{(method.__doc__ or '').splitlines()[0]}")
        settings = ", ".join(f"{f.name}={f.default}" for f in fields(method.settings_type))
        print(f"{'':14}--method_args: {settings}")
        own = method.optimizer
        print(f"{'':14}--optimizer {own.name} --learning_rate {own.learning_rate:g}, the paper's")


def _objectives(options: Namespace) -> None:
    from ddm.objectives import OBJECTIVES, settings_of

    for role, kinds in OBJECTIVES.items():
        for name, kind in kinds.items():
            option = f"--ddm.{role} {name}"
            print(f"{option:38}{(kind.__doc__ or '').splitlines()[0]}")
            settings = ", ".join(f"{k}={v}" for k, v in settings_of(kind).items())
            if settings:
                print(f"{'':38}--ddm.{role}_args: {settings}")


def _encoders(options: Namespace) -> None:
    from ddm.encoders import list_encoders

    print("\n".join(list_encoders(options.pattern)))


def _demo(options: Namespace) -> None:
    from pathlib import Path

    from ddm.demo import run_demo

    run_demo(Path(options.output), options.held_out, options.epochs, options.seed)


COMMANDS: dict[str, Any] = {
    "pretrain": _pretrain,
    "discover": _discover,
    "resume": _resume,
    "evaluate": _evaluate,
    "embed": _embed,
    "finetune": _finetune,
    "report": _report,
    "bench": _bench,
    "data": _data,
    "methods": _methods,
    "objectives": _objectives,
    "encoders": _encoders,
    "demo": _demo,
}
