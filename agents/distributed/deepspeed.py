"""A policy whose optimiser is cut over the processes by DeepSpeed: ZeRO, stage 1.

    accelerate launch --config_file docs/accelerate/deepspeed.yaml -m agents train ...

As under FSDP (`agents.distributed.fsdp`) there is the learner, a second policy, which DeepSpeed's engine owns; the
policy that plays gets its weights after each update. Weights and gradients are whole in every process; a process keeps
its n-th part of the optimiser's state. Stage 2 stops at a parameter whose gradient autograd leaves undefined, as our
losses do, and stage 3 wants a forward pass that is the module's own; ours goes around it (`Policy.loss`). FSDP does
what both do.

What differs from how DeepSpeed is used in pretraining: gradients are added up over the processes, not averaged, because
each takes its rows' share of one minibatch; and what is not finite, a loss as well, is skipped.

Source: Rajbhandari et al. (2020), ZeRO, arXiv:1910.02054.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from agents.distributed import fsdp, processes
from agents.policy.policy import Policy

_PLAIN = {
    "CONFIG_FILE": ("none", "deepspeed_config_file", "the lines of docs/accelerate/deepspeed.yaml"),
    "OFFLOAD_OPTIMIZER_DEVICE": ("none", "offload_optimizer_device", "more processes, or --lora"),
    "OFFLOAD_PARAM_DEVICE": ("none", "offload_param_device", "more processes, or --lora"),
}


def wanted() -> bool:
    """Reads what `accelerate launch` has found in its config file.

    Returns:
        True if it asks for DeepSpeed, and there are several processes.

    Raises:
        ValueError: If the config asks for something that is not supported; says what to write in its place.
    """
    if processes.count() == 1 or not processes.flag("ACCELERATE_USE_DEEPSPEED"):
        return False
    for name, (plain, shown, instead) in _PLAIN.items():
        if (got := os.environ.get(f"ACCELERATE_DEEPSPEED_{name}", plain).lower()) != plain:
            raise ValueError(f"Expected {shown}: {plain} in Accelerate's deepspeed_config, got {got!r}: use {instead}")
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage != "1":
        raise ValueError(
            f"Expected zero_stage: 1 in Accelerate's deepspeed_config, got {stage}. FSDP cuts the same things: "
            "fsdp_reshard_after_forward: true is ZeRO stage 3, false stage 2"
        )
    return True


class ZeroLearner:
    """The learner of `agents.distributed.learner` under DeepSpeed."""

    is_cut = True

    def __init__(self, policy: Policy, make_optimizer: Callable[[Policy], torch.optim.Optimizer]) -> None:
        """Hands a copy of a policy to DeepSpeed. Called by all processes together.

        Args:
            policy: The policy that plays.
            make_optimizer: Makes the optimiser of the copy.
        """
        self._playing = policy
        self.policy = copy.deepcopy(policy)
        self.optimizer: torch.optim.Optimizer = Zero(self.policy, make_optimizer(self.policy))

    def begin_update(self) -> None:
        """Does nothing: weights are whole in every process, and stay."""

    def publish(self) -> None:
        """Gives the policy that plays the learner's weights. Called by all processes together."""
        fsdp.fill(self._playing, self.policy)


class Zero(torch.optim.Optimizer):
    """An optimiser of whose state this process keeps a part. All processes call its methods together."""

    def __init__(self, learner: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Hands a module and its optimiser to DeepSpeed.

        Args:
            learner: The module, the same in every process. Nothing else may change its weights.
            optimizer: A fresh one over everything of it that is trained, in one group.

        Raises:
            ImportError: If DeepSpeed is not installed.
        """
        device = next(learner.parameters()).device
        os.environ.setdefault("DS_ACCELERATOR", device.type)
        os.environ.setdefault("LOCAL_RANK", str(processes.rank()))
        try:
            deepspeed: Any = import_module("deepspeed")
        except ImportError as error:
            raise ImportError(
                'distributed_type DEEPSPEED needs DeepSpeed: pip install "textenvs[deepspeed]"'
            ) from error
        self._trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._fragments: Any = import_module("deepspeed.utils")
        self._engine: Any = deepspeed.initialize(
            model=learner,
            optimizer=optimizer,
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": 1,  # which is read for its own reports alone
                "zero_optimization": {"stage": 1},
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "communication_data_type": "fp32",
                "managed_gradient_accumulation": False,  # `step` says when a minibatch is complete
            },
        )[0]
        # DeepSpeed steps with these groups, which hold the step size and what `agents.training.optimization` counts.
        self.param_groups, self.state, self.defaults = optimizer.param_groups, optimizer.state, optimizer.defaults

    def backward(self, loss: Tensor) -> None:
        """Adds a loss's gradient. A loss that is not finite makes all gradients NaN, which `clip_and_step` skips.

        Args:
            loss: (), with a graph.
        """
        # DeepSpeed averages over the processes, and we add up. 0 * loss is NaN where the loss is not finite.
        self._engine.backward(loss * (processes.count() + 0 * loss.detach()))

    def clip_and_step(self, max_norm: float) -> Tensor:
        """Clips the gradient that all processes have together, and takes a step, unless it is not finite.

        Args:
            max_norm: The largest norm.

        Returns:
            () float32, the norm before clipping; infinite where the step was skipped.
        """
        self._engine.optimizer.clip_grad = max_norm
        with processes.among_others():
            self._engine.step()
        return torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients."""
        self._engine.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state that a plain optimiser over the whole parameters would have.

        Returns:
            As in torch.
        """
        state: dict[int, dict[str, Any]] = {}
        for part in self.state.values():  # one flat tensor: the parts of all parameters that are here
            for name, value in part.items():
                for index, parameter in enumerate(self._trained):
                    gathered = value
                    if isinstance(value, Tensor) and value.ndim:
                        with processes.together():
                            gathered = self._fragments.safe_get_full_optimizer_state(parameter, name)
                    state.setdefault(index, {})[name] = gathered.clone() if isinstance(gathered, Tensor) else gathered
        groups = [{**group, "params": list(range(len(self._trained)))} for group in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes on a state that `state_dict` returned, or a plain optimiser's over the same parameters.

        Args:
            state_dict: As in torch.

        Raises:
            ValueError: If parameters have made different numbers of steps, of which DeepSpeed counts one.
        """
        entries = state_dict["state"]
        group = self.param_groups[0]
        group.update({key: value for key, value in state_dict["param_groups"][0].items() if key != "params"})
        if not entries:
            return
        steps = {float(entries[index]["step"]) for index in entries if "step" in entries[index]}
        if len(steps) > 1 or len(entries) != len(self._trained):
            raise ValueError(
                f"Expected a checkpoint in which all {len(self._trained)} trained tensors have made the same number of "
                f"steps, got {len(entries)} of them with {sorted(steps)}: go on with distributed_type MULTI_GPU or FSDP"
            )
        (flat,) = group["params"]
        for name, value in entries[0].items():
            is_cut = isinstance(value, Tensor) and value.ndim
            self.state[flat][name] = torch.zeros_like(flat) if is_cut else value
        self._engine.optimizer._lazy_init_hp_params_optimizer_state()
        for index, parameter in enumerate(self._trained):
            for name, value in entries[index].items():
                if isinstance(value, Tensor) and value.ndim:
                    self._fragments.safe_set_full_optimizer_state(parameter, value.to(parameter.device), name)
