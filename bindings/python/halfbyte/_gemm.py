"""gemm, prepared weights, and Linear."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from halfbyte import _functions
from halfbyte._library import call
from halfbyte._quantized import QuantizedTensor, named


class PreparedWeights(NamedTuple):
    """Weights [rows, columns] in the order in which the kernels read them (docs/formats.md)."""

    data: Tensor  # uint8, one dimension
    rows: int
    columns: int
    format: str = "nvfp4"
    global_scale: Tensor | None = None  # encode; at most one of the two
    decode_scale: Tensor | None = None


def prepare_weights(weights: QuantizedTensor) -> PreparedWeights:
    """weights [N, K], nvfp4 or mxfp4, for gemm, which reads them fastest so. CUDA wants it."""
    data = call(
        torch.ops.halfbyte.prepare_weights.default,
        weights.codes,
        weights.scales,
        weights.format,
        weights.layout,
    )
    rows, columns = weights.shape
    encode, decode = _scales(weights)
    return PreparedWeights(data, rows, columns, weights.format, encode, decode)


def unprepare_weights(weights: PreparedWeights) -> QuantizedTensor:
    """What prepare_weights was given, in the linear layout; the sign of a negative block scale is in
    its block's codes."""
    codes, scales = call(
        torch.ops.halfbyte.unprepare_weights.default,
        weights.data,
        weights.rows,
        weights.columns,
        weights.format,
    )
    return QuantizedTensor(
        codes,
        scales,
        global_scale=weights.global_scale,
        decode_scale=weights.decode_scale,
        format=weights.format,
    )


def _scales(packed: QuantizedTensor | PreparedWeights) -> tuple[Tensor | None, Tensor | None]:
    """(encode, decode), at most one of them."""
    decode = getattr(packed, "row_scale", None)
    if decode is None:
        decode = packed.decode_scale
    return (packed.global_scale if decode is None else None), decode


def gemm(
    a: Tensor | QuantizedTensor,
    b: QuantizedTensor | PreparedWeights,
    *,
    bias: Tensor | None = None,
    dtype: torch.dtype | None = None,
    method: str = "auto",
    groups: _functions.RowGroups | None = None,
) -> Tensor:
    """a @ b.T + bias with FP4 weights b [N, K]: [.., N].

    a       bfloat16 or float16 [.., K], or quantized to b's format, with one scale or one a row
    b       nvfp4 or mxfp4 with one scale; with groups [E, N, K], plain, and scales one after another
    bias    [N], the type of the result or float32
    dtype   of the result: bfloat16, float16 or float32; a's type, for a quantized one bfloat16
    method  "auto"; "exact": the same bits on every device and for every number of rows, which is
            what the CPU always gives; "tensor_core", "dequantize", "fp8" (operands rounded to
            float8_e4m3fn), "block_scaled" (sm_100 on): CUDA's (docs/numerics.md)
    groups  rows of a sorted by expert: see RowGroups
    """
    return call(
        torch.ops.halfbyte.gemm.default, *_product("gemm", a, b, bias, method, groups), dtype
    )


def _product(
    operator: str,
    a: Tensor | QuantizedTensor,
    b: QuantizedTensor | PreparedWeights,
    bias: Tensor | None,
    method: str,
    groups: _functions.RowGroups | None,
) -> tuple:
    """The arguments of a product, in the schemas' order."""
    packed = isinstance(a, QuantizedTensor)
    prepared = isinstance(b, PreparedWeights)
    if packed and a.format != b.format:
        raise ValueError(f"{operator}: a: expected {b.format}, the format of b, got {a.format}")
    a_encode, a_decode = _scales(a) if packed else (None, None)
    b_encode, b_decode = _scales(b)
    return (
        a.codes if packed else a,
        b.data if prepared else b.codes,
        None if prepared else b.scales,
        a.scales if packed else None,
        a_encode,
        a_decode,
        b_encode,
        b_decode,
        bias,
        b.format,
        a.layout if packed else "linear",
        "linear" if prepared else b.layout,
        method,
        b.rows if prepared else None,
        None if groups is None else groups.row_offsets,
        groups.scale_row_offsets if groups is not None and packed else None,
    )


def gemm_silu_mul_quantize(
    a: Tensor | QuantizedTensor,
    b: QuantizedTensor | PreparedWeights,
    global_scale: Tensor | None = None,
    decode_scale: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    dtype: torch.dtype | None = None,
    method: str = "auto",
    groups: _functions.RowGroups | None = None,
    interleave: int = 0,
    clamp: float | None = None,
    alpha: float = 1.0,
    up_bias: float = 0.0,
    rounding: str = "float32",
    format: str = "nvfp4",
    layout: str = "linear",
    second_layout: str | None = None,
    scale: str = "tensor",
    mx_rule: str = "round_up",
    out_scale_row_offsets: Tensor | None = None,
    scale_rows: int | None = None,
) -> QuantizedTensor:
    """gemm, silu_mul and quantize in one call, for the gate-up product of an MLP: [.., I], where b
    has 2I rows, those of gate and of up. The bits are those of gemm followed by silu_mul_quantize.

    a, b, bias, dtype, method, groups   as for gemm; dtype is that of the product between, which is
                                        rounded to it
    interleave and the other options    as for silu_mul_quantize: interleave is how the rows of b lie
    out_scale_row_offsets, scale_rows   with groups: where the scales of each lie in the result's, and
                                        their number of rows (the last two of a RowGroups); without
                                        them row m's scales are row m
    """
    out = call(
        torch.ops.halfbyte.gemm_silu_mul_quantize.default,
        *_product("gemm_silu_mul_quantize", a, b, bias, method, groups),
        global_scale,
        decode_scale,
        interleave,
        clamp,
        alpha,
        up_bias,
        rounding,
        format,
        layout,
        second_layout,
        scale,
        "kernel",
        mx_rule,
        out_scale_row_offsets,
        dtype,
        scale_rows,
    )
    given = (global_scale, decode_scale)
    packed = named(out, out[0], given, (format, layout, second_layout, scale))
    between = dtype or (torch.bfloat16 if isinstance(a, QuantizedTensor) else a.dtype)
    return packed._replace(dtype=between)


class Linear(torch.nn.Module):
    """torch.nn.Linear with FP4 weights, for inference.

    weights      [N, K], nvfp4 or mxfp4
    activations  how the input is quantized: None: not at all (W4A16); "row": each row by itself;
                 "tensor": by input_scale, the encode scale, or for mxfp4 without one
    prepare      False keeps the weights as they are

    Linear.from_modelopt and from_compressed_tensors take a layer's tensors as files have them.
    """

    def __init__(
        self,
        weights: QuantizedTensor,
        bias: Tensor | None = None,
        *,
        activations: str | None = None,
        input_scale: Tensor | None = None,
        prepare: bool = True,
        method: str = "auto",
    ) -> None:
        super().__init__()
        _check_activations(weights, activations, input_scale)
        self.out_features, self.in_features = weights.shape
        self.format, self.layout = weights.format, weights.layout
        self.activations, self.method = activations, method
        encode, decode = _scales(weights)
        self.prepared = prepare
        if prepare:
            self.register_buffer("weight", prepare_weights(weights).data)
            self.register_buffer("weight_scale", None)
        else:
            self.register_buffer("weight", weights.codes)
            self.register_buffer("weight_scale", weights.scales)
        self.register_buffer("weight_encode_scale", encode)
        self.register_buffer("weight_decode_scale", decode)
        self.register_buffer("input_scale", input_scale)
        self.register_buffer("bias", bias)

    @property
    def weights(self) -> QuantizedTensor | PreparedWeights:
        scales = (self.weight_encode_scale, self.weight_decode_scale)
        if self.prepared:
            shape = (self.out_features, self.in_features)
            return PreparedWeights(self.weight, *shape, self.format, *scales)
        return QuantizedTensor(
            self.weight, self.weight_scale, None, None, *scales, None, self.format, self.layout
        )

    def quantize_input(self, x: Tensor) -> Tensor | QuantizedTensor:
        """x as forward multiplies it."""
        if self.activations is None:
            return x
        scale = "row" if self.activations == "row" and self.format == "nvfp4" else "tensor"
        return _functions.quantize(x, self.input_scale, format=self.format, scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        return gemm(
            self.quantize_input(x), self.weights, bias=self.bias, dtype=x.dtype, method=self.method
        )

    def extra_repr(self) -> str:
        inputs = {None: "inputs as they are"}.get(self.activations, f"inputs {self.activations}")
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, {self.format}, "
            f"{inputs}, bias={self.bias is not None}"
        )

    @classmethod
    def from_modelopt(
        cls,
        weight: Tensor,
        weight_scale: Tensor,
        weight_scale_2: Tensor,
        input_scale: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        activations: str | None = "auto",
        **options: object,
    ) -> Linear:
        """From ModelOpt's tensors of an NVFP4 layer: weight_scale_2 and input_scale are decode
        scales. activations "auto": "tensor" where there is an input_scale, else None."""
        weights = QuantizedTensor(
            weight.view(torch.uint8),
            weight_scale.view(torch.uint8),
            decode_scale=weight_scale_2.float().reshape(1),
        )
        encode = None if input_scale is None else 1.0 / input_scale.float().reshape(1)
        return cls._with_activations(weights, bias, encode, activations, options)

    @classmethod
    def from_compressed_tensors(
        cls,
        weight_packed: Tensor,
        weight_scale: Tensor,
        weight_global_scale: Tensor | None = None,
        input_global_scale: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        activations: str | None = "auto",
        **options: object,
    ) -> Linear:
        """From compressed-tensors' tensors: NVFP4, whose global scales are encode scales, or MXFP4
        (weight_scale [N, K/32]), which has none."""
        blocks = weight_scale.shape[-1]
        format = "nvfp4" if 8 * blocks == weight_packed.shape[-1] else "mxfp4"
        weights = QuantizedTensor(
            weight_packed.view(torch.uint8),
            weight_scale.view(torch.uint8),
            global_scale=None
            if weight_global_scale is None
            else weight_global_scale.float().reshape(1),
            format=format,
        )
        encode = None if input_global_scale is None else input_global_scale.float().reshape(1)
        return cls._with_activations(weights, bias, encode, activations, options)

    @classmethod
    def _with_activations(
        cls,
        weights: QuantizedTensor,
        bias: Tensor | None,
        encode: Tensor | None,
        activations: str | None,
        options: dict,
    ) -> Linear:
        if activations == "auto":
            activations = None if encode is None else "tensor"
        if activations != "tensor":
            encode = None
        return cls(weights, bias, activations=activations, input_scale=encode, **options)


def _check_activations(
    weights: QuantizedTensor, activations: str | None, input_scale: Tensor | None
) -> None:
    if weights.codes.dim() != 2 or weights.format not in ("nvfp4", "mxfp4"):
        got = f"{weights.format} with {weights.codes.dim()} dimensions"
        raise ValueError(f"Linear: weights: expected nvfp4 or mxfp4 [N, K], got {got}")
    if activations not in (None, "row", "tensor"):
        raise ValueError(
            f"Linear: activations: expected None, 'row' or 'tensor', got {activations!r}"
        )
    wanted = activations == "tensor" and weights.format == "nvfp4"
    if wanted != (input_scale is not None):
        expected = "a tensor for activations='tensor' with nvfp4, else None"
        got = "None" if input_scale is None else "a tensor"
        raise ValueError(f"Linear: input_scale: expected {expected}, got {got}")
