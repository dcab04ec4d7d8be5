"""bf16 working weights, fp32 master weights, Muon + AdamW, gradients averaged over processes.

On a CPU with bf16 instructions a bf16 product is about five times as fast as an fp32 one; two
processes of one thread each, joined by gloo, beat one process of two threads.
"""

import math
import os
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn


def join_processes() -> int:
    """Join the group that the entry point started; returns the rank. One thread per process."""
    torch.set_num_threads(1)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
        return dist.get_rank()
    return 0


class Clock:
    """Share of the time used, agreed on by all processes, and the learning rate that follows."""

    def __init__(self, minutes: float, peak: float, warmup: int = 100, floor: float = 0.03):
        self.seconds, self.peak, self.warmup, self.floor = minutes * 60, peak, warmup, floor
        self.started, self.step = time.time(), 0

    def tick(self) -> float:
        """Fraction of the time used, in [0, 1]; call once per step, on every process."""
        used = torch.tensor([(time.time() - self.started) / self.seconds])
        if dist.is_initialized():
            dist.broadcast(used, 0)
        self.step += 1
        return min(1.0, float(used))

    def rate(self, used: float) -> float:
        """Linear warm-up, then a cosine in wall time from the peak down to the floor."""
        cosine = (1 + math.cos(math.pi * used)) / 2
        return self.peak * min(1.0, self.step / self.warmup) * (
            self.floor + (1 - self.floor) * cosine
        )  # fmt: skip


class MasterWeights:
    """Optimises bf16 modules through fp32 copies.

    Matrices inside transformer layers are updated by Muon (twice the learning rate), everything
    else by AdamW. Parameters that do not require gradients when this is built stay as they are.
    """

    def __init__(self, modules: list[nn.Module], decay: float = 0.05, beta: float = 0.95):
        named = [
            (name, parameter)
            for module in modules
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        ]
        self.working = [parameter for _, parameter in named]
        self.master = [p.detach().float().clone().requires_grad_(True) for p in self.working]
        inside = [name.find("layers.") >= 0 and p.ndim == 2 for name, p in named]
        matrices = [m for m, chosen in zip(self.master, inside, strict=True) if chosen]
        others = [m for m, chosen in zip(self.master, inside, strict=True) if not chosen]
        groups = [
            {"params": [p for p in others if p.ndim >= 2], "weight_decay": decay},
            {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, beta), fused=True)
        self.muon = torch.optim.Muon(
            matrices,
            lr=0.0,
            momentum=0.95,
            weight_decay=decay,
            adjust_lr_fn="match_rms_adamw",
        )

    def step(self, rate: float, clip: float = 1.0) -> float:
        """One update from the working weights' gradients; returns the gradient norm."""
        flat = torch.cat([self._gradient(w) for w in self.working])
        if dist.is_initialized():
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
        parts = flat.split([m.numel() for m in self.master])
        for working, master, gradient in zip(self.working, self.master, parts, strict=True):
            master.grad, working.grad = gradient.view_as(master), None
        norm = torch.nn.utils.clip_grad_norm_(self.master, clip)
        for optimizer, factor in ((self.adamw, 1.0), (self.muon, 2.0)):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(self.working, self.master)
        return float(norm)

    @staticmethod
    def _gradient(working: nn.Parameter) -> Tensor:
        if working.grad is None:
            return torch.zeros(working.numel())
        return working.grad.float().flatten()
