/* Of the sketch: see NvInfer.h beside it. */
#pragma once

typedef struct CUstream_st* cudaStream_t;
