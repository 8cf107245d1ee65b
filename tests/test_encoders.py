"""Encoders by name, their stems for small images, and their way out of the library."""

import pytest
import timm
import torch

from ddm.encoders import EncoderSpec, build_encoder
from ddm.errors import DdmError
from ddm.export import load_encoder, save_encoder
from ddm.run_folder import RunFolder


@pytest.mark.parametrize(
    ("name", "size", "channels", "dim"),
    [
        ("small", 32, 3, 192),
        ("small", 64, 1, 192),
        ("small", 96, 3, 192),
        ("resnet18", 32, 3, 512),
        ("resnet10t", 32, 3, 512),
        ("convnext_atto", 64, 3, 320),
        ("vit_tiny_patch16_224", 32, 3, 192),
        ("test_efficientnet", 64, 4, 256),
    ],
)
def test_encoders_give_pooled_features(name, size, channels, dim):
    encoder, feature_dim = build_encoder(EncoderSpec(name, channels, size))
    features = encoder(torch.rand(2, channels, size, size))
    assert features.shape == (2, feature_dim) and feature_dim == dim
    weights = [p for p in encoder.parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_small_images_keep_their_resolution_in_a_resnet():
    encoder, _ = build_encoder(EncoderSpec("resnet18", image_size=32))
    assert encoder.forward_features(torch.rand(1, 3, 32, 32)).shape[-2:] == (4, 4)
    usual, _ = build_encoder(EncoderSpec("resnet18", image_size=224))
    assert usual.conv1.kernel_size == (7, 7)


def test_the_small_encoder_is_small():
    encoder, _ = build_encoder(EncoderSpec())
    assert sum(p.numel() for p in encoder.parameters()) < 1e6


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(DdmError, match=r"resnet5.*did you mean resnet5"):
        build_encoder(EncoderSpec("resnet5"))
    with pytest.raises(DdmError, match="neither 'small' nor a model of timm"):
        build_encoder(EncoderSpec("Ωmega"))


@pytest.mark.parametrize("name", ["small", "resnet18", "vit_tiny_patch16_224"])
def test_saved_encoders_load_here_and_with_timm_alone(tmp_path, name):
    spec = EncoderSpec(name, 3, 32)
    encoder, dim = build_encoder(spec)
    run = RunFolder(tmp_path)
    save_encoder(run, encoder, spec, variant_dim=dim // 8)
    again, its_spec, variant_dim = load_encoder(str(tmp_path))
    assert torch.equal(
        load_encoder(run.encoder_file)[0](torch.ones(1, 3, 32, 32)), again(torch.ones(1, 3, 32, 32))
    )
    assert its_spec == spec and variant_dim == dim // 8
    images = torch.rand(2, 3, 32, 32)
    expected = encoder.eval()(images)
    assert torch.equal(again(images), expected)
    # The script that lies beside it is run as a user would run it.
    names = {"__file__": str(tmp_path / "load_encoder.py"), "__name__": "script"}
    exec(compile((tmp_path / "load_encoder.py").read_text(), "load_encoder.py", "exec"), names)
    # Not to the bit: kernels for channels-last format, which timm's lacks, sum in another order.
    torch.testing.assert_close(names["model"](images), expected)


def test_files_that_are_no_encoders_are_named(tmp_path):
    path = tmp_path / "encoder.safetensors"
    with pytest.raises(DdmError, match="give the folder that `ddm pretrain` wrote"):
        load_encoder(path)
    with pytest.raises(DdmError, match=r"encoder\.safetensors does not exist"):
        load_encoder(tmp_path)
    path.write_bytes(b"\x00" * 30)
    with pytest.raises(DdmError, match=r"is not a readable safetensors file .*train the run anew"):
        load_encoder(path)


def test_timm_still_pools_as_we_say():
    """The contract with timm that everything rests on."""
    model = timm.create_model("resnet18", num_classes=0)
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, model.num_features)
