/* The part of halfbyte.h, which includes it, that has products with FP4 weights. */
#ifndef HALFBYTE_GEMM_H_
#define HALFBYTE_GEMM_H_

#include "halfbyte/halfbyte.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A quantized tensor, M x H (formats::PackedTensor). */
typedef struct halfbyte_packed_tensor {
  uint32_t struct_size;
  int32_t format;   /* halfbyte_format */
  int32_t layout;   /* halfbyte_scale_layout */
  int32_t reserved; /* 0 */
  int64_t rows;
  int64_t columns;
  const halfbyte_tensor* codes;        /* u8, any row stride */
  const halfbyte_tensor* scales;       /* u8, halfbyte_scale_bytes elements */
  const halfbyte_tensor* global_scale; /* encode scale, fp32; at most one of these two */
  const halfbyte_tensor* decode_scale; /* decode scale (row_scale), fp32 */
} halfbyte_packed_tensor;

typedef enum halfbyte_gemm_method {
  HALFBYTE_GEMM_AUTO = 0,  /* the fastest; on the CPU that is the exact one */
  HALFBYTE_GEMM_EXACT = 1, /* bit-exact, whatever M */
  HALFBYTE_GEMM_TENSOR_CORE = 2,
  HALFBYTE_GEMM_DEQUANTIZE = 3,
  HALFBYTE_GEMM_FP8 = 4,         /* on request: operands rounded to E4M3; sm_89 on */
  HALFBYTE_GEMM_BLOCK_SCALED = 5 /* on request: NVFP4 as it is; sm_100 on */
} halfbyte_gemm_method;
typedef enum halfbyte_weight_form {
  HALFBYTE_WEIGHTS_PLAIN = 0,   /* codes and scales, as checkpoints have them */
  HALFBYTE_WEIGHTS_PREPARED = 1 /* by halfbyte_prepare_weights */
} halfbyte_weight_form;

/* Weights N x K; of E groups, E of them one after another. See ops/gemm/gemm.h. */
typedef struct halfbyte_gemm_weights {
  uint32_t struct_size;
  int32_t format;                      /* HALFBYTE_NVFP4 or HALFBYTE_MXFP4 */
  int32_t form;                        /* halfbyte_weight_form */
  int32_t layout;                      /* halfbyte_scale_layout; plain */
  int64_t rows;                        /* N */
  int64_t columns;                     /* K, a multiple of the block */
  const halfbyte_tensor* codes;        /* plain: u8 [N, K/2], any row stride */
  const halfbyte_tensor* scales;       /* plain: u8 */
  const halfbyte_tensor* prepared;     /* prepared: u8, halfbyte_prepared_weight_bytes */
  const halfbyte_tensor* global_scale; /* encode, fp32 [1] or a group; at most one of these two */
  const halfbyte_tensor* decode_scale; /* decode, fp32 [1] or a group */
} halfbyte_gemm_weights;

/* C[M, N] = A[M, K] * B[N, K]^T. */
typedef struct halfbyte_gemm_args {
  uint32_t struct_size;
  int32_t method;                         /* halfbyte_gemm_method */
  const halfbyte_tensor* a;               /* bf16, fp16 [.., K]; exactly one of these two */
  const halfbyte_packed_tensor* a_packed; /* M x K, the format of b; scale [1], [M] or a group */
  const halfbyte_gemm_weights* b;
  const halfbyte_tensor* bias;       /* optional: the type of c, or fp32; [N] */
  const halfbyte_tensor* c;          /* out: bf16, fp16, fp32 [.., N], any row stride */
  const halfbyte_row_groups* groups; /* optional: mixture of experts */
} halfbyte_gemm_args;
HALFBYTE_EXPORT halfbyte_status halfbyte_gemm(const halfbyte_gemm_args* args,
                                              const halfbyte_execution* execution);
/* Bytes of execution->workspace that this call needs, 256-byte aligned; data pointers may be NULL.
 */
HALFBYTE_EXPORT halfbyte_status halfbyte_gemm_workspace_bytes(const halfbyte_gemm_args* args,
                                                              const halfbyte_execution* execution,
                                                              uint64_t* bytes);

/* quantize(silu_mul(product)): the gate-up product of an MLP, which does not leave the call. See
 * ops/gemm/gemm_silu_mul.h. */
typedef struct halfbyte_gemm_silu_mul_quantize_args {
  uint32_t struct_size;
  halfbyte_dtype dtype;                  /* of the product: fp32, fp16, bf16 */
  const halfbyte_gemm_args* product;     /* b has gate's and up's rows, N = 2I; c is NULL */
  const halfbyte_activation* activation; /* interleave: of b's rows */
  const halfbyte_tensor* global_scale;   /* as in halfbyte_quantize_args, of y [.., I] */
  const halfbyte_tensor* decode_scale;
  const halfbyte_quantize_spec* spec;
  const halfbyte_quantize_outputs* out;
  const halfbyte_tensor*
      out_scale_row_offsets; /* optional, with product->groups: i32 [count + 1] */
} halfbyte_gemm_silu_mul_quantize_args;
HALFBYTE_EXPORT halfbyte_status halfbyte_gemm_silu_mul_quantize(
    const halfbyte_gemm_silu_mul_quantize_args* args, const halfbyte_execution* execution);
/* As halfbyte_gemm_workspace_bytes; the given scales, and the tensors of out, are not looked at. */
HALFBYTE_EXPORT halfbyte_status
halfbyte_gemm_silu_mul_workspace_bytes(const halfbyte_gemm_silu_mul_quantize_args* args,
                                       const halfbyte_execution* execution, uint64_t* bytes);

/* Weights N x K between a checkpoint's form and the form that the kernels read fastest. */
typedef struct halfbyte_prepare_weights_args {
  uint32_t struct_size;
  int32_t reserved;                    /* 0 */
  const halfbyte_packed_tensor* plain; /* NVFP4 or MXFP4, without fp32 scale */
  const halfbyte_tensor* prepared;     /* u8, halfbyte_prepared_weight_bytes, 16-byte aligned */
} halfbyte_prepare_weights_args;
HALFBYTE_EXPORT halfbyte_status halfbyte_prepare_weights(const halfbyte_prepare_weights_args* args,
                                                         const halfbyte_execution* execution);
HALFBYTE_EXPORT halfbyte_status halfbyte_unprepare_weights(
    const halfbyte_prepare_weights_args* args, const halfbyte_execution* execution);
/* Bytes of prepared weights; -1 for invalid arguments. */
HALFBYTE_EXPORT int64_t halfbyte_prepared_weight_bytes(int32_t format, int64_t rows,
                                                       int64_t columns);

#ifdef __cplusplus
}
#endif

#endif /* HALFBYTE_GEMM_H_ */
