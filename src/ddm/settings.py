"""The method, the optimizer and the objectives that a configuration names, with their settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from inspect import signature
from typing import Any

from torch import nn

from ddm.config import ModuleConfig, PretrainConfig
from ddm.errors import DdmError
from ddm.imported import imported, is_import
from ddm.methods import find_method
from ddm.objectives import OBJECTIVES, build, settings_of
from ddm.optimizers import OptimizerSettings


def method_settings(config: PretrainConfig) -> Any:
    """The method's settings, with what ``method_args`` changes.

    Raises:
        DdmError: the method has no such setting, or it is of another type; the nearest is offered.
    """
    kind = find_method(config.method).settings_type
    known = {f.name: f.default for f in fields(kind)}
    _check_settings("--method_args", config.method, config.method_args, known)
    try:
        return kind(**config.method_args)
    except ValueError as error:
        raise DdmError(f"--method_args: {error}") from None


def objective(module: ModuleConfig, role: str, *shape: int) -> nn.Module | None:
    """The objective of a role, with its settings.

    Args:
        module: names it and gives its settings.
        role: "variant", "invariance" or "independence".
        shape: width of its portion and number of domains; nothing for independence.

    Raises:
        DdmError: it has no such setting, or of another type or out of range; one's own is no module
            or does not take what it is given.
    """
    check_objective(module, role)
    name, given = getattr(module, role), getattr(module, f"{role}_args")
    if name == "none":
        return None
    try:
        if not is_import(name):
            return build(OBJECTIVES[role][name], *shape, **given)
        make = imported(f"--ddm.{role}", name)
        try:
            signature(make).bind(*shape, **given)
        except TypeError as error:
            raise DdmError(f"--ddm.{role} {name}: {error}; see docs/plug-in.md") from None
        made = make(*shape, **given)
    except DdmError:
        raise
    except ValueError as error:
        raise DdmError(f"--ddm.{role}_args: {error}") from None
    if not isinstance(made, nn.Module):
        raise DdmError(f"--ddm.{role} {name} gives a {type(made).__name__}, no torch.nn.Module")
    return made


def check_objective(module: ModuleConfig, role: str) -> None:
    """Hold an objective's settings to those that there are; one's own are not looked into.

    Raises:
        DdmError: it has no such setting, or it is of another type.
    """
    name, given = getattr(module, role), getattr(module, f"{role}_args")
    if not is_import(name):
        known = {} if name == "none" else settings_of(OBJECTIVES[role][name])
        _check_settings(f"--ddm.{role}_args", name, given, known)


def check_settings(config: PretrainConfig) -> None:
    """Hold what the configuration says of its method and objectives to what these can be told.

    Raises:
        DdmError: an unknown method, or a setting that it or an objective has not or cannot have.
    """
    method_settings(config)
    for role in OBJECTIVES:
        check_objective(config.ddm, role)


def _check_settings(option: str, of: str, given: Any, known: Mapping[str, Any]) -> None:
    """Hold settings to those that there are, and to the types of their defaults.

    Raises:
        DdmError: there is no such setting, or it is of another type; the nearest is offered.
    """
    if not isinstance(given, dict):
        raise DdmError(f"{option.lstrip('-')}={given!r} must map names to numbers")
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(known)}"
            raise DdmError(
                f"{option}: {of} has no setting {name!r}; "
                + (hint if known else "it has none at all")
            )
        wanted = type(known[name])
        fits = isinstance(value, int) or (wanted is float and isinstance(value, float))
        if isinstance(value, bool) or not fits:
            raise DdmError(f"{option}.{name}={value!r} must be of type {wanted.__name__}")


def optimizer_settings(config: PretrainConfig) -> OptimizerSettings:
    """The method's own optimizer, as far as the configuration does not say otherwise."""
    own = find_method(config.method).optimizer
    name = config.optimizer or own.name
    if name != own.name and config.learning_rate is None:
        raise DdmError(
            f"--optimizer {name} differs from {config.method}'s own ({own.name}); "
            "a learning rate does not carry over: give --learning_rate too"
        )
    if name != own.name and config.weight_decay is None and own.final_weight_decay is not None:
        raise DdmError(
            f"--optimizer {name} differs from {config.method}'s own ({own.name}); "
            "a schedule of the weight decay does not carry over: give --weight_decay too"
        )
    return replace(
        own,
        name=name,
        learning_rate=own.learning_rate if config.learning_rate is None else config.learning_rate,
        weight_decay=own.weight_decay if config.weight_decay is None else config.weight_decay,
        # What was asked for stays what it is.
        final_weight_decay=own.final_weight_decay if config.weight_decay is None else None,
    )
