"""The module in stable-pretraining: a forward of your own around the one that it has. The lines
marked DDM are what it takes.

Its data sets add `sample_idx` to each sample, so a table of domains by index is all they need.

Run it: python examples/stable_pretraining_simclr.py     (pip install stable-pretraining)
"""

import lightning as pl
import stable_pretraining as spt
import torch
from stable_pretraining.forward import simclr

from ddm import DomainDisentanglement  # DDM


def simclr_with_ddm(self, batch, stage):  # DDM
    """stable-pretraining's SimCLR, and the module's loss on its embedding."""
    out = simclr(self, batch, stage)  # DDM
    if self.training:  # DDM
        domains = self.domains[batch["views"][0]["sample_idx"]]  # DDM
        features = out["embedding"].unflatten(0, (2, -1))  # DDM: view by view
        out["loss"] = out["loss"] + self.ddm(features, domains).loss  # DDM
    return out  # DDM


def make_module(domains: torch.Tensor, num_domains: int) -> spt.Module:
    """The optimizer finds the parameters of `ddm` as those of any other part."""
    module = spt.Module(
        forward=simclr_with_ddm,
        backbone=spt.backbone.from_torchvision("resnet18", low_resolution=True, weights=None),
        projector=torch.nn.Linear(512, 128),
        simclr_loss=spt.losses.NTXEntLoss(temperature=0.5),
        ddm=DomainDisentanglement(512, num_domains),  # DDM
        optim={"optimizer": {"type": "AdamW", "lr": 1e-3}},
    )
    module.backbone.fc = torch.nn.Identity()
    module.register_buffer("domains", domains, persistent=False)  # DDM
    return module


class TwoViews(torch.utils.data.Dataset):
    """Stand-in data: noisy copies of images whose brightness is their domain."""

    def __init__(self, domains: torch.Tensor) -> None:
        self.images = torch.rand(len(domains), 3, 32, 32) + domains[:, None, None, None]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        noisy = [self.images[i] + 0.1 * torch.randn(3, 32, 32) for _ in range(2)]
        return {"views": [{"image": view, "sample_idx": i, "label": 0} for view in noisy]}


def main(steps: int = 4) -> spt.Module:
    torch.manual_seed(0)
    domains = torch.randint(3, (64,))
    module = make_module(domains, num_domains=3)
    loader = torch.utils.data.DataLoader(TwoViews(domains), batch_size=16, drop_last=True)
    trainer = pl.Trainer(
        max_steps=steps, devices=1, logger=False, enable_checkpointing=False, num_sanity_val_steps=0
    )
    trainer.fit(module, loader)
    return module


if __name__ == "__main__":
    main()
