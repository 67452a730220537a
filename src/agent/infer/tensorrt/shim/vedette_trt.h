/* The C interface of the TensorRT shim: what Vedette asks of TensorRT, in terms that do not change with its versions.
 *
 * TensorRT has no C interface, and its C++ classes differ between header families. The shim is compiled once for each
 * family, against that family's headers, and opened at run time by the agent, which knows nothing of them. It links no
 * NVIDIA library: vt_open() opens the one it is told to, and compares versions before the first virtual call.
 *
 * Conventions: functions that can fail return a VT_ code and, unless it is VT_OK, fill `error` (may be NULL). Nothing
 * throws across this interface. Strings are UTF-8 and end with 0. Objects are destroyed in the reverse order of their
 * making, each by its own function, which takes NULL. An object belongs to one thread at a time; the log function may
 * be called from any thread. Compiled as C11 and as C++14.
 */
#ifndef VEDETTE_TRT_H
#define VEDETTE_TRT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised with every change of this file that a compiled agent could not live with. */
#define VT_ABI 3

enum {
    VT_OK = 0,
    VT_ARGUMENT = 1,   /* the caller's mistake */
    VT_LIBRARY = 2,    /* the library cannot be opened */
    VT_SYMBOL = 3,     /* it lacks an entry point */
    VT_VERSION = 4,    /* it is of another version than the shim's headers */
    VT_CREATE = 5,     /* it would not make a runtime, builder, parser or context: no GPU, no driver */
    VT_PLAN = 6,       /* a plan that it does not take: junk, truncated, of another version or GPU */
    VT_PARSE = 7,      /* an ONNX that its parser does not take */
    VT_NETWORK = 8,    /* the ONNX has other inputs or outputs than were named */
    VT_UNSUPPORTED = 9,/* an option that this version does not have: FP16 by flag from 11 on, DLA */
    VT_BUILD = 10,     /* no plan came of the network */
    VT_MEMORY = 11,    /* not enough memory, of the host or of the GPU */
    VT_CANCELLED = 12, /* the progress function said stop */
    VT_RUN = 13        /* a shape or an address was refused, or the work could not be enqueued */
};

enum { VT_SEVERITY_FATAL = 0, VT_SEVERITY_ERROR = 1, VT_SEVERITY_WARNING = 2, VT_SEVERITY_INFO = 3, VT_SEVERITY_VERBOSE = 4 };

enum { VT_TYPE_FLOAT = 0, VT_TYPE_HALF = 1, VT_TYPE_INT8 = 2, VT_TYPE_INT32 = 3, VT_TYPE_BOOL = 4, VT_TYPE_UINT8 = 5, VT_TYPE_INT64 = 6, VT_TYPE_OTHER = 255 };

enum {
    VT_PRECISION_AS_TYPED = 0, /* the types of the network hold: strongly typed; TensorRT 10 and later */
    VT_PRECISION_FP32 = 1,     /* FP32 throughout: weakly typed without flags, or strongly typed where weak is gone */
    VT_PRECISION_FP16_FLAG = 2 /* FP16 where the builder finds it faster, from the FP32 network; before TensorRT 11 */
};

#define VT_MAX_DIMS 8
#define VT_NAME_BYTES 128
#define VT_MESSAGE_BYTES 2048

typedef struct vt_error {
    int32_t code;                   /* VT_ */
    char message[VT_MESSAGE_BYTES]; /* what was tried, and the library's own words (the errors it logged meanwhile) */
} vt_error;

typedef struct vt_tensor {
    char name[VT_NAME_BYTES];
    int32_t is_input;
    int32_t type;              /* VT_TYPE_ */
    int32_t rank;
    int64_t dims[VT_MAX_DIMS]; /* -1: open */
    int64_t min_batch, opt_batch, max_batch; /* of the profile's first dimension; 0 for outputs */
} vt_tensor;

typedef struct vt_library vt_library;
typedef struct vt_blob vt_blob;
typedef struct vt_engine vt_engine;
typedef struct vt_context vt_context;

typedef void (*vt_log_fn)(void *user, int32_t severity, const char *message);

/* Called while a plan is built: the phase ("" where the version does not name it), the step, of how many (0: not
 * known). Not 0 cancels the build, where the version can. Any thread. */
typedef int32_t (*vt_progress_fn)(void *user, const char *phase, int32_t step, int32_t steps);

/* Of the shim itself: may be called before anything else. */
int32_t vt_abi(void);
/* The headers' version, as getInferLibVersion() counts: 8502, 100300. */
int32_t vt_headers_version(void);
/* "TensorRT" or "TensorRT-RTX", by the headers. */
const char *vt_flavour(void);

/* Opens libnvinfer at `library` and, unless it is NULL, the ONNX parser's library at `parser` (needed to build only),
 * after comparing versions: the same major and minor as the headers'. `log` gets everything that the library says. */
int32_t vt_open(const char *library, const char *parser, vt_log_fn log, void *user, vt_library **out, vt_error *error);
void vt_close(vt_library *library);
/* Of the opened library. */
int32_t vt_library_version(const vt_library *library);

typedef struct vt_build {
    const void *onnx;
    uint64_t onnx_bytes;
    const char *const *outputs; /* those that are wanted; the others are unmarked, and what only they need falls away */
    uint32_t output_count;
    int64_t min_batch, opt_batch, max_batch; /* of every input's first dimension, which the network leaves open */
    int32_t precision;          /* VT_PRECISION_ */
    int32_t dla_core;           /* -1: none; else that core, with what it cannot do on the GPU */
    int32_t optimisation_level; /* -1: the library's; 0 to 5 where the version has it (8.6) */
    uint64_t workspace_bytes;   /* 0: the library's */
    const void *timing_cache;   /* of an earlier build, or NULL; one that the library does not take is left aside, and logged */
    uint64_t timing_cache_bytes;
    vt_progress_fn progress;    /* or NULL */
    void *progress_user;
} vt_build;

/* Builds a plan. `timing_cache` (may be NULL) gets the timing cache as it is afterwards, or NULL where there is none. */
int32_t vt_build_plan(vt_library *library, const vt_build *build, vt_blob **plan, vt_blob **timing_cache, vt_error *error);
const void *vt_blob_data(const vt_blob *blob);
uint64_t vt_blob_bytes(const vt_blob *blob);
void vt_blob_free(vt_blob *blob);

/* `dla_core`: the core that a plan built for one runs on; -1: none. */
int32_t vt_engine_load(
    vt_library *library, const void *plan, uint64_t plan_bytes, int32_t dla_core, vt_engine **out, vt_error *error);
void vt_engine_free(vt_engine *engine);
uint32_t vt_engine_tensors(const vt_engine *engine);
int32_t vt_engine_tensor(const vt_engine *engine, uint32_t index, vt_tensor *out);
/* Device memory that a context needs, in bytes. */
uint64_t vt_engine_device_bytes(const vt_engine *engine);

/* Where a version lets only one context use the plan's profile (before 8.6), a second one is VT_UNSUPPORTED. `memory`:
 * device memory to work in, at least vt_engine_device_bytes() of it, aligned to 256 bytes, which has to outlive the
 * context; contexts that never work at the same time may be given the same. NULL: it gets its own. `stream`: the work that
 * this may need is put there, and is done when the stream has got there. */
int32_t vt_context_new(
    vt_engine *engine, void *memory, uint64_t memory_bytes, void *stream, vt_context **out, vt_error *error);
void vt_context_free(vt_context *context);
/* The whole shape of an input, its batch included. */
int32_t vt_context_shape(vt_context *context, const char *input, const int64_t *dims, int32_t rank, vt_error *error);
/* Where a tensor lies: device memory, large enough for the shape, aligned to 256 bytes. */
int32_t vt_context_address(vt_context *context, const char *tensor, void *address, vt_error *error);
/* Puts the work on a CUDA stream (a cudaStream_t, which is a CUstream); it can be captured in a graph. */
int32_t vt_context_enqueue(vt_context *context, void *stream, vt_error *error);

#ifdef __cplusplus
}
#endif
#endif
