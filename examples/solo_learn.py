"""The module in any of solo-learn's methods: put `WithDDM` before it, as for SimCLR below.

Every batch of solo-learn begins with the images' indices, so a table of domains by index is all
that its data need. solo-learn is installed from its repository.

    class BYOLWithDDM(WithDDM, BYOL): ...
    model = BYOLWithDDM(cfg, domains=table.index, num_domains=table.num_domains)
"""

import torch
from solo.methods import SimCLR

from ddm import DomainDisentanglement  # DDM


class WithDDM:
    """Adds the module's loss to that of the method that follows it.

    Args:
        cfg: solo-learn's configuration.
        domains: domain of each image by its index, integers, -1 where unknown.
        num_domains: how many there are.
    """

    def __init__(self, cfg, domains, num_domains):
        super().__init__(cfg)
        self.register_buffer("domains", torch.as_tensor(domains), persistent=False)
        self.ddm = DomainDisentanglement(self.features_dim, num_domains)

    @property
    def learnable_params(self):
        return [*super().learnable_params, {"name": "ddm", "params": self.ddm.parameters()}]

    def base_training_step(self, X, targets):
        out = super().base_training_step(X, targets)
        self.features.append(out["feats"])
        return out

    def training_step(self, batch, batch_idx):
        self.features = []  # Of each large crop.
        loss = super().training_step(batch, batch_idx)
        out = self.ddm(torch.stack(self.features), self.domains[batch[0]])
        self.log_dict({f"train_ddm_{name}": value for name, value in out.terms.items()})
        return loss + out.loss


class SimCLRWithDDM(WithDDM, SimCLR):
    """SimCLR with the module."""
