"""Self-supervised methods, by name."""

from __future__ import annotations

import difflib

from ddm.errors import DdmError
from ddm.imported import imported, is_import
from ddm.methods.barlow_twins import BarlowTwins
from ddm.methods.base import Method, MethodOutput
from ddm.methods.byol import BYOL
from ddm.methods.dino import DINO
from ddm.methods.moco import MoCo
from ddm.methods.simclr import SimCLR
from ddm.methods.simsiam import SimSiam

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "moco": MoCo,
    "byol": BYOL,
    "dino": DINO,
    "simsiam": SimSiam,
    "barlow_twins": BarlowTwins,
}


def find_method(name: str) -> type[Method]:
    """The method of that name, or the one that lies where ``package.module:Name`` says.

    Raises:
        DdmError: there is none (the nearest name is offered), or it is no :class:`Method`.
    """
    if is_import(name):
        found = imported("--method", name)
        if not (isinstance(found, type) and issubclass(found, Method)):
            raise DdmError(f"--method {name} is no subclass of ddm.methods.Method")
        return found
    if name not in METHODS:
        near = difflib.get_close_matches(name.lower(), METHODS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; choose one of {', '.join(METHODS)}"
        raise DdmError(f"method {name!r} is unknown{hint}")
    return METHODS[name]


__all__ = [
    "BYOL",
    "DINO",
    "METHODS",
    "BarlowTwins",
    "Method",
    "MethodOutput",
    "MoCo",
    "SimCLR",
    "SimSiam",
    "find_method",
]
