"""One of the two processes of `test_two_ranks.py`: whole, interrupted and resumed runs."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

import ddm.training
from ddm.config import ModuleConfig, PretrainConfig
from ddm.domains import DomainTable
from ddm.errors import DdmError
from ddm.methods import METHODS
from ddm.pretrain import pretrain, resume
from ddm.processes import is_first_process
from ddm.pseudo_domains import FeatureMemory
from ddm.training import Pretraining
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

    norms: set[str] = set()
    decays: list[float] = []

    def watched(self: Pretraining, batch: object, batch_idx: int) -> torch.Tensor:
        norms.update(type(m).__name__ for m in self.modules() if "BatchNorm" in type(m).__name__)
        decays.append(self.trainer.optimizers[0].param_groups[0]["weight_decay"])
        return whole_step(self, batch, batch_idx)

    for method in METHODS:
        Pretraining.training_step = watched
        pretrain(settings(method, "whole"), dataset)
        if method == "dino":
            (folder / "decays.txt").write_text(" ".join(map(str, decays)))
        decays.clear()
        Pretraining.training_step = broken
        try:
            pretrain(settings(method, "broken"), dataset)
        except Stop:
            pass
        else:
            raise AssertionError("it was to be interrupted")
        Pretraining.training_step = whole_step
        resume(folder / "broken" / method, dataset)

    def found(run: str) -> PretrainConfig:
        return replace(
            settings("simclr", run),
            output=str(folder / run / "found"),
            domains="discover",
            num_domains=3,
            rediscover_every=1,
            epochs=3,
        )

    # Domains found anew; what each rank saw and got.
    whole_rediscovery = ddm.training.rediscover
    dumps: list[dict[str, torch.Tensor]] = []

    def dumped(table: DomainTable, memory: FeatureMemory, seed: int) -> object:
        own = memory.seen.clone()
        features, seen = memory.joined()
        after, figures = whole_rediscovery(table, memory, seed)
        dumps.append(
            {
                "own": own,
                "features": torch.from_numpy(features),
                "seen": torch.from_numpy(seen),
                "before": torch.from_numpy(table.index),
                "after": torch.from_numpy(after.index),
            }
        )
        return after, figures

    ddm.training.rediscover = dumped
    pretrain(found("whole"), dataset)
    rank = 0 if is_first_process() else 1
    torch.save(dumps, folder / f"found-{rank}.pt")
    Pretraining.training_step = broken
    try:
        pretrain(found("broken"), dataset)
    except Stop:
        pass
    else:
        raise AssertionError("it was to be interrupted")
    Pretraining.training_step = whole_step
    resume(folder / "broken" / "found", dataset)
    ddm.training.rediscover = whole_rediscovery

    (folder / "norms.txt").write_text(" ".join(sorted(norms)))

    def not_a_number(self: Pretraining, batch: object, batch_idx: int) -> torch.Tensor:
        if self.global_step == 2 and self.global_rank == 1:
            whole = self.method.forward

            def spoilt(*given: object) -> object:
                output = whole(*given)
                return type(output)(output.loss * float("nan"), output.features)

            self.method.forward = spoilt
        return whole_step(self, batch, batch_idx)

    def tell(what: str, step: object) -> None:
        Pretraining.training_step = step
        try:
            pretrain(settings("simclr", what), dataset)
        except DdmError as error:
            rank = 0 if is_first_process() else 1
            (folder / f"{what}-{rank}.txt").write_text(str(error))

    tell("nan", not_a_number)

    def one_sided(self: Pretraining, batch: object, batch_idx: int) -> torch.Tensor:
        if self.global_step == 2 and self.global_rank == 1:
            raise DdmError("image 7 cannot be read any more")
        return whole_step(self, batch, batch_idx)

    tell("one-sided", one_sided)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
