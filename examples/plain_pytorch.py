"""The module in a plain PyTorch loop of SimCLR. The lines marked DDM are all it takes.

Run it: python examples/plain_pytorch.py
"""

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from timm import create_model

from ddm import DomainDisentanglement  # DDM 1


def make_batches(num_batches: int, num_domains: int = 3):
    """Stand-in for your loader: two views of each image, and the domain that it comes from."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_batches):
        domains = torch.randint(num_domains, (32,), generator=generator)
        images = torch.rand(32, 3, 32, 32, generator=generator) + domains[:, None, None, None]
        noise = torch.rand(2, *images.shape, generator=generator)
        yield images + noise[0], images + noise[1], domains


def main(steps: int = 20) -> float:
    torch.manual_seed(0)
    encoder = create_model("resnet10t", num_classes=0)
    head = SimCLRProjectionHead(encoder.num_features, 256, 128)
    criterion = NTXentLoss(temperature=0.2)
    ddm = DomainDisentanglement(encoder.num_features, num_domains=3)  # DDM 2
    parameters = [*encoder.parameters(), *head.parameters(), *ddm.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    for step, (view_1, view_2, domains) in enumerate(make_batches(steps)):
        h_1, h_2 = encoder(view_1), encoder(view_2)
        loss = criterion(head(h_1), head(h_2))
        loss = loss + ddm(torch.stack([h_1, h_2]), domains).loss  # DDM 3
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step:2d}  loss {loss.item():.3f}")
    return loss.item()


if __name__ == "__main__":
    main()
