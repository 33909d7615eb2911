/*
 * The part of TensorFlow's C API that the ops use. Source: tensorflow/c/{tf_status,tf_tensor,tf_datatype,ops,kernels}.h in
 * https://github.com/tensorflow/tensorflow/tree/master/tensorflow/c
 *
 * The ops need no header of TensorFlow and link with no library of it: op.c finds the functions in the library that the
 * process has loaded. They have been the same in every version since 2.16 at least.
 */
#ifndef RF_TF_API_H
#define RF_TF_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct TF_Status TF_Status;
typedef struct TF_Tensor TF_Tensor;
typedef struct TF_OpDefinitionBuilder TF_OpDefinitionBuilder;
typedef struct TF_ShapeInferenceContext TF_ShapeInferenceContext;
typedef struct TF_KernelBuilder TF_KernelBuilder;
typedef struct TF_OpKernelConstruction TF_OpKernelConstruction;
typedef struct TF_OpKernelContext TF_OpKernelContext;

typedef enum TF_Code {
    TF_OK = 0,
    TF_UNKNOWN = 2,
    TF_INVALID_ARGUMENT = 3,
    TF_OUT_OF_RANGE = 11,
} TF_Code;

typedef enum TF_DataType {
    TF_FLOAT = 1,
    TF_DOUBLE = 2,
    TF_INT32 = 3,
    TF_UINT8 = 4,
    TF_INT16 = 5,
    TF_INT8 = 6,
    TF_COMPLEX64 = 8,
    TF_INT64 = 9,
    TF_BOOL = 10,
    TF_BFLOAT16 = 14,
    TF_UINT16 = 17,
    TF_HALF = 19,
    TF_UINT32 = 22,
    TF_UINT64 = 23,
} TF_DataType;

/* X(result type, name, parameters) */
#define TF_FUNCTIONS(X)                                                                           \
    X(TF_Status *, TF_NewStatus, (void))                                                          \
    X(void, TF_DeleteStatus, (TF_Status *))                                                       \
    X(void, TF_SetStatus, (TF_Status *, TF_Code, const char *))                                   \
    X(TF_Code, TF_GetCode, (const TF_Status *))                                                   \
    X(const char *, TF_Message, (const TF_Status *))                                              \
    X(TF_Tensor *, TF_NewTensor,                                                                  \
      (TF_DataType, const int64_t *dims, int rank, void *data, size_t bytes,                      \
       void (*deallocator)(void *data, size_t bytes, void *context), void *context))              \
    X(void, TF_DeleteTensor, (TF_Tensor *))                                                       \
    X(void *, TF_TensorData, (const TF_Tensor *))                                                 \
    X(TF_OpDefinitionBuilder *, TF_NewOpDefinitionBuilder, (const char *name))                    \
    X(void, TF_OpDefinitionBuilderAddAttr, (TF_OpDefinitionBuilder *, const char *))              \
    X(void, TF_OpDefinitionBuilderAddInput, (TF_OpDefinitionBuilder *, const char *))             \
    X(void, TF_OpDefinitionBuilderAddOutput, (TF_OpDefinitionBuilder *, const char *))            \
    X(void, TF_OpDefinitionBuilderSetIsStateful, (TF_OpDefinitionBuilder *, bool))                \
    X(void, TF_OpDefinitionBuilderSetShapeInferenceFunction,                                      \
      (TF_OpDefinitionBuilder *, void (*)(TF_ShapeInferenceContext *, TF_Status *)))              \
    X(void, TF_ShapeInferenceContextSetUnknownShape, (TF_ShapeInferenceContext *, TF_Status *))   \
    X(void, TF_RegisterOpDefinition, (TF_OpDefinitionBuilder *, TF_Status *))                     \
    X(TF_KernelBuilder *, TF_NewKernelBuilder,                                                    \
      (const char *op, const char *device, void *(*create)(TF_OpKernelConstruction *),            \
       void (*compute)(void *, TF_OpKernelContext *), void (*remove)(void *)))                    \
    X(void, TF_KernelBuilder_HostMemory, (TF_KernelBuilder *, const char *argument))              \
    X(void, TF_RegisterKernelBuilder, (const char *name, TF_KernelBuilder *, TF_Status *))        \
    X(void, TF_OpKernelConstruction_GetAttrSize,                                                  \
      (TF_OpKernelConstruction *, const char *attr, int32_t *list, int32_t *total, TF_Status *))  \
    X(void, TF_OpKernelConstruction_GetAttrTypeList,                                              \
      (TF_OpKernelConstruction *, const char *attr, TF_DataType *, int capacity, TF_Status *))    \
    X(void, TF_OpKernelConstruction_GetAttrInt64List,                                             \
      (TF_OpKernelConstruction *, const char *attr, int64_t *, int capacity, TF_Status *))        \
    X(void, TF_OpKernelConstruction_GetAttrString,                                                \
      (TF_OpKernelConstruction *, const char *attr, char *, size_t capacity, TF_Status *))        \
    X(void, TF_OpKernelConstruction_Failure, (TF_OpKernelConstruction *, TF_Status *))            \
    X(void, TF_OpKernelContext_Failure, (TF_OpKernelContext *, TF_Status *))                      \
    X(void, TF_GetInput, (TF_OpKernelContext *, int index, TF_Tensor **, TF_Status *))            \
    X(void, TF_SetOutput, (TF_OpKernelContext *, int index, const TF_Tensor *, TF_Status *))      \
    X(TF_Tensor *, TF_AllocateOutput,                                                             \
      (TF_OpKernelContext *, int index, TF_DataType, const int64_t *dims, int rank, size_t bytes, \
       TF_Status *))

/* Pointers with the names of the functions, hidden in the ops' shared object. op.c sets them. */
#define RF_DECLARE(result, name, arguments) extern result(*name) arguments;
TF_FUNCTIONS(RF_DECLARE)
#undef RF_DECLARE

#endif
