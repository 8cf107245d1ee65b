"""The module in lightly's published SimCLR recipe. The lines marked DDM are all it takes.

lightly's transforms, collation, head, loss, LARS and schedule are used as its ImageNet benchmark
uses them; its data set carries a file name for each image, whose first folder is the domain.

Run it: python examples/lightly_simclr.py IMAGES     (images/<domain>/*)
"""

import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.models.utils import get_weight_decay_parameters
from lightly.transforms import SimCLRTransform
from lightly.utils.lars import LARS
from lightly.utils.scheduler import CosineWarmupScheduler
from timm import create_model
from torch.utils.data import DataLoader

from ddm import DomainDisentanglement  # DDM 1


class SimCLR(pl.LightningModule):
    def __init__(self, domains: list[str], batch_size: int) -> None:
        super().__init__()
        self.domains, self.batch_size = domains, batch_size
        self.backbone = create_model("resnet10t", num_classes=0)
        width = self.backbone.num_features
        self.projection_head = SimCLRProjectionHead(width, 256, 128)
        self.criterion = NTXentLoss(temperature=0.1, gather_distributed=True)
        self.ddm = DomainDisentanglement(width, len(domains))  # DDM 2

    def training_step(self, batch, batch_idx):
        views, _, names = batch
        features = self.backbone(torch.cat(views)).chunk(2)
        loss = self.criterion(*(self.projection_head(h) for h in features))
        domains = torch.tensor([self.domains.index(Path(name).parts[0]) for name in names])
        loss = loss + self.ddm(torch.stack(features), domains).loss  # DDM 3
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        params, params_no_decay = get_weight_decay_parameters(
            [self.backbone, self.projection_head, self.ddm]
        )
        groups = [{"params": params}, {"params": params_no_decay, "weight_decay": 0.0}]
        optimizer = LARS(groups, lr=0.075 * self.batch_size**0.5, momentum=0.9, weight_decay=1e-6)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = CosineWarmupScheduler(optimizer, warmup_epochs=steps // 10, max_epochs=steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def main(images: str, epochs: int = 2, batch_size: int = 32) -> SimCLR:
    domains = sorted(folder.name for folder in Path(images).iterdir() if folder.is_dir())
    dataset = LightlyDataset(images, transform=SimCLRTransform(input_size=32))
    loader = DataLoader(dataset, batch_size, shuffle=True, drop_last=True)
    model = SimCLR(domains, batch_size)
    trainer = pl.Trainer(max_epochs=epochs, devices=1, logger=False, enable_checkpointing=False)
    trainer.fit(model, loader)
    return model


if __name__ == "__main__":
    main(sys.argv[1])
