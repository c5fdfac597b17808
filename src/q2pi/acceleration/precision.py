"""Whether bf16 is faster than fp32 on this machine: measured once, since bf16 instructions do not guarantee it.

    faster_precision("nature", device, threads) -> bf16 or fp32

Processors with tile instructions (AMX) need half the time for these networks. On processors with bf16 dot products
only, the conversions around each layer may cost more than they save. The result is stored in the user's cache
(`$XDG_CACHE_HOME/q2pi/precision.json`), so that a run, a sweep or a study that is started again makes the same choice.
"""

import copy
import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from q2pi.networks.initialisation import seeded
from q2pi.networks.options import Network
from q2pi.networks.output import OutputLayer
from q2pi.networks.value import QNetwork
from q2pi.parallel.portable import replace

Precision = Literal["fp32", "bf16"]
ROUNDS, BATCH, OBSERVATION, ACTIONS = 7, 32, (4, 84, 84), 6
MAX_TIME_RATIO = 0.9
"""bf16 is used if it needs at most this share of fp32's time."""


def faster_precision(network: Network, device: torch.device, threads: int) -> Precision:
    """Return the faster precision of an image network on a number of CPU threads.

    It is not measured on CUDA: bf16 if the device supports it.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    processor = _processor()
    if "bf16" not in processor:
        return "fp32"
    key, cache = f"{network}, threads {threads}, torch {torch.__version__}, {processor}", _read_cache()
    if cache.get(key) not in ("fp32", "bf16"):
        cache[key] = "bf16" if time_ratio(network, threads) <= MAX_TIME_RATIO else "fp32"
        _write_cache(cache)
    precision: Precision = cache[key]
    return precision


def time_ratio(network: Network, threads: int) -> float:
    """Return the time of a gradient in bf16 over the time in fp32 on `threads` threads, the median of ROUNDS rounds."""
    before = torch.get_num_threads()
    model = seeded(lambda: QNetwork(OBSERVATION, ACTIONS, (1,), network=network), 0, "measured")
    batch = torch.zeros(BATCH, *OBSERVATION, dtype=torch.uint8)
    torch.set_num_threads(threads)
    try:
        rounds = [
            (gradient_seconds(model, batch, "bf16"), gradient_seconds(model, batch, "fp32")) for _ in range(1 + ROUNDS)
        ]
    finally:
        torch.set_num_threads(before)
    return median(bf16 / fp32 for bf16, fp32 in rounds[1:])


def gradient_seconds(model: QNetwork, batch: torch.Tensor, precision: Precision) -> float:
    """Return the seconds of a forward and a backward pass over a batch on the CPU."""
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = model(batch).square().mean()
    model.zero_grad()
    loss.backward()
    return time.perf_counter() - start


def _processor() -> str:
    """Return the processor's name and its bf16 capabilities in torch's names (torch 2.11 does not report all)."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    supported = sorted(name for name, has in capabilities.items() if "bf16" in name and has)
    return " ".join([str(capabilities.get("cpu_name", "")), *supported])


def _cache_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "q2pi" / "precision.json"


def _read_cache() -> dict[str, Any]:
    try:
        cache = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cache if isinstance(cache, dict) else {}


def _write_cache(cache: dict[str, Any]) -> None:
    """Write the cache; if it cannot be written, the next process measures again."""
    file = _cache_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(cache, indent=1) + "\n", encoding="utf-8")
        replace(temporary, file)
    except OSError:
        pass


class Bf16Copy:
    """Inference-only copy whose weights are cast to bf16 once instead of in every forward pass.

    Under autocast the outputs of `network` equal those of the original bit for bit; output layers stay in fp32. Call
    `refresh` after each update of the original. With fp32 `network` is the original itself.
    """

    def __init__(self, original: nn.Module, precision: str) -> None:
        self.original = self.network = original
        if precision == "bf16":
            self.network = copy.deepcopy(original).requires_grad_(False)
            for layer in self.network.modules():
                # A normalised weight is computed in fp32, and autocast casts the result.
                if is_parametrized(layer) or isinstance(layer, OutputLayer):
                    continue
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    layer.to(torch.bfloat16)

    def refresh(self) -> None:
        """Cast the original's current weights, in place: a captured graph reads this memory."""
        if self.network is self.original:
            return
        with torch.no_grad():
            for rounded, exact in zip(self.network.parameters(), self.original.parameters(), strict=True):
                rounded.copy_(exact)
