"""A pass for torch.compile that fuses [add,] RMSNorm and SiLU · mul with the quantization after them.

    import halfbyte.compile
    model = torch.compile(model, options=halfbyte.compile.options())
    ...
    print(halfbyte.compile.summary())

It replaces, in the graph that inductor has made ready (post-grad), a torch.ops.halfbyte.quantize (or
vLLM's scaled_fp4_quant) and what computes its input:

    [residual add,] RMSNorm   torch.ops.halfbyte.rmsnorm, or plain PyTorch: float(), pow(2).mean(-1),
                              rsqrt(mean + eps), multiply by x and by the weight, cast; the cast before
                              the weight (transformers' Llama, Qwen3) or after it (gpt-oss,
                              F.rms_norm), Gemma's 1 + weight
    SiLU · mul                torch.ops.halfbyte.silu_mul, or silu(gate) * up, gate and up the halves of
                              one tensor, or two matrix products of which nothing else is read

NVFP4, MXFP4 and FP8; fp32, fp16, bf16; any number of dimensions. With operators of halfbyte the bits
are the same, fused or not. With plain PyTorch code the sum's order and rsqrt are torch's before and
halfbyte's after: y within 1 ulp of its type, at least 99.9% of the codes equal.

A value in between that something else uses is kept: the normalised tensor becomes an output of the
fused operator, the sum of the residual add its updated residual. The operand of the add whose memory
the sum takes is one that nothing reads afterwards; where there is none, the add stays by itself. So
no copy is added. What does not fit is left alone: a weight of another type than the arithmetic
needs, a SiLU whose product is used elsewhere, scale_rule="te".

vLLM: compilation_config.inductor_compile_config["post_grad_custom_post_pass"] =
halfbyte.compile.vllm_pass().

Fusions are logged by the logger "halfbyte.compile" (TORCH_LOGS=+halfbyte.compile shows them) and
returned by summary(). A graph that comes from inductor's cache is not compiled, so not in it.
"""

from __future__ import annotations

from typing import Any

from halfbyte.compile._pass import Fusion, FusionPass

__all__ = ["Fusion", "FusionPass", "fusion_pass", "options", "summary", "vllm_pass"]

fusion_pass = FusionPass()


def options(**more: Any) -> dict[str, Any]:
    """`options` for torch.compile: the pass, and any other option of inductor."""
    return {"post_grad_custom_post_pass": fusion_pass, **more}


def summary(clear: bool = False) -> list[Fusion]:
    """What the pass has fused in this process since the last summary(clear=True)."""
    fused = list(fusion_pass.fusions)
    if clear:
        fusion_pass.fusions.clear()
    return fused


def vllm_pass() -> FusionPass:
    """The pass as vLLM wants it, an InductorPass of vLLM's. ImportError without vLLM."""
    from vllm.compilation.inductor_pass import InductorPass

    class VllmFusionPass(FusionPass, InductorPass):
        """FusionPass first: its __call__ and uuid."""

        def is_applicable(self, *args: Any, **kwargs: Any) -> bool:
            return True

    return VllmFusionPass()
