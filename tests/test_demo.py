"""The demonstration: two runs, a report, nothing done twice. Mostly on drawn shapes, not emoji."""

from dataclasses import replace

import pytest

from ddm import demo
from ddm.data import emoji
from ddm.errors import DdmError
from ddm.run_folder import RunFolder
from synthetic import write_folder


@pytest.fixture
def small(tmp_path, monkeypatch):
    """What makes the demonstration small; gives the folder that it writes to."""
    images = str(write_folder(tmp_path / "images", each=12))
    whole = demo.demo_config

    def config(*given):
        return replace(
            whole(*given), images=images, size=16, batch_size=16, workers=0, accelerator="cpu"
        )

    monkeypatch.setattr(demo, "demo_config", config)
    return tmp_path / "demo"


def files(folder):
    return {p: p.stat().st_mtime_ns for p in sorted(folder.rglob("*.safetensors")) if p.is_file()}


def test_two_runs_that_differ_in_the_module_and_a_report(small, capsys):
    report = demo.run_demo(small, "outline", 1, 0)
    assert report == small / "report.html"
    text = report.read_text(encoding="utf-8")
    assert "<h1>Domain disentanglement on emoji</h1>" in text
    (_, without), (_, having) = (
        RunFolder.open(small / name) for name in ("without-ddm", "with-ddm")
    )
    assert (without.ddm.enabled, having.ddm.enabled) == (False, True)
    same = replace(without, output="", ddm=having.ddm)
    assert same == replace(having, output="") and having.held_out == ["outline"]
    assert str(report) in capsys.readouterr().out


def test_a_second_call_goes_on_where_the_first_stopped(small, monkeypatch):
    def interrupted(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            demo.run_demo(small, "outline", 1, 0)
    trained = files(small)
    assert trained
    assert demo.run_demo(small, "outline", 1, 0).exists()
    assert trained.items() <= files(small).items()
    with pytest.raises(DdmError, match=r"other settings.*seed.*--output"):
        demo.run_demo(small, "outline", 1, 1)


def test_on_emoji_themselves(small, monkeypatch, tmp_path):
    """Their reader is another than that of folders."""
    pytest.importorskip("skia", reason="the extra 'demo' draws emoji")
    monkeypatch.setenv("DDM_CACHE", str(tmp_path / "cache"))
    some = emoji.read_emoji()[::20]
    monkeypatch.setattr(emoji, "read_emoji", lambda: some)
    config = demo.demo_config
    monkeypatch.setattr(
        demo, "demo_config", lambda *given: replace(config(*given), images="emoji", size=32)
    )
    assert demo.run_demo(small, "twemoji", 1, 0).exists()
