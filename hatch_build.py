"""A wheel with compiled kernels is one for this kind of machine; any other is for all."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PrebuiltKernels(BuildHookInterface):  # type: ignore[type-arg]
    """Takes ``gpumlp/prebuilt`` into the wheel where ``gpumlp.backend.host.prebuild`` has made it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if (Path(self.root) / "gpumlp" / "prebuilt").is_dir():
            build_data["artifacts"].append("/gpumlp/prebuilt")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
