"""Time, memory and accuracy of the operation on an accelerator, compared with the definition and PyTorch's SDPA.

    python benchmarks/device.py --out bench-out/device.json --markdown bench-out/device.md

Times are medians of device events after a warm-up, forward + backward; memory is the peak above the inputs. The error
is the largest norm ratio |got - right| / |right| of output and gradients, against the definition in float64.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_nonlocal import functional

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
POSITIONS = (784, 3136, 12544, 50176)
WIDTHS = (64, 256, 512)
LARGEST_MAP = 16 * 2**30  # bytes of one N x N map that the definition may build
CHECKED = 3136  # positions up to which the float64 definition is compared with


def main() -> None:
    """Measure all cells and write them after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench-out/device.json"))
    parser.add_argument("--markdown", type=Path, default=None)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    device = torch.accelerator.current_accelerator()
    if device is None:
        parser.error("no accelerator: this script measures one; `nonlocal bench` measures the CPU")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for positions in POSITIONS:
        for width in WIDTHS:
            for name, dtype in DTYPES.items():
                inputs = _inputs(positions, width, dtype, device)
                for form, algorithm, operation in _contenders(positions):
                    row = {"form": form, "N": positions, "D": width, "dtype": name, "algorithm": algorithm}
                    rows.append(row | _measured(form, operation, inputs, options.repeats))
                    print(json.dumps(rows[-1]), flush=True)
                options.out.write_text(json.dumps(rows, indent=1) + "\n")
    if options.markdown is not None:
        options.markdown.write_text(_markdown(rows, torch.cuda.get_device_name(device)))


def _inputs(positions: int, width: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    shape = (1, positions, width)
    made = [torch.randn(shape, generator=generator, device=device).to(dtype) for _ in range(3)]
    return [one.requires_grad_() for one in made]


def _contenders(positions: int) -> list[tuple[str, str, Operation]]:
    """Form, algorithm, and the operation on (theta, phi, g)."""
    forms: dict[str, Callable[[Any], Operation]] = {
        "embedded gaussian": lambda algorithm: (
            lambda theta, phi, g: functional.embedded_gaussian(
                theta, phi, g, scale=theta.shape[-1] ** -0.5, algorithm=algorithm
            )
        ),
        "dot product": lambda algorithm: (
            lambda theta, phi, g: functional.dot_product(theta, phi, g, algorithm=algorithm)
        ),
        "concatenation": lambda algorithm: (
            lambda theta, phi, g: functional.concatenation(theta[..., 0], phi[..., 0], g, algorithm=algorithm)
        ),
    }
    found = [("embedded gaussian", "SDPA", _sdpa)]
    found += [("embedded gaussian", one, forms["embedded gaussian"](one)) for one in ("auto", "tiled", "fused")]
    found += [(form, "auto", forms[form]("auto")) for form in ("dot product", "concatenation")]
    if positions**2 * 4 <= LARGEST_MAP:
        found += [(form, "dense", operation("dense")) for form, operation in forms.items()]
    return found


def _sdpa(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(theta[:, None], phi[:, None], g[:, None])[:, 0]


def _step(operation: Operation, inputs: list[Tensor]) -> list[Tensor]:
    """Output and gradients."""
    output = operation(*inputs)
    weight = torch.linspace(-1, 1, output.numel(), device=output.device).reshape(output.shape).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, inputs, weight)]


def _measured(form: str, operation: Operation, inputs: list[Tensor], repeats: int) -> dict[str, Any]:
    try:
        torch.cuda.empty_cache()
        _step(operation, inputs)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _step(operation, inputs)
        peak = torch.cuda.max_memory_allocated() - before
        times = []
        for _ in range(repeats):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            _step(operation, inputs)
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        error = _error(form, operation, inputs) if inputs[0].shape[1] <= CHECKED else None
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return {"failed": str(error).splitlines()[0][:120]}
    return {"ms": round(statistics.median(times), 4), "extra_mb": round(peak / 2**20, 1), "error": error}


def _error(form: str, operation: Operation, inputs: list[Tensor]) -> float:
    """Largest norm ratio |got - right| / |right| of output and gradients, against the definition in float64."""
    right_by = next(one for name, algorithm, one in _contenders(1) if (name, algorithm) == (form, "dense"))
    doubles = [one.detach().double().requires_grad_() for one in inputs]
    pairs = zip(_step(operation, inputs), _step(right_by, doubles), strict=True)
    return max(float((got.double() - right).norm() / right.norm().clamp_min(1e-300)) for got, right in pairs)


def _markdown(rows: list[dict[str, Any]], machine: str) -> str:
    lines = [
        f"{machine}, torch {torch.__version__}.",
        "",
        "| form | N | D | dtype | algorithm | ms | extra MB | error |",
    ]
    lines.append("|---|---:|---:|---|---|---:|---:|---:|")
    for row in rows:
        time = row.get("failed") or f"{row['ms']:.3f}"
        lines.append(
            f"| {row['form']} | {row['N']:,} | {row['D']} | {row['dtype']} | {row['algorithm']} | {time} | "
            f"{row.get('extra_mb', math.nan):,.1f} | {_error_text(row)} |"
        )
    return "\n".join(lines) + "\n"


def _error_text(row: dict[str, Any]) -> str:
    return "" if row.get("error") is None else f"{row['error']:.1e}"


if __name__ == "__main__":
    main()
