"""The command line: one clear line and status 2 for bad input, and quick help."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from ddm import cli
from ddm.cli import main
from ddm.data import load_images
from ddm.errors import DdmError
from ddm.files import atomic
from synthetic import write_folder

FAST = [
    "--size", "32", "--epochs", "1", "--batch_size", "16", "--warmup_epochs", "0",
    "--accelerator", "cpu", "--workers", "0",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images")


def refused(capsys, *arguments) -> str:
    """The one line that a refused command prints."""
    try:
        status = main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("ddm: error:")]
    assert status == 2 and len(lines) == 1 and "Traceback" not in error, error
    return lines[0]


def test_pretrain_evaluate(folder, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["pretrain", str(folder), "-o", str(run), "--held_out", "night", *FAST]) == 0
    assert main(["evaluate", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "linear class, trained on seen" in printed and "unseen" in printed
    results = json.loads((run / "results.json").read_text())
    assert results["unseen"] == ["night"]
    assert set(results["versions"]) >= {"torch", "ddm-ssl"}


def test_a_folder_of_all_kinds_of_images_trains_and_evaluates(tmp_path):
    """JPEG, PNG, WebP, greyscale, RGBA, CMYK, palette and 16 bits, in two domains."""
    folder = write_folder(tmp_path / "images", styles=("filled", "outline"))
    kinds = [
        ("jpg", "RGB"), ("png", "L"), ("webp", "RGB"), ("png", "RGBA"), ("jpg", "CMYK"),
        ("jpg", "L"), ("png", "P"), ("webp", "RGBA"), ("png", "I;16"),
    ]  # fmt: skip
    for path in sorted(folder.rglob("*.png")):
        kind, mode = kinds[int(path.stem) % len(kinds)]
        image = Image.open(path).convert("L" if mode == "I;16" else mode)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
        path.unlink()
        image.save(path.with_suffix(f".{kind}"))
    run = tmp_path / "run"
    assert main(["pretrain", str(folder), "-o", str(run), *FAST]) == 0
    assert main(["evaluate", str(run)]) == 0
    results = json.loads((run / "results.json").read_text())
    assert results["data"]["images"] == 72 and results["data"]["skipped"] == 0


def test_unlabelled_images_train_and_evaluate(tmp_path, capsys):
    folder = tmp_path / "images"
    for path in write_folder(tmp_path / "labelled").rglob("*.png"):
        style, shape = path.parts[-3:-1]
        (folder / style).mkdir(parents=True, exist_ok=True)
        path.rename(folder / style / f"{shape}-{path.name}")
    run = tmp_path / "run"
    assert main(["pretrain", str(folder), "-o", str(run), *FAST]) == 0
    assert main(["evaluate", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "leakage domain" in printed and "linear" not in printed


def test_truncated_images_are_skipped_counted_and_listed(folder, tmp_path, capsys):
    victim = folder / "night" / "cross" / "3.png"
    victim.write_bytes(victim.read_bytes()[:90])
    run = tmp_path / "run"
    assert main(["pretrain", str(folder), "-o", str(run), *FAST]) == 0
    assert "1 image was left out, unreadable or in no split file" in capsys.readouterr().err
    assert "night/cross/3.png" in (run / "skipped.csv").read_text()
    line = refused(capsys, "pretrain", folder, "-o", tmp_path / "strict", "--strict", *FAST)
    assert "night/cross/3.png" in line
    assert not (tmp_path / "strict").exists()


def test_bad_input_is_refused_in_one_line(folder, tmp_path, capsys):
    out = ["-o", tmp_path / "run"]
    (tmp_path / "empty").mkdir()
    single = write_folder(tmp_path / "single", styles=("night",))
    manifest = tmp_path / "list.csv"
    manifest.write_text("file,domain\na.png,x\n")
    cases = {
        "nowhere": ["pretrain", tmp_path / "nowhere", *out],
        "empty": ["pretrain", tmp_path / "empty", *out],
        "domain": ["pretrain", single, *out, *FAST],
        "path": ["pretrain", manifest, *out],
        "variant_dim=192": ["pretrain", folder, *out, *FAST, "--ddm.variant_dim", "192"],
        "--batch_size 512": ["pretrain", folder, *out, *FAST[:4], "--batch_size", "512"],
        "epochs": ["pretrain", folder, *out, "--epochs", "many"],
        "--methd": ["pretrain", folder, *out, "--methd", "byol"],
        "did you mean byol": ["pretrain", folder, *out, *FAST, "--method", "boyl"],
        "config.yaml": ["evaluate", tmp_path / "empty"],
        "run folder": ["resume", tmp_path / "empty"],
    }
    for culprit, arguments in cases.items():
        assert culprit in refused(capsys, *arguments), culprit
    assert not (tmp_path / "run").exists()


def test_an_unfinished_run_is_not_evaluated(folder, tmp_path, capsys):
    run = tmp_path / "run"
    main(["pretrain", str(folder), "-o", str(run), *FAST])
    (run / "encoder.safetensors").unlink()
    assert "has not finished; `ddm resume" in refused(capsys, "evaluate", run)


@pytest.mark.parametrize("spelling", [("--config", "{}"), ("--config={}",)])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_the_command_line_overrides_the_file_wherever_it_is_named(
    tmp_path, capsys, spelling, place
):
    (tmp_path / "c.yaml").write_text("images: from_file\nepochs: 3\nseed: 5\n")
    words = ["from_words", "--epochs", "7"]
    named = [word.format(tmp_path / "c.yaml") for word in spelling]
    with pytest.raises(SystemExit):
        main(["pretrain", *words[:place], *named, *words[place:], "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["images"], printed["epochs"], printed["seed"]) == ("from_words", 7, 5)


def test_methods_objectives_and_encoders_are_listed(capsys):
    assert main(["objectives"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--ddm.invariance coral Mean and covariance of the domains agree" in said
    assert "--ddm.invariance_args: memory=4096, mutual=3, temperature=0.1" in said
    assert main(["methods"]) == 0
    said = capsys.readouterr().out
    assert "barlow_twins" in said and "--optimizer sgd --learning_rate 0.03, the paper's" in said
    assert main(["encoders", "resnet1*"]) == 0
    assert "resnet18" in capsys.readouterr().out.splitlines()
    assert "no encoder matches 'nope'" in refused(capsys, "encoders", "nope")


@pytest.mark.parametrize("what", ["encoders", "methods", "objectives"])
def test_a_reader_that_has_seen_enough_is_no_error(what):
    command = [sys.executable, "-m", "ddm", what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        error = process.stderr.read().decode()
    assert process.returncode == 0 and error == ""


def loaded_by(code: str) -> set[str]:
    printed = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return {name.split(".")[0] for name in printed.split()}


def test_importing_the_package_pulls_in_torch_alone():
    heavy = {"pytorch_lightning", "lightning", "timm", "matplotlib", "lightly", "sklearn", "pandas"}
    loaded = loaded_by("import ddm; ddm.DomainDisentanglement(8, 2)")
    assert "torch" in loaded and not loaded & heavy


def test_help_does_not_wait_for_torch():
    loaded = loaded_by("import contextlib; from ddm.cli import main, build_parser; build_parser()")
    assert not loaded & {"torch", "pytorch_lightning", "timm", "pandas", "numpy"}


def test_data_check(folder, tmp_path, capsys):
    assert main(["data", "check", str(folder)]) == 0
    assert "108 images, 3 domains, 3 classes" in capsys.readouterr().out
    assert main(["data", "check", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 108
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(capsys, "data", "check", tmp_path / "empty")
    first = next((folder / "filled").rglob("*.png"))
    first.write_bytes(b"")
    assert main(["data", "check", str(folder)]) == 0
    assert "Unreadable: 1" in capsys.readouterr().out


def test_benchmarks_are_recognised_and_their_classes_are_no_domains(tmp_path, capsys):
    pacs = tmp_path / "PACS"
    for domain in ("art_painting", "cartoon", "photo", "sketch"):
        for name in ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"):
            (pacs / domain / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (16, 16), (i, 9, 9)).save(pacs / domain / name / f"{i}.png")
    dataset = load_images(str(pacs), 16)
    assert dataset.domains.names == ("art_painting", "cartoon", "photo", "sketch")
    assert set(np.unique(dataset.splits)) == {"train", "val", "test"}
    with pytest.raises(DdmError, match="photo is not the folder of a data set"):
        load_images(str(pacs / "photo"), 16)
    # A folder of domains that are no benchmark's is read as it is.
    for domain in ("mine", "photo"):
        (tmp_path / "own" / domain).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "own" / domain / "1.png")
    assert load_images(str(tmp_path / "own"), 16).domains.names == ("mine", "photo")


def test_an_option_that_is_nearly_one(capsys):
    said = refused(capsys, "pretrain", "images", "--held-out", "sketch")
    assert "did you mean --held_out?" in said and said.endswith("see `ddm pretrain --help`")
    assert "did you mean" not in refused(capsys, "pretrain", "images", "--colour", "red")


def test_a_file_that_cannot_be_written_goes_by_its_own_name(tmp_path, monkeypatch, capsys):
    def full(*_):
        with atomic(tmp_path / "report.html") as temporary:
            temporary.mkdir()
            temporary.write_text("")

    monkeypatch.setitem(cli.COMMANDS, "methods", full)
    assert f"{tmp_path / 'report.html'}: Is a directory" in refused(capsys, "methods")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "pretrain images --learning_rate x",
            "learning_rate: x must be a number; see `ddm pretrain",
        ),
        ("pretrain images --epochs 1.5", "epochs: 1.5 must be a whole number"),
        ("pretrain images --ddm.enabled maybe", "ddm.enabled: maybe must be true or false"),
        ("pretrain images --accelerator tpu", "accelerator: tpu must be one of auto, cpu, gpu;"),
        ("pretrain images --method_args.temperature x", "method_args: x must be a number;"),
        ("pretrain", "ddm pretrain needs images; see `ddm pretrain --help`"),
        ("report", "ddm report needs runs; see `ddm report --help`"),
        ("data check", "ddm data check needs root; see `ddm data check --help`"),
    ],
)
def test_what_cannot_be_is_said_in_words(capsys, words, said):
    assert said in refused(capsys, *words.split())


def test_progress_is_on_stderr(folder, tmp_path):
    """What a command prints can be redirected without its bars."""
    command = [sys.executable, "-m", "ddm", "pretrain", folder, "-o", tmp_path / "run", *FAST]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "it/s" in done.stderr and "it/s" not in done.stdout
    assert "Next: ddm evaluate" in done.stdout
