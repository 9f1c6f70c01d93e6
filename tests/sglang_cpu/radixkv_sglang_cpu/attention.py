"""Makes `--attention-backend torch_native` work for MLA, on any CPU."""

from __future__ import annotations

from typing import Any


def install() -> None:
    from sglang.srt.models.deepseek_common.attention_backend_handler import (
        AttentionBackendRegistry,
    )
    from sglang.srt.models.deepseek_common.attention_forward_methods import AttnForwardMethod
    from sglang.srt.utils import common

    def absorbed(_attention: Any, _forward_batch: Any) -> Any:
        return AttnForwardMethod.MLA

    # Without this SGLang expands the latent for a prefill without prefix, which torch_native's
    # kernel does not take. The absorbed form attends to the latent itself, in both phases.
    AttentionBackendRegistry.register("torch_native", absorbed)
    # On a CPU with AMX, SGLang repacks weights for kernels of sgl_kernel, which is a stand-in here.
    common.is_amx_tile_supported = False
