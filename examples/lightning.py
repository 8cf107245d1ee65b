"""The module in a LightningModule of your own. The lines marked DDM are all it takes.

Run it: python examples/lightning.py
"""

import pytorch_lightning as pl
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from timm import create_model
from torch.utils.data import DataLoader, TensorDataset

from ddm import DomainDisentanglement  # DDM 1


class SimCLR(pl.LightningModule):
    def __init__(self, num_domains: int) -> None:
        super().__init__()
        self.encoder = create_model("resnet10t", num_classes=0)
        width = self.encoder.num_features
        self.head = SimCLRProjectionHead(width, 256, 128)
        self.criterion = NTXentLoss(temperature=0.2)
        self.ddm = DomainDisentanglement(width, num_domains)  # DDM 2

    def training_step(self, batch, batch_idx):
        view_1, view_2, domains = batch
        h_1, h_2 = self.encoder(view_1), self.encoder(view_2)
        loss = self.criterion(self.head(h_1), self.head(h_2))
        loss = loss + self.ddm(torch.stack([h_1, h_2]), domains).loss  # DDM 3
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(max_steps: int = 10) -> SimCLR:
    """Stand-in data: two views of each image, and the domain that it comes from."""
    pl.seed_everything(0, verbose=False)
    domains = torch.randint(3, (256,))
    images = torch.rand(256, 3, 32, 32) + domains[:, None, None, None]
    views = [images + 0.1 * torch.randn_like(images) for _ in range(2)]
    loader = DataLoader(TensorDataset(*views, domains), batch_size=32, shuffle=True, drop_last=True)
    model = SimCLR(num_domains=3)
    trainer = pl.Trainer(
        max_steps=max_steps, accelerator="auto", devices=1, logger=False, enable_checkpointing=False
    )
    trainer.fit(model, loader)
    return model


if __name__ == "__main__":
    main()
