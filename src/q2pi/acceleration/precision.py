"""Whether bf16 pays here: measured once on each machine, since instructions for it do not make it fast.

    faster_precision("nature", device) -> bf16 or fp32

Processors with tile instructions (AMX) compute these networks in half the time; on some that have bf16 dot products
alone, the conversions around each layer cost more than they save, on others they do not. What was measured is kept in
the user's cache (`$XDG_CACHE_HOME/q2pi/precision.json`), so that a run, a sweep or a study that is started again
decides as it did.
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

from q2pi.networks.initialisation import seeded
from q2pi.networks.torsos import Network
from q2pi.networks.value import QNetwork

Precision = Literal["fp32", "bf16"]
ROUNDS, BATCH, OBSERVATION, ACTIONS = 7, 32, (4, 84, 84), 6
PAYS = 0.9
"""bf16 is taken where it needs at most this share of fp32's time."""


def faster_precision(network: Network, device: torch.device) -> Precision:
    """Return the faster precision for a network of images; on CUDA the instructions decide, without a measurement."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    processor = _processor()
    if "bf16" not in processor:
        return "fp32"
    key, known = f"{network}, torch {torch.__version__}, {processor}", _known()
    if known.get(key) not in ("fp32", "bf16"):
        known[key] = "bf16" if share(network) <= PAYS else "fp32"
        _keep(known)
    found: Precision = known[key]
    return found


def share(network: Network) -> float:
    """Return the time of a gradient in bf16 as a share of that in fp32, on one thread: the median of some rounds."""
    threads = torch.get_num_threads()
    model = seeded(lambda: QNetwork(OBSERVATION, ACTIONS, (1,), network=network), 0, "measured")
    batch = torch.zeros(BATCH, *OBSERVATION, dtype=torch.uint8)
    torch.set_num_threads(1)
    try:
        rounds = [(_seconds(model, batch, "bf16"), _seconds(model, batch, "fp32")) for _ in range(1 + ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    return median(half / full for half, full in rounds[1:])


def _seconds(model: QNetwork, batch: torch.Tensor, precision: Precision) -> float:
    begin = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = model(batch).square().mean()
    model.zero_grad()
    loss.backward()
    return time.perf_counter() - begin


def _processor() -> str:
    """Return the processor's name and what it can do with bf16, in torch's words; torch 2.11 does not tell all."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    able = sorted(name for name, has in capabilities.items() if "bf16" in name and has)
    return " ".join([str(capabilities.get("cpu_name", "")), *able])


def _file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "q2pi" / "precision.json"


def _known() -> dict[str, Any]:
    try:
        known = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _keep(known: dict[str, Any]) -> None:
    """Write what is known; where nothing can be written, the next process measures again."""
    file = _file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(known, indent=1) + "\n")
        fresh.replace(file)
    except OSError:
        pass


class Bf16Copy:
    """A network that is only read: in bf16 its layers' weights are rounded once, and not by autocast in every forward.

    What `network` gives under autocast is the same to the bit; `refresh` follows the original when that has moved.
    """

    def __init__(self, original: nn.Module, precision: str) -> None:
        self.original = self.network = original
        if precision == "bf16":
            self.network = copy.deepcopy(original).requires_grad_(False)
            for layer in self.network.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    layer.to(torch.bfloat16)

    def refresh(self) -> None:
        """Round the original's weights as they are now, in place: a captured graph sees it."""
        if self.network is self.original:
            return
        with torch.no_grad():
            for rounded, exact in zip(self.network.parameters(), self.original.parameters(), strict=True):
                rounded.copy_(exact)
