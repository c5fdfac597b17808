"""Which layers of an update of DQN use the processor well: each layer's rate beside that of large square matrices.

    python benchmarks/layers.py

The Nature network, batch 32, channels-last, one thread, fp32 and bf16; each layer alone, without casts. The best of
several rounds counts. The last line of a precision is the whole update of plain DQN: what it does beside its layers are
casts, ReLUs, Adam and Python. Written: results/benchmarks/layers.json and layers.md.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from q2pi.runs.benchmark import MATRIX, base_config, update

RESULTS = Path(__file__).parent.parent / "results" / "benchmarks"
BATCH, ROUNDS, CALLS = 32, 15, 5
CONVOLUTIONS = {"conv 1": (4, 32, 8, 4, 84), "conv 2": (32, 64, 4, 2, 20), "conv 3": (64, 64, 3, 1, 9)}
"""Layer -> input and output channels, kernel, stride, side of the input."""
LINEAR = {"linear 1": (3_136, 512)}
"""Layer -> inputs and outputs."""


def best(task: Callable[[], Any]) -> float:
    """Return the least seconds of a call, mean of CALLS calls, over ROUNDS rounds."""
    task()
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS):
            task()
        rounds.append((time.perf_counter() - start) / CALLS)
    return min(rounds)


def layers(dtype: torch.dtype) -> dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]]:
    """Return layer -> (its function of input and weights, input, weights)."""
    made: dict[str, Any] = {}
    for name, (inputs, outputs, kernel, stride, side) in CONVOLUTIONS.items():
        tensors = [torch.randn(BATCH, inputs, side, side), torch.randn(outputs, inputs, kernel, kernel)]
        x, weight = (tensor.to(dtype).contiguous(memory_format=torch.channels_last) for tensor in tensors)
        made[name] = (lambda x, w, stride=stride: functional.conv2d(x, w, stride=stride)), x, weight
    for name, (inputs, outputs) in LINEAR.items():
        made[name] = functional.linear, torch.randn(BATCH, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    return made


def measure(precision: str) -> dict[str, Any]:
    """Return the GFLOP/s of each layer's forward and backward pass, of the matrices and of the whole update."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    rates: dict[str, Any] = {}
    for name, (function, x, weight) in layers(dtype).items():
        x.requires_grad_(name != "conv 1")  # pixels need no gradient
        weight.requires_grad_()
        output = function(x, weight)
        gflop = 2e-9 * output.numel() * weight[0].numel()
        trained = [tensor for tensor in (x, weight) if tensor.requires_grad]
        slope = torch.randn_like(output)
        with torch.no_grad():
            forward = best(lambda f=function, x=x, w=weight: f(x, w))
        backward = best(lambda o=output, t=trained, s=slope: torch.autograd.grad(o, t, s, retain_graph=True))
        rates[name] = {"forward": gflop / forward, "backward": len(trained) * gflop / backward}
    whole = update(base_config({"precision": precision, "device": "cpu", "threads": 1}, double=False), 60)
    square = torch.ones(MATRIX, MATRIX, dtype=dtype)
    matrix = 2e-9 * MATRIX**3 / best(lambda: square @ square)
    return {"matrix": matrix, "layers": rates, "update": whole["gflop_per_second"]}


def table(report: dict[str, Any]) -> str:
    """Return the shares of the matrix rate as a Markdown table."""
    lines = [
        "Share of the rate at which one thread multiplies large square matrices; `python benchmarks/layers.py`.",
        "",
        "| | fp32 forward | fp32 backward | bf16 forward | bf16 backward |",
        "|---|---|---|---|---|",
    ]
    for name in (*CONVOLUTIONS, *LINEAR):
        cells = [
            f"{100 * report[kind]['layers'][name][way] / report[kind]['matrix']:.0f} %"
            for kind in ("fp32", "bf16")
            for way in ("forward", "backward")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    whole = [f"{100 * report[kind]['update'] / report[kind]['matrix']:.0f} %" for kind in ("fp32", "bf16")]
    lines.append(f"| the whole update | {whole[0]} | | {whole[1]} | |")
    rates = [f"{report[kind]['matrix']:.0f}" for kind in ("fp32", "bf16")]
    lines += ["", f"GFLOP/s of the matrices: {rates[0]} in fp32, {rates[1]} in bf16."]
    return "\n".join(lines) + "\n"


def main() -> None:
    torch.set_num_threads(1)
    report = {kind: measure(kind) for kind in ("fp32", "bf16")}
    text = table(report)
    print(text)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "layers.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "layers.md").write_text(text)


if __name__ == "__main__":
    main()
