"""A policy in pieces: FSDP, for models whose training does not fit on one device.

    accelerate launch --config_file docs/accelerate/fsdp.yaml -m agents train ...

Beside the policy that plays there is the learner (`agents.distributed.learner`): the same policy, of which each process
keeps its n-th part of the weights, gradients and optimiser state, and of which a layer is whole only while it computes
(`fully_shard`). Updates are made with the learner; then the policy gets its weights. So what plays, evaluates or saves
has a plain policy, and nothing but the update knows of pieces. During an update the policy's own weights are given up,
on a GPU.

What differs from how FSDP is used in pretraining: gradients are added up over the processes, not averaged, because each
takes its rows' share of one minibatch; and generation runs on whole weights, because a step of one token in every lane
would otherwise gather every layer for a few microseconds of work.

Source: Zhao et al. (2023), arXiv:2304.11277; Rajbhandari et al. (2020), ZeRO, arXiv:1910.02054.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from agents.distributed import processes
from agents.policy.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """A way to cut a policy, as Accelerate's config file has it.

    Attributes:
        layers: Class names of the modules that are gathered one at a time; None: what the model calls its layers; an
            empty tuple: none, all is gathered at once.
        least: Modules with more parameters than this are gathered by themselves, in place of `layers`.
        reshard_after_forward: If True, a layer is given up between its forward and its backward pass (ZeRO stage 3);
            otherwise it is kept (stage 2).
    """

    layers: tuple[str, ...] | None = None
    least: int | None = None
    reshard_after_forward: bool = True


def wanted() -> Sharding | None:
    """Reads what `accelerate launch` has found in its config file.

    Returns:
        The way to cut a policy; None where there is one process, or FSDP is not asked for.

    Raises:
        ValueError: If the config asks for something that is not supported; says what to write in its place.
    """
    if processes.count() == 1 or not processes.flag("ACCELERATE_USE_FSDP"):
        return None
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ValueError(f"Expected fsdp_version: 2 in Accelerate's fsdp_config, got {version}")
    for name, instead in (
        ("offload_params", "more processes, or --lora"),
        ("activation_checkpointing", "--gradient-checkpointing"),
    ):
        if processes.flag(f"FSDP_{name.upper()}"):
            raise ValueError(f"Expected fsdp_{name}: false in Accelerate's fsdp_config, got true: use {instead}")
    if ignored := os.environ.get("FSDP_IGNORED_MODULES"):
        raise ValueError(f"Expected no fsdp_ignored_modules in Accelerate's fsdp_config, got {ignored!r}")
    reshard = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower()
    if reshard not in ("true", "false"):
        raise ValueError(f"Expected fsdp_reshard_after_forward to be true or false, got {reshard!r}")
    names: tuple[str, ...] | None = ()
    least = None
    wrap = os.environ.get("FSDP_AUTO_WRAP_POLICY", "NO_WRAP").upper()
    if wrap == "TRANSFORMER_BASED_WRAP":
        listed = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP")
        names = tuple(name.strip() for name in listed.split(",")) if listed else None
    elif wrap == "SIZE_BASED_WRAP":
        least = int(os.environ.get("FSDP_MIN_NUM_PARAMS", "0"))
    elif wrap != "NO_WRAP":
        raise ValueError(
            f"Expected fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP, SIZE_BASED_WRAP or NO_WRAP, got {wrap!r}"
        )
    return Sharding(layers=names, least=least, reshard_after_forward=reshard == "true")


def shard(policy: Policy, plan: Sharding) -> Policy:
    """Makes a copy of a policy of which this process keeps its part. Called by all processes together.

    Args:
        policy: The policy, the same in every process.
        plan: The way to cut it.

    Returns:
        The copy. Of its methods, `loss` and `evaluate` alone may be called, by all processes equally often.

    Raises:
        ValueError: If the policy has no module of a class that the plan names.
    """
    learner = copy.deepcopy(policy)
    mesh = init_device_mesh(policy.device.type, (processes.count(),))
    for module in layers(learner, plan):
        fully_shard(module, mesh=mesh, reshard_after_forward=plan.reshard_after_forward)
    fully_shard(learner, mesh=mesh)
    for module in learner.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sums
    for method in ("loss", "evaluate"):
        register_fsdp_forward_method(learner, method)
    return learner


class ShardedLearner:
    """The learner of `agents.distributed.learner` under FSDP."""

    is_cut = True

    def __init__(
        self, policy: Policy, sharding: Sharding, make_optimizer: Callable[[Policy], torch.optim.Optimizer]
    ) -> None:
        """Cuts a copy of a policy. Called by all processes together.

        Args:
            policy: The policy that plays.
            sharding: The way to cut it.
            make_optimizer: Makes the optimiser of the copy.
        """
        self._playing = policy
        self.policy = shard(policy, sharding)
        self.optimizer = make_optimizer(self.policy)

    def begin_update(self) -> None:
        """Gives up the weights of the policy that plays, on a GPU."""
        if self._playing.device.type != "cpu":
            give_up(self._playing)

    def publish(self) -> None:
        """Gives the policy that plays the learner's weights. Called by all processes together."""
        fill(self._playing, self.policy)


def give_up(policy: Policy) -> None:
    """Frees the memory of a policy's weights until `fill` puts others there.

    Args:
        policy: The policy. Nothing may be computed with it meanwhile.
    """
    for parameter in policy.parameters():
        parameter.data = parameter.data.new_empty(0)


def fill(policy: Policy, learner: Policy) -> None:
    """Gives a policy the weights of its learner. Called by all processes together.

    Args:
        policy: The policy. Weights that were not given up are written over in place.
        learner: The learner's policy, whose weights may be cut.
    """
    for played, learned in zip(policy.parameters(), learner.parameters(), strict=True):
        is_given_up = played.shape != learned.shape
        if is_given_up:
            played.data = whole(learned.detach())
        elif learned.requires_grad:
            played.data.copy_(whole(learned.detach()))


def whole(tensor: Tensor) -> Tensor:
    """Gathers a tensor of which each process has a piece. Called by all of them together.

    Args:
        tensor: The tensor.

    Returns:
        All of it; the tensor itself, where it is not cut.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    with processes.together():
        full: Tensor = tensor.full_tensor()
    return full


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """Cuts a tensor as another one is cut.

    Args:
        tensor: All of it, the same in every process.
        other: The other one. Where its shape differs (the optimiser also counts steps), nothing is cut.

    Returns:
        This process's piece; the tensor itself, where nothing is cut.
    """
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def is_sharded(parameters: Iterable[Tensor]) -> bool:
    """Tells if parameters are cut over the processes.

    Args:
        parameters: Of a policy, or of its optimiser.

    Returns:
        True if `fully_shard` has been applied to the policy.
    """
    return any(isinstance(parameter, DTensor) for parameter in parameters)


def layers(policy: Policy, plan: Sharding) -> list[nn.Module]:
    """Finds the modules that are gathered by themselves.

    Args:
        policy: The policy.
        plan: The way to cut it.

    Returns:
        The modules, inner ones before those around them.

    Raises:
        ValueError: If the policy has no module of a class that the plan names.
    """
    modules = [module for module in policy.modules() if module is not policy][::-1]
    if plan.least is not None:
        least = plan.least
        return [module for module in modules if sum(weights.numel() for weights in module.parameters()) > least]
    names: Any = getattr(policy.model, "_no_split_modules", None) or () if plan.layers is None else plan.layers
    named = [module for module in modules if type(module).__name__ in names]
    if plan.layers and (missing := set(plan.layers) - {type(module).__name__ for module in named}):
        raise ValueError(
            f"Expected fsdp_transformer_layer_cls_to_wrap to name modules of {type(policy.model).__name__}, got "
            f"{sorted(missing)}; its layers are {getattr(policy.model, '_no_split_modules', None)}"
        )
    return named
