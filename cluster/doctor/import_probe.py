"""Program that imports torch and DeepSpeed and prints a line of JSON for each. See ``libraries``."""

from __future__ import annotations

import json
import os
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/version")


def main() -> None:
    """Import both libraries, and print what was found or has failed."""
    try:
        import torch
    except (ImportError, OSError, RuntimeError) as error:
        print(json.dumps({"name": "torch", "found": "", "failed": f"cannot be imported: {error}"}))
        return
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    devices = ", ".join(gpus) or "no GPU: runs use the CPU"
    found = f"{torch.__version__}, {cuda}; {devices}"
    unused = "" if gpus or not DRIVER.exists() else f"{found}, though the machine has an NVIDIA driver"
    print(json.dumps({"name": "torch", "found": found, "failed": unused}), flush=True)
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    try:
        import deepspeed
        from deepspeed.git_version_info import installed_ops
    except Exception as error:  # noqa: BLE001 - its import runs many checks
        print(json.dumps({"name": "DeepSpeed", "found": "", "failed": f"cannot be imported: {error}"}))
        return
    built = ", ".join(sorted(name for name, is_built in installed_ops.items() if is_built)) or "none"
    found = f"{deepspeed.__version__}; prebuilt operators: {built} (runs need none)"
    print(json.dumps({"name": "DeepSpeed", "found": found}))


main()
