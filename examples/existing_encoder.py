"""The module on an encoder that exists: frozen, partly frozen, or with an output of its own kind.

The module can only shape what still learns. Of a partly frozen encoder that is its last stage; on
a frozen one, a small adapter that the split is made in. Frozen batch norm is kept in evaluation
mode, or its statistics would move on.

Run it: python examples/existing_encoder.py
"""

import torch
from timm import create_model
from torch import nn

from ddm import DomainDisentanglement, Pooled


def train_mode(encoder: nn.Module) -> None:
    """Training mode for what learns; frozen parts stay as they were, their batch norm too."""
    encoder.train()
    for part in encoder.modules():
        parameters = list(part.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            part.eval()


def partly_frozen() -> tuple[nn.Module, int]:
    """All but the last stage of a ResNet is frozen."""
    encoder = create_model("resnet10t", num_classes=0)
    for name, child in encoder.named_children():
        if name != "layer4":
            child.requires_grad_(False)
    return encoder, encoder.num_features


def frozen_with_adapter(dim: int = 128) -> tuple[nn.Module, int]:
    """A frozen encoder and a trained adapter: `ddm.split(...)` is read after the adapter."""
    encoder = create_model("resnet10t", num_classes=0).requires_grad_(False)
    adapter = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, dim))
    return nn.Sequential(encoder, adapter), dim


def with_another_output() -> tuple[nn.Module, int]:
    """An encoder that returns a list of maps: the last one is taken and averaged over its places.

    Of a mapping the entry is named by `key=`; of tokens `tokens=` takes the mean or the first.
    """
    return Pooled(create_model("resnet10t", features_only=True), key=-1), 512


def main(encoder: nn.Module, dim: int, steps: int = 3) -> nn.Module:
    torch.manual_seed(0)
    ddm = DomainDisentanglement(dim, num_domains=3)
    trained = [p for p in [*encoder.parameters(), *ddm.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    train_mode(encoder)
    for _ in range(steps):
        domains = torch.randint(3, (16,))
        images = torch.rand(16, 3, 64, 64) + domains[:, None, None, None]
        views = [encoder(images + 0.1 * torch.randn_like(images)) for _ in range(2)]
        # In place of your own self-supervised loss:
        loss = -nn.functional.cosine_similarity(*views).mean()
        loss = loss + ddm(torch.stack(views), domains).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}")
    return encoder


if __name__ == "__main__":
    for make in (partly_frozen, frozen_with_adapter, with_another_output):
        main(*make())
