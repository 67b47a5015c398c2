/* halfbyte: fused FP4 kernels for transformer inference. The C ABI.
 *
 * Stable: argument structs start with struct_size (sizeof the struct; HALFBYTE_INIT sets it and
 * zeroes the rest), nest by pointer, and grow only at the end, where 0 means what callers had
 * before; enum values are fixed. Every function returns a halfbyte_status; when it is not
 * HALFBYTE_OK, halfbyte_error_message() says which argument, what was expected and what was given,
 * and nothing was written. docs/numerics.md defines every bit that comes out. Thread-safe.
 */
#ifndef HALFBYTE_H_
#define HALFBYTE_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HALFBYTE_EXPORT __attribute__((visibility("default")))

/* HALFBYTE_INIT(halfbyte_norm_args, norm); declares norm, zeroed, its struct_size set. */
#ifdef __cplusplus
#define HALFBYTE_INIT(type, name) \
  type name{};                    \
  name.struct_size = static_cast<uint32_t>(sizeof(type))
#else
#define HALFBYTE_INIT(type, name) type name = {.struct_size = (uint32_t)sizeof(type)}
#endif

typedef enum halfbyte_status {
  HALFBYTE_OK = 0,
  HALFBYTE_INVALID_ARGUMENT = 1,
  HALFBYTE_UNSUPPORTED = 2, /* well-formed, but this build or device cannot do it */
  HALFBYTE_DATA_ERROR = 3,
  HALFBYTE_IO_ERROR = 4,
  HALFBYTE_CUDA_ERROR = 5,
  HALFBYTE_INTERNAL_ERROR = 6
} halfbyte_status;

/* The message of this thread's last call that failed; "" if none did. Valid until the next call. */
HALFBYTE_EXPORT const char* halfbyte_error_message(void);

/* "0.1.0"; and the version of the numerics contract, which changes when any bit does. */
HALFBYTE_EXPORT const char* halfbyte_version(void);
HALFBYTE_EXPORT int halfbyte_numerics_version(void);
/* "80,90a,100f,120f": what CUDA kernels were compiled for; "" in a build without CUDA. */
HALFBYTE_EXPORT const char* halfbyte_cuda_architectures(void);
/* The CPU level in use: "reference", "v3", "v4" or "neon". */
HALFBYTE_EXPORT const char* halfbyte_cpu_level(void);

/* Tensors: the memory layout of DLPack's DLTensor, so a DLTensor* may be cast to halfbyte_tensor*.
 * Types: fp32 {2, 32, 1}, fp16 {2, 16, 1}, bf16 {4, 16, 1}, u8 {1, 8, 1}, i32 {0, 32, 1},
 * i64 {0, 64, 1}. Devices: 1 CPU, 2 CUDA. strides == NULL: contiguous. At most 8 dimensions. */
typedef struct halfbyte_dtype {
  uint8_t code; /* 0 signed, 1 unsigned, 2 float, 4 bfloat */
  uint8_t bits;
  uint16_t lanes; /* 1 */
} halfbyte_dtype;

typedef struct halfbyte_device {
  int32_t type;
  int32_t index;
} halfbyte_device;

typedef struct halfbyte_tensor {
  void* data;
  halfbyte_device device;
  int32_t ndim;
  halfbyte_dtype dtype;
  const int64_t* shape;
  const int64_t* strides; /* in elements */
  uint64_t byte_offset;
} halfbyte_tensor;

typedef enum halfbyte_format {
  HALFBYTE_NVFP4 = 0,
  HALFBYTE_MXFP4 = 1,
  HALFBYTE_FP8 = 2
} halfbyte_format;
typedef enum halfbyte_scale_layout {
  HALFBYTE_LAYOUT_LINEAR = 0,
  HALFBYTE_LAYOUT_128X4 = 1,
  HALFBYTE_LAYOUT_8X4 = 2
} halfbyte_scale_layout;
typedef enum halfbyte_scale_mode {
  HALFBYTE_SCALE_TENSOR = 0,
  HALFBYTE_SCALE_ROW = 1,
  HALFBYTE_SCALE_COMPUTED = 2
} halfbyte_scale_mode;
typedef enum halfbyte_scale_rule {
  HALFBYTE_SCALE_RULE_KERNEL = 0,
  HALFBYTE_SCALE_RULE_TE = 1
} halfbyte_scale_rule;
typedef enum halfbyte_mx_rule {
  HALFBYTE_MX_ROUND_UP = 0,
  HALFBYTE_MX_OCP_FLOOR = 1
} halfbyte_mx_rule;
typedef enum halfbyte_rounding {
  HALFBYTE_ROUNDING_FLOAT32 = 0,
  HALFBYTE_ROUNDING_HUGGINGFACE = 1
} halfbyte_rounding;
typedef enum halfbyte_backend {
  HALFBYTE_BACKEND_AUTO = 0,
  HALFBYTE_BACKEND_REFERENCE = 1,
  HALFBYTE_BACKEND_CPU = 2,
  HALFBYTE_BACKEND_CUDA = 3
} halfbyte_backend;

/* How a call runs. NULL where a function takes one: everything at its default. */
typedef struct halfbyte_execution {
  uint32_t struct_size;
  int32_t backend;     /* halfbyte_backend */
  int32_t num_threads; /* CPU; 0: all */
  int32_t reserved;    /* 0 */
  void* stream;        /* cudaStream_t; NULL: the default stream */
  void* workspace;     /* device memory for scale = computed on CUDA, 4-byte aligned */
  uint64_t workspace_bytes;
  /* CUDA, sm_90 and later; no effect elsewhere. 1: the kernel may start while the one before it on
     the stream runs, and waits for it before it touches any tensor. */
  int32_t programmatic_launch;
  int32_t
      constant_weights; /* 1: nothing on the stream writes the weight: fetch it before that wait */
} halfbyte_execution;

/* Bytes of device workspace that scale = computed needs on CUDA; 0 for the other modes. */
HALFBYTE_EXPORT uint64_t halfbyte_workspace_bytes(int32_t scale_mode);

/* What to quantize to. */
typedef struct halfbyte_quantize_spec {
  uint32_t struct_size;
  int32_t format;        /* halfbyte_format */
  int32_t layout;        /* halfbyte_scale_layout */
  int32_t second_layout; /* halfbyte_scale_layout; read only where out->scales_second is given */
  int32_t scale;         /* halfbyte_scale_mode */
  int32_t scale_rule;    /* halfbyte_scale_rule */
  int32_t mx_rule;       /* halfbyte_mx_rule */
} halfbyte_quantize_spec;

/* Preallocated outputs of a quantization; NULL: absent. See ops/common/quantize_spec.h. */
typedef struct halfbyte_quantize_outputs {
  uint32_t struct_size;
  const halfbyte_tensor* codes;         /* u8, M rows of H/2 (FP4) or H (FP8) */
  const halfbyte_tensor* scales;        /* u8, halfbyte_scale_bytes elements; not FP8 */
  const halfbyte_tensor* scales_second; /* with second_layout */
  const halfbyte_tensor* row_scale;     /* fp32 [M], decode scales; scale = row */
  const halfbyte_tensor* global_scale;  /* fp32 [1]; scale = computed */
  const halfbyte_tensor* decode_scale;  /* fp32 [1]; scale = computed */
} halfbyte_quantize_outputs;

/* Bytes of the block scales of an M x H tensor, padding included; -1 for invalid arguments. */
HALFBYTE_EXPORT int64_t halfbyte_scale_bytes(int32_t format, int32_t layout, int64_t rows,
                                             int64_t columns);

/* Rows sorted by group (mixture of experts); see RowGroups in ops/common/quantize_spec.h. */
typedef struct halfbyte_row_groups {
  uint32_t struct_size;
  int32_t reserved; /* 0 */
  int64_t count;
  const halfbyte_tensor* row_offsets;       /* i32 [count + 1] */
  const halfbyte_tensor* scale_row_offsets; /* i32 [count + 1] */
} halfbyte_row_groups;

typedef struct halfbyte_quantize_args {
  uint32_t struct_size;
  const halfbyte_tensor* x;            /* fp32, fp16, bf16 [.., H] */
  const halfbyte_tensor* global_scale; /* NVFP4 encode scale, fp32 [1], [M] or a group, optional */
  const halfbyte_tensor* decode_scale; /* FP8 static decode scale, fp32 [1] */
  const halfbyte_quantize_spec* spec;
  const halfbyte_quantize_outputs* out;
  const halfbyte_row_groups* groups; /* optional */
} halfbyte_quantize_args;
HALFBYTE_EXPORT halfbyte_status halfbyte_quantize(const halfbyte_quantize_args* args,
                                                  const halfbyte_execution* execution);

typedef struct halfbyte_dequantize_args {
  uint32_t struct_size;
  int32_t format;
  int32_t layout;
  int64_t rows;                        /* M */
  int64_t columns;                     /* H */
  const halfbyte_tensor* codes;        /* u8 */
  const halfbyte_tensor* scales;       /* u8; NULL for FP8 */
  const halfbyte_tensor* global_scale; /* encode scale, fp32 [1] or [M]; at most one of these two */
  const halfbyte_tensor* decode_scale; /* decode scale, fp32 [1] or [M] (row_scale) */
  const halfbyte_tensor* x;            /* out: fp32, fp16, bf16 [.., H] */
} halfbyte_dequantize_args;
HALFBYTE_EXPORT halfbyte_status halfbyte_dequantize(const halfbyte_dequantize_args* args,
                                                    const halfbyte_execution* execution);

typedef struct halfbyte_amax_args {
  uint32_t struct_size;
  int32_t per_row;             /* 0: of the tensor, 1: of each row */
  const halfbyte_tensor* x;    /* fp32, fp16, bf16 [.., H] */
  const halfbyte_tensor* amax; /* out: fp32 [1] or [M] */
} halfbyte_amax_args;
HALFBYTE_EXPORT halfbyte_status halfbyte_amax(const halfbyte_amax_args* args,
                                              const halfbyte_execution* execution);

typedef struct halfbyte_norm_args {
  uint32_t struct_size;
  float eps;                       /* finite, >= 0 */
  int32_t rounding;                /* halfbyte_rounding */
  int32_t weight_bias;             /* 1: w' = w + 1 (Gemma) */
  const halfbyte_tensor* x;        /* fp32, fp16, bf16 [.., H] */
  const halfbyte_tensor* weight;   /* the type of x, or fp32; [H] */
  const halfbyte_tensor* residual; /* in and out, optional */
} halfbyte_norm_args;

typedef struct halfbyte_rmsnorm_args {
  uint32_t struct_size;
  const halfbyte_norm_args* norm;
  const halfbyte_tensor* y; /* out: the type and shape of x */
} halfbyte_rmsnorm_args;
HALFBYTE_EXPORT halfbyte_status halfbyte_rmsnorm(const halfbyte_rmsnorm_args* args,
                                                 const halfbyte_execution* execution);

typedef struct halfbyte_rmsnorm_quantize_args {
  uint32_t struct_size;
  const halfbyte_norm_args* norm;
  const halfbyte_tensor* normed;       /* out, optional: the normalised tensor itself */
  const halfbyte_tensor* global_scale; /* as in halfbyte_quantize_args */
  const halfbyte_tensor* decode_scale;
  const halfbyte_quantize_spec* spec;
  const halfbyte_quantize_outputs* out;
} halfbyte_rmsnorm_quantize_args;
HALFBYTE_EXPORT halfbyte_status halfbyte_rmsnorm_quantize(
    const halfbyte_rmsnorm_quantize_args* args, const halfbyte_execution* execution);

/* Rotary position embedding: pairs (a, b) -> (a*c - b*s, a*s + b*c). */
typedef enum halfbyte_rope_style {
  HALFBYTE_ROPE_NEOX = 0, /* half-split pairs: i and i + rope_dim/2 */
  HALFBYTE_ROPE_GPTJ = 1  /* interleaved pairs: 2i and 2i + 1 */
} halfbyte_rope_style;

typedef struct halfbyte_rope_args {
  uint32_t struct_size;
  int32_t style;                    /* halfbyte_rope_style */
  int32_t inverse;                  /* 1: rotate back */
  int32_t reserved;                 /* 0 */
  int64_t rope_dim;                 /* even, 2 .. D; 0: D */
  int64_t rope_offset;              /* first rotated element of a head */
  const halfbyte_tensor* x;         /* fp32, fp16, bf16 [M, heads, D] */
  const halfbyte_tensor* positions; /* i32 or i64 [M], rows of the tables */
  const halfbyte_tensor* cos;       /* fp32 [P, rope_dim / 2], any row stride */
  const halfbyte_tensor* sin;
  const halfbyte_tensor* y; /* out: the type and shape of x; in place: the very view x is */
} halfbyte_rope_args;
HALFBYTE_EXPORT halfbyte_status halfbyte_rope(const halfbyte_rope_args* args,
                                              const halfbyte_execution* execution);

typedef enum halfbyte_rope_scaling {
  HALFBYTE_ROPE_SCALING_NONE = 0,
  HALFBYTE_ROPE_SCALING_LINEAR = 1,
  HALFBYTE_ROPE_SCALING_LLAMA3 = 2,
  HALFBYTE_ROPE_SCALING_YARN = 3
} halfbyte_rope_scaling;

/* The tables of halfbyte_rope, on the host; see ops/rope/rope_table.h. A double of 0 is not given;
 * what a scaling does not take must not be. */
typedef struct halfbyte_rope_table_args {
  uint32_t struct_size;
  int32_t scaling;              /* halfbyte_rope_scaling */
  int32_t no_truncate;          /* yarn: 1 for transformers' truncate = false */
  int32_t reserved;             /* 0 */
  double theta;                 /* > 1 */
  double factor;                /* linear, llama3, yarn */
  double low_freq_factor;       /* llama3 */
  double high_freq_factor;      /* llama3 */
  double original_max_position; /* llama3, yarn */
  double beta_fast;             /* yarn, optional: 32 */
  double beta_slow;             /* yarn, optional: 1 */
  double attention_factor;      /* yarn, optional */
  double mscale;                /* yarn, optional */
  double mscale_all_dim;        /* yarn, optional */
  const halfbyte_tensor* cos;   /* out: fp32 [P, rope_dim / 2] on the CPU, any row stride */
  const halfbyte_tensor* sin;   /* out */
} halfbyte_rope_table_args;
HALFBYTE_EXPORT halfbyte_status halfbyte_rope_table(const halfbyte_rope_table_args* args);

/* y = gate * sigmoid(alpha * gate) * (up + up_bias). Set alpha: 1 is SiLU, and 0 is no default. */
typedef struct halfbyte_activation {
  uint32_t struct_size;
  int32_t interleave; /* 0: gate and up in halves; 1 or 8: in groups, gate first */
  float clamp;        /* finite, > 0; 0: none */
  float alpha;        /* finite */
  float up_bias;      /* finite */
  int32_t rounding;   /* halfbyte_rounding */
} halfbyte_activation;

typedef struct halfbyte_silu_mul_args {
  uint32_t struct_size;
  const halfbyte_tensor* gate_up; /* fp32, fp16, bf16 [.., 2I] */
  const halfbyte_activation* activation;
  const halfbyte_tensor* y; /* out: the type of gate_up, [.., I] */
} halfbyte_silu_mul_args;
HALFBYTE_EXPORT halfbyte_status halfbyte_silu_mul(const halfbyte_silu_mul_args* args,
                                                  const halfbyte_execution* execution);

typedef struct halfbyte_silu_mul_quantize_args {
  uint32_t struct_size;
  const halfbyte_tensor* gate_up; /* fp32, fp16, bf16 [.., 2I] */
  const halfbyte_activation* activation;
  const halfbyte_tensor* global_scale; /* as in halfbyte_quantize_args, of y [.., I] */
  const halfbyte_tensor* decode_scale;
  const halfbyte_quantize_spec* spec;
  const halfbyte_quantize_outputs* out;
  const halfbyte_row_groups* groups; /* optional */
} halfbyte_silu_mul_quantize_args;
HALFBYTE_EXPORT halfbyte_status halfbyte_silu_mul_quantize(
    const halfbyte_silu_mul_quantize_args* args, const halfbyte_execution* execution);

#ifdef __cplusplus
}
#endif

#include "halfbyte/halfbyte_gemm.h" /* products with FP4 weights */

#endif /* HALFBYTE_H_ */
