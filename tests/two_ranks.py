"""One of the two processes of `test_two_ranks.py`: whole, interrupted and resumed runs."""

import sys
from pathlib import Path

import torch

from ddm.config import ModuleConfig, PretrainConfig
from ddm.errors import DdmError
from ddm.methods import METHODS
from ddm.pretrain import Pretraining, is_first_process, pretrain, resume
from synthetic import make_dataset


class Stop(Exception):
    """Stands for whatever ends a run."""


def work(folder: Path) -> None:
    torch.set_num_threads(1)
    dataset = make_dataset(each=10, size=16)
    whole_step = Pretraining.training_step

    def settings(method: str, run: str) -> PretrainConfig:
        return PretrainConfig(
            output=str(folder / run / method),
            size=16,
            epochs=2,
            batch_size=8,
            devices=2,
            accelerator="cpu",
            workers=0,
            learning_rate=1e-3,
            method=method,
            checkpoint_steps=1,
            ddm=ModuleConfig(variant="prototypes", invariance="prototypes"),
        )

    def broken(self: Pretraining, batch: object, batch_idx: int) -> torch.Tensor:
        if self.global_step == 4:
            raise Stop("as if it was killed")
        return whole_step(self, batch, batch_idx)

    for method in METHODS:
        pretrain(settings(method, "whole"), dataset)
        Pretraining.training_step = broken
        try:
            pretrain(settings(method, "broken"), dataset)
        except Stop:
            pass
        else:
            raise AssertionError("it was to be interrupted")
        Pretraining.training_step = whole_step
        resume(folder / "broken" / method, dataset)

    def one_sided(self: Pretraining, batch: object, batch_idx: int) -> torch.Tensor:
        if self.global_step == 2 and self.global_rank == 1:
            raise DdmError("image 7 cannot be read any more")
        return whole_step(self, batch, batch_idx)

    Pretraining.training_step = one_sided
    try:
        pretrain(settings("simclr", "one-sided"), dataset)
    except DdmError as error:
        (folder / f"error-{0 if is_first_process() else 1}.txt").write_text(str(error))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
