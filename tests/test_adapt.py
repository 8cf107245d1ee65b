"""First weights from files as other libraries write them."""

import argparse
import copy

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from ddm.adapt import adapt
from ddm.config import PretrainConfig
from ddm.encoders import EncoderSpec, build_encoder
from ddm.errors import DdmError
from ddm.pretrain import pretrain, resume
from ddm.training import Pretraining
from synthetic import make_dataset

RESNET = EncoderSpec("resnet10t", 3, 96)
VIT = EncoderSpec("vit_tiny_patch16_224", 3, 32)


def fresh(spec: EncoderSpec, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_encoder(spec)[0]


def under(prefix: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{prefix}{k}": v for k, v in module.state_dict().items()}


def lightly(model: nn.Module) -> dict:
    backbone = nn.Sequential(*list(model.children())[:-1])
    momentum = copy.deepcopy(backbone)
    for p in momentum.parameters():
        p.data.zero_()
    head = nn.Linear(4, 4)
    state = under("backbone_momentum.", momentum) | under("backbone.", backbone)
    return {"epoch": 3, "state_dict": state | under("projection_head.", head)}


def moco(model: nn.Module) -> dict:
    other = fresh(RESNET, 7)
    keys = under("module.encoder_k.", other) | under("module.encoder_q.", model)
    return {"epoch": 199, "arch": "resnet", "state_dict": keys | {"module.queue": torch.ones(2, 3)}}


def solo(model: nn.Module) -> dict:
    extra = {"classifier.weight": torch.ones(3, 512), "projector.0.weight": torch.ones(8, 512)}
    other = under("momentum_backbone.", fresh(RESNET, 7))
    return {
        "state_dict": other | under("backbone.", model) | extra,
        "hyper_parameters": {"lr": 0.3},
    }


def dino(model: nn.Module) -> dict:
    student = under("module.backbone.", fresh(RESNET, 7)) | {
        "module.head.mlp.0.weight": torch.ones(3)
    }
    return {
        "student": student,
        "teacher": under("backbone.", model) | {"head.last_layer.weight": torch.ones(3, 3)},
        "args": argparse.Namespace(arch="resnet", lr=0.1),
        "epoch": 99,
    }


FILES = {
    "timm.pth": lambda model: model.state_dict(),
    "timm-wrapped.pth.tar": lambda model: {"state_dict": model.state_dict(), "epoch": 1},
    "data-parallel.pt": lambda model: under("module.", model),
    "with-classes.bin": lambda model: {**model.state_dict(), "fc.weight": torch.ones(10, 512)},
    "lightly.ckpt": lightly,
    "moco.pth.tar": moco,
    "solo-learn.ckpt": solo,
    "dino.pth": dino,
    "own-loop.pth": lambda model: {
        "backbone": model.state_dict(),
        "head": nn.Linear(3, 4).state_dict(),
        "epoch": 1,
    },
    "own-encoder.pth": lambda model: {"encoder": under("module.", model), "optimizer": {"lr": 1}},
    "ours.ckpt": lambda model: {
        "state_dict": under("method.target_encoder.model.", fresh(RESNET, 7))
        | under("method.encoder.", model)
    },
}


@pytest.mark.parametrize("file", FILES)
def test_every_tensor_is_found(tmp_path, file):
    source = fresh(RESNET, 1)
    torch.save(FILES[file](source), tmp_path / file)
    encoder = fresh(RESNET, 2)
    matched = adapt(encoder, str(tmp_path / file), RESNET)
    assert matched.missing == () and set(matched.loaded) == set(encoder.state_dict())
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name
    x = torch.rand(2, 3, 96, 96)
    assert torch.equal(encoder.eval()(x), source.eval()(x))


def test_safetensors_and_run_folders(tmp_path):
    source = fresh(RESNET, 1)
    tensors = {k: v.contiguous() for k, v in source.state_dict().items()}
    save_file(tensors, tmp_path / "encoder.safetensors")
    for where in (tmp_path, tmp_path / "encoder.safetensors"):
        encoder = fresh(RESNET, 2)
        adapt(encoder, str(where), RESNET)
        assert torch.equal(encoder.conv1[0].weight, source.conv1[0].weight)


def test_what_does_not_match_is_reported(tmp_path):
    state = fresh(RESNET, 1).state_dict()
    state["conv1.0.weight"] = torch.ones(3, 3)
    del state["conv1.1.bias"]
    state["fc.weight"] = torch.ones(2, 2)
    torch.save(state, tmp_path / "a.pth")
    encoder = fresh(RESNET, 2)
    kept = encoder.conv1[0].weight.clone()
    matched = adapt(encoder, str(tmp_path / "a.pth"), RESNET)
    assert dict(matched.missing) == {
        "conv1.0.weight": f"shape (3, 3), not {tuple(kept.shape)}",
        "conv1.1.bias": "not there",
    }
    assert matched.unused == ("fc.weight",)
    assert torch.equal(encoder.conv1[0].weight, kept)
    for part in ("conv1.1.bias (not there)", "not used: fc.weight"):
        assert part in str(matched)


def test_positions_of_a_vision_transformer_are_interpolated(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    torch.save({"model": source.state_dict()}, tmp_path / "deit.pth")
    encoder = fresh(VIT, 2)
    matched = adapt(encoder, str(tmp_path / "deit.pth"), VIT)
    assert matched.missing == ()
    # The class token's position is not one of the picture's.
    assert torch.equal(encoder.pos_embed[:, 0], source.pos_embed[:, 0])
    assert torch.equal(encoder.blocks[3].mlp.fc1.weight, source.blocks[3].mlp.fc1.weight)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"state_dict": {}, "config": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(
        DdmError, match=r"evil.ckpt: .* \(it holds Python objects other than tensors.*safetensors"
    ) as refused:
        adapt(fresh(RESNET, 0), str(tmp_path / "evil.ckpt"), RESNET)
    # PyTorch's advice.
    assert "weights_only" not in str(refused.value)
    assert "executed" not in capsys.readouterr().out


def test_bad_sources(tmp_path):
    encoder = fresh(RESNET, 0)
    with pytest.raises(DdmError, match=r"neither a file nor .* did you mean resnet18"):
        adapt(encoder, "resnet18.a1_in1", RESNET)
    with pytest.raises(DdmError, match="weights of resnet18, not of resnet10t; give --encoder"):
        adapt(encoder, "resnet18.a1_in1k", RESNET)
    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DdmError, match=r"a\.safetensors: not a readable safetensors"):
        adapt(encoder, str(tmp_path / "a.safetensors"), RESNET)
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(DdmError, match=r"empty\.pth: cannot be read as tensors alone \("):
        adapt(encoder, str(tmp_path / "empty.pth"), RESNET)
    with pytest.raises(DdmError, match="a folder without encoder"):
        adapt(encoder, str(tmp_path), RESNET)
    with pytest.raises(DdmError, match="File name too long"):
        adapt(encoder, "x" * 5000, RESNET)
    (tmp_path / "b.pth").write_bytes(b"nonsense")
    with pytest.raises(DdmError, match=r"b\.pth: cannot be read as tensors.*no checkpoint of PyT"):
        adapt(encoder, str(tmp_path / "b.pth"), RESNET)
    torch.save({"epoch": 3}, tmp_path / "c.pth")
    with pytest.raises(DdmError, match=r"holds no tensors .*\(its entries are epoch\); save"):
        adapt(encoder, str(tmp_path / "c.pth"), RESNET)
    torch.save(nn.Linear(3, 4).state_dict(), tmp_path / "d.pth")
    with pytest.raises(DdmError, match=r"d\.pth does not fit encoder 'resnet10t': it has names"):
        adapt(encoder, str(tmp_path / "d.pth"), RESNET)
    with pytest.raises(DdmError, match="no weights to be filled"):
        adapt(nn.Flatten(), str(tmp_path / "d.pth"), RESNET)
    spoilt = fresh(RESNET, 1).state_dict()
    spoilt["layer1.0.conv1.weight"][0, 0] = float("nan")
    torch.save(spoilt, tmp_path / "e.pth")
    with pytest.raises(DdmError, match=r"layer1\.0\.conv1\.weight is not finite"):
        adapt(encoder, str(tmp_path / "e.pth"), RESNET)


def change(name, value):
    def changed(model):
        state = dict(model.state_dict())
        if value is None:
            del state[name]
        else:
            state[name] = value(state[name]) if callable(value) else value
        return state

    return changed


def test_the_first_layer_is_exempt_and_not_the_block_that_holds_it(tmp_path):
    # All of a densenet lies in its first child.
    spec = EncoderSpec("densenet121", 3, 32)
    model = fresh(spec, 1)
    state = model.state_dict()
    assert {name.split(".")[0] for name in state} == {"features"}
    torch.save({k: v for k, v in state.items() if "denseblock3" not in k}, tmp_path / "half.pth")
    with pytest.raises(DdmError, match=r"it lacks features\.denseblock3"):
        adapt(fresh(spec, 2), str(tmp_path / "half.pth"), spec)
    # Of another number of channels the first layer alone starts anew.
    grey = EncoderSpec("densenet121", 1, 32)
    torch.save(state, tmp_path / "whole.pth")
    matched = adapt(fresh(grey, 2), str(tmp_path / "whole.pth"), grey)
    assert [name for name, _ in matched.missing] == ["features.conv0.weight"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        # Another depth, in either direction, and weights that are none.
        (lambda m: {k: v for k, v in m.state_dict().items() if "layer4" not in k}, "lacks layer4"),
        (change("layer1.1.conv1.weight", torch.ones(3, 3)), r"is deeper: layer1\.1\.conv1"),
        (change("layer2.0.bn1.bias", None), r"lacks layer2\.0\.bn1\.bias"),
        (change("layer1.0.conv1.weight", lambda w: w.to(torch.int8)), r"lacks layer1\.0\.conv1"),
        (change("layer1.0.conv1.weight", lambda w: w.cfloat()), r"lacks layer1\.0\.conv1"),
        (change("layer1.0.conv1.weight", lambda w: w.to_sparse()), r"lacks layer1\.0\.conv1"),
    ],
)
def test_weights_of_another_architecture_are_refused(tmp_path, build, message):
    torch.save(build(fresh(RESNET, 1)), tmp_path / "other.pth")
    encoder = fresh(RESNET, 2)
    before = encoder.layer3[0].conv1.weight.clone()
    with pytest.raises(DdmError, match=f"does not fit encoder 'resnet10t': it .*{message}"):
        adapt(encoder, str(tmp_path / "other.pth"), RESNET)
    assert torch.equal(encoder.layer3[0].conv1.weight, before)


def test_other_positions_than_a_square_grid(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    for shape in ((1, 196, 192), (1, 120, 192)):  # Without a class token; 8 x 15.
        source["pos_embed"] = torch.rand(shape)
        torch.save(source, tmp_path / "a.pth")
        matched = adapt(fresh(VIT, 2), str(tmp_path / "a.pth"), VIT)
        assert [name for name, _ in matched.missing] == ["pos_embed"]


def test_lightlys_own_resnet_is_told_apart(tmp_path):
    """`ResNetGenerator` has neither activations nor pooling among its children."""
    children = list(fresh(RESNET, 1).children())
    holders = nn.Sequential(*[child for child in children if child.state_dict()])
    torch.save({"state_dict": under("backbone.", holders)}, tmp_path / "a.ckpt")
    encoder = fresh(RESNET, 2)
    assert adapt(encoder, str(tmp_path / "a.ckpt"), RESNET).missing == ()
    assert torch.equal(encoder.layer3[0].conv1.weight, children[6][0].conv1.weight)


def test_a_run_starts_from_another_and_resumes_without_it(tmp_path, monkeypatch, capsys):
    dataset = make_dataset()
    common = dict(size=32, batch_size=16, accelerator="cpu", workers=0)
    first = pretrain(PretrainConfig(output=str(tmp_path / "a"), epochs=1, **common), dataset)
    config = PretrainConfig(
        output=str(tmp_path / "b"), init=str(first.path), method="byol", epochs=2, **common
    )
    training = Pretraining(config, dataset)
    trained = build_encoder(EncoderSpec("small", 3, 32))[0]
    adapt(trained, str(first.path), EncoderSpec("small", 3, 32))
    for name, value in trained.state_dict().items():
        assert torch.equal(training.method.encoder.state_dict()[name], value)
        assert torch.equal(training.method.target_encoder.model.state_dict()[name], value)
    second = pretrain(config, dataset)
    assert "of the encoder's" in capsys.readouterr().err and (second.path / "init.json").exists()
    second.encoder_file.unlink()
    first.encoder_file.unlink()
    resume(second.path, dataset)
    assert second.encoder_file.exists()
