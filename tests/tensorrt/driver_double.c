/* The interface against the doubles: what works, and every error of it. */
#define _GNU_SOURCE
#include "driver.h"
#include "reference.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { VIEW = 8 * 8 * 6, MAP = 4 * 2 * 2, FEATURES = 4, STEPS = 16, CLASSES = 2 };

/* ---- opening */

void run_opening(void) {
    vt_library *library = NULL;
    EXPECT(vt_open(NULL, NULL, keep_log, NULL, &library, fresh_error()), VT_ARGUMENT, "path");
    EXPECT(vt_open("", NULL, keep_log, NULL, &library, fresh_error()), VT_ARGUMENT, "path");
    EXPECT(vt_open(paths.nvinfer, NULL, keep_log, NULL, NULL, fresh_error()), VT_ARGUMENT, "");
    CHECK(vt_open(NULL, NULL, NULL, NULL, NULL, NULL) == VT_ARGUMENT);
    EXPECT(vt_open("/nowhere/libnvinfer.so", NULL, keep_log, NULL, &library, fresh_error()), VT_LIBRARY,
        "/nowhere/libnvinfer.so", "No such file");
    EXPECT(vt_open("libm.so.6", NULL, keep_log, NULL, &library, fresh_error()), VT_SYMBOL, "libm.so.6", "getInferLibVersion");
    EXPECT(vt_open(paths.nvinfer, "/nowhere/libnvonnxparser.so", keep_log, NULL, &library, fresh_error()), VT_LIBRARY,
        "/nowhere/libnvonnxparser.so");
    EXPECT(vt_open(paths.nvinfer, "libm.so.6", keep_log, NULL, &library, fresh_error()), VT_SYMBOL, "libm.so.6", "OnnxParser");
    CHECK(library == NULL);

    /* Another minor, another major, old numbering; a patch more is the same family. */
    int32_t headers = vt_headers_version();
    const int32_t others[] = {headers + 100, headers - 100, headers + 10000, 8502, 8601, 7103, 0, -1};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); ++i) {
        char text[16];
        snprintf(text, sizeof(text), "%d", others[i]);
        setenv("VEDETTE_TRT_VERSION", text, 1);
        EXPECT(vt_open(paths.nvinfer, NULL, keep_log, NULL, &library, fresh_error()), VT_VERSION, paths.nvinfer, "compiled for",
            "headers");
        CHECK(library == NULL);
    }
    setenv("VEDETTE_TRT_VERSION", "8502", 1);
    EXPECT(vt_open(paths.nvinfer, NULL, keep_log, NULL, &library, fresh_error()), VT_VERSION, "8.5.2");
    char text[16];
    snprintf(text, sizeof(text), "%d", headers + 1);
    setenv("VEDETTE_TRT_VERSION", text, 1);
    EXPECT(vt_open(paths.nvinfer, NULL, keep_log, NULL, &library, fresh_error()), VT_OK, "");
    CHECK(vt_library_version(library) == headers + 1);
    vt_close(library);
    unsetenv("VEDETTE_TRT_VERSION");

    /* Without a parser it loads plans and does not build. */
    EXPECT(vt_open(paths.nvinfer, NULL, keep_log, NULL, &library, fresh_error()), VT_OK, "");
    vt_build build = build_of(encoder_onnx, features_only, 1, PLAIN);
    vt_blob *plan = NULL;
    EXPECT(vt_build_plan(library, &build, &plan, NULL, fresh_error()), VT_ARGUMENT, "parser");
    vt_close(library);

    /* No GPU. */
    setenv("VEDETTE_CUDA_NONE", "1", 1);
    library = open_library();
    EXPECT(vt_build_plan(library, &build, &plan, NULL, fresh_error()), VT_CREATE, "builder", "no CUDA-capable device");
    vt_engine *engine = NULL;
    EXPECT(vt_engine_load(library, "x", 1, -1, &engine, fresh_error()), VT_CREATE, "runtime", "no CUDA-capable device");
    vt_close(library);
    unsetenv("VEDETTE_CUDA_NONE");

    /* What takes NULL takes it. */
    vt_close(NULL);
    vt_blob_free(NULL);
    vt_engine_free(NULL);
    vt_context_free(NULL);
    CHECK(vt_library_version(NULL) == 0 && vt_blob_data(NULL) == NULL && vt_blob_bytes(NULL) == 0);
    CHECK(vt_engine_tensors(NULL) == 0 && vt_engine_device_bytes(NULL) == 0);
}

/* ---- numbers */

static void fill_view(unsigned char *view, int batch) {
    for (int i = 0; i < batch * VIEW; ++i)
        view[i] = (unsigned char)((37 * i + 11) % 251);
}

static void compare(const char *what, const float *got, const float *wanted, int count, float tolerance) {
    for (int i = 0; i < count; ++i) {
        if (!(fabsf(got[i] - wanted[i]) <= tolerance)) {
            printf("  %s[%d] is %.7g and ought to be %.7g\n", what, i, (double)got[i], (double)wanted[i]);
            CHECK(!"the numbers agree");
            return;
        }
    }
    CHECK(true);
}

static void bind(vt_context *context, const char *name, unsigned long long at) {
    EXPECT(vt_context_address(context, name, (void *)(uintptr_t)at, fresh_error()), VT_OK, "");
}

/* Encoder: both outputs, or features only, for every batch; directly and as a graph. */
static void run_encoder(vt_library *library, vt_blob *plan, bool both, float tolerance) {
    vt_engine *engine = NULL;
    EXPECT(vt_engine_load(library, vt_blob_data(plan), vt_blob_bytes(plan), -1, &engine, fresh_error()), VT_OK, "");
    if (engine == NULL)
        return;
    CHECK(vt_engine_tensors(engine) == (both ? 3 : 2));
    CHECK(vt_engine_device_bytes(engine) > 0);
    vt_tensor tensor;
    CHECK(vt_engine_tensor(engine, 99, &tensor) == VT_ARGUMENT);
    for (uint32_t i = 0; i < vt_engine_tensors(engine); ++i) {
        CHECK(vt_engine_tensor(engine, i, &tensor) == VT_OK);
        if (strcmp(tensor.name, "view") == 0) {
            CHECK(tensor.is_input && tensor.type == VT_TYPE_UINT8 && tensor.rank == 4 && tensor.dims[0] == -1
                && tensor.dims[1] == 8 && tensor.dims[3] == 6);
            CHECK(tensor.min_batch == 1 && tensor.opt_batch == 2 && tensor.max_batch == 4);
        } else if (strcmp(tensor.name, "features") == 0) {
            CHECK(!tensor.is_input && tensor.type == VT_TYPE_FLOAT && tensor.rank == 2 && tensor.dims[0] == -1
                && tensor.dims[1] == 4 && tensor.max_batch == 0);
        } else {
            CHECK(both && strcmp(tensor.name, "map") == 0 && tensor.rank == 4 && tensor.dims[3] == 2);
        }
    }
    vt_context *context = NULL;
    EXPECT(vt_context_new(engine, NULL, 0, NULL, &context, fresh_error()), VT_OK, "");
    unsigned char view[REFERENCE_BATCH * VIEW];
    float features[REFERENCE_BATCH * FEATURES], map[REFERENCE_BATCH * MAP];
    fill_view(view, REFERENCE_BATCH);
    unsigned long long at_view = device_new(sizeof(view)), at_features = device_new(sizeof(features)),
                       at_map = device_new(sizeof(map));
    void *stream = stream_new();
    to_device(at_view, view, sizeof(view));
    bind(context, "view", at_view);
    bind(context, "features", at_features);
    if (both)
        bind(context, "map", at_map);
    for (int batch = 1; batch <= REFERENCE_BATCH; ++batch) {
        const int64_t shape[4] = {batch, 8, 8, 6};
        for (int graph = 0; graph < 2; ++graph) {
            EXPECT(vt_context_shape(context, "view", shape, 4, fresh_error()), VT_OK, "");
            memset(features, 0, sizeof(features));
            memset(map, 0, sizeof(map));
            to_device(at_features, features, sizeof(features));
            void *recorded = NULL;
            if (graph)
                capture_begin(stream);
            EXPECT(vt_context_enqueue(context, stream, fresh_error()), VT_OK, "");
            if (graph) {
                recorded = capture_end(stream);
                graph_launch(recorded, stream);
                graph_launch(recorded, stream);
            }
            stream_wait(stream);
            from_device(features, at_features, sizeof(features));
            compare("features", features, reference_features, batch * FEATURES, tolerance);
            if (both) {
                from_device(map, at_map, sizeof(map));
                compare("map", map, reference_map, batch * MAP, tolerance);
            }
            if (recorded != NULL)
                graph_free(recorded);
        }
    }
    stream_free(stream);
    vt_context_free(context);
    vt_engine_free(engine);
    device_free(at_view);
    device_free(at_features);
    device_free(at_map);
}

static void run_head(vt_library *library, vt_blob *plan, float tolerance) {
    vt_engine *engine = NULL;
    vt_context *context = NULL;
    EXPECT(vt_engine_load(library, vt_blob_data(plan), vt_blob_bytes(plan), -1, &engine, fresh_error()), VT_OK, "");
    EXPECT(vt_context_new(engine, NULL, 0, NULL, &context, fresh_error()), VT_OK, "");
    float features[REFERENCE_BATCH * STEPS * FEATURES], probabilities[REFERENCE_BATCH * CLASSES];
    for (int i = 0; i < REFERENCE_BATCH * STEPS * FEATURES; ++i)
        features[i] = (float)sin(i * 0.37);
    unsigned long long at_features = device_new(sizeof(features)), at_probabilities = device_new(sizeof(probabilities));
    void *stream = stream_new();
    to_device(at_features, features, sizeof(features));
    const int64_t shape[3] = {REFERENCE_BATCH, STEPS, FEATURES};
    EXPECT(vt_context_shape(context, "features", shape, 3, fresh_error()), VT_OK, "");
    bind(context, "features", at_features);
    bind(context, "probabilities", at_probabilities);
    EXPECT(vt_context_enqueue(context, stream, fresh_error()), VT_OK, "");
    stream_wait(stream);
    from_device(probabilities, at_probabilities, sizeof(probabilities));
    compare("probabilities", probabilities, reference_probabilities, REFERENCE_BATCH * CLASSES, tolerance);
    stream_free(stream);
    vt_context_free(context);
    vt_engine_free(engine);
    device_free(at_features);
    device_free(at_probabilities);
}

static vt_blob *build(vt_library *library, vt_build build) {
    vt_blob *plan = NULL;
    EXPECT(vt_build_plan(library, &build, &plan, NULL, fresh_error()), VT_OK, "");
    CHECK(plan != NULL && vt_blob_bytes(plan) > 0);
    return plan;
}

static void precisions(vt_library *library) {
    const int32_t all[] = {VT_PRECISION_AS_TYPED, VT_PRECISION_FP32, VT_PRECISION_FP16_FLAG};
    for (int i = 0; i < 3; ++i) {
        if (all[i] == VT_PRECISION_FP16_FLAG && !paths.weak) {
            vt_build no = build_of(encoder_onnx, features_only, 1, all[i]);
            vt_blob *plan = NULL;
            EXPECT(vt_build_plan(library, &no, &plan, NULL, fresh_error()), VT_UNSUPPORTED, "FP16 flag", "as typed");
            continue;
        }
        /* FP16 has 11 bits; a rounding at each of a few layers. */
        const float tolerance = all[i] == VT_PRECISION_FP16_FLAG ? 4e-3F : 2e-6F;
        forget_log();
        vt_blob *plan = build(library, build_of(encoder_onnx, encoder_outputs, 2, all[i]));
        run_encoder(library, plan, true, tolerance);
        vt_blob_free(plan);
        plan = build(library, build_of(encoder_onnx, features_only, 1, all[i]));
        run_encoder(library, plan, false, tolerance);
        vt_blob_free(plan);
        plan = build(library, build_of(head_onnx, head_outputs, 1, all[i]));
        run_head(library, plan, tolerance);
        vt_blob_free(plan);
        CHECK(logged_errors() == 0);
    }
}

/* ---- options of a build */

typedef struct {
    int calls, phases, largest, cancel_after;
    bool named, mismatched;
} progress_seen;

static int32_t watch(void *user, const char *phase, int32_t step, int32_t steps) {
    progress_seen *seen = user;
    ++seen->calls;
    seen->named = seen->named || phase[0] != '\0';
    seen->phases += step == 0;
    seen->largest = step > seen->largest ? step : seen->largest;
    seen->mismatched = seen->mismatched || (steps != 0 && step > steps);
    return seen->cancel_after > 0 && seen->calls >= seen->cancel_after;
}

static void options(vt_library *library) {
    progress_seen seen = {0};
    vt_blob *plan = NULL, *cache = NULL, *again = NULL;
    vt_build with = build_of(encoder_onnx, features_only, 1, PLAIN);
    with.progress = watch;
    with.progress_user = &seen;
    with.optimisation_level = 3;
    with.workspace_bytes = 1 << 20;
    EXPECT(vt_build_plan(library, &with, &plan, &cache, fresh_error()), VT_OK, "");
    CHECK(seen.calls > 10 && seen.named && seen.phases >= 2 && seen.largest == 5 && !seen.mismatched);
    vt_blob_free(plan);
    for (int after = 1; after < 8; ++after) {
        seen = (progress_seen){.cancel_after = after};
        plan = NULL;
        EXPECT(vt_build_plan(library, &with, &plan, NULL, fresh_error()), VT_CANCELLED, "cancelled");
        CHECK(plan == NULL);
        CHECK(seen.calls <= after + 3); /* it stopped there, after the phases around that step */
    }

    CHECK((cache != NULL) == !paths.rtx);
    with = build_of(encoder_onnx, features_only, 1, PLAIN);
    if (cache != NULL) {
        with.timing_cache = vt_blob_data(cache);
        with.timing_cache_bytes = vt_blob_bytes(cache);
        forget_log();
        EXPECT(vt_build_plan(library, &with, &plan, &again, fresh_error()), VT_OK, "");
        CHECK(logged("timing cache hit"));
        vt_blob_free(plan);
        vt_blob_free(again);
        setenv("VEDETTE_TRT_GPU", "Another", 1);
        forget_log();
        EXPECT(vt_build_plan(library, &with, &plan, NULL, fresh_error()), VT_OK, "");
        CHECK(logged("left aside") && logged("timing cache miss"));
        vt_blob_free(plan);
        unsetenv("VEDETTE_TRT_GPU");
    }
    with.timing_cache = "junk";
    with.timing_cache_bytes = 4;
    forget_log();
    EXPECT(vt_build_plan(library, &with, &plan, NULL, fresh_error()), VT_OK, "");
    CHECK(paths.rtx || (logged("left aside") && logged("bad header")));
    vt_blob_free(plan);
    /* That the cache was refused is no part of what goes wrong later. */
    setenv("VEDETTE_TRT_FAULT", "IBuilder::buildSerializedNetwork:1", 1);
    EXPECT(vt_build_plan(library, &with, &plan, NULL, fresh_error()), VT_BUILD, "injected fault");
    CHECK(strstr(last_error.message, "bad header") == NULL);
    unsetenv("VEDETTE_TRT_FAULT");
    vt_blob_free(cache);

    vt_build dla = build_of(encoder_onnx, features_only, 1, PLAIN);
    dla.dla_core = 0;
    EXPECT(vt_build_plan(library, &dla, &plan, NULL, fresh_error()), VT_UNSUPPORTED, "DLA core 0", "GPU");
    setenv("VEDETTE_TRT_DLA", "2", 1);
    if (paths.rtx) {
        EXPECT(vt_build_plan(library, &dla, &plan, NULL, fresh_error()), VT_UNSUPPORTED, "DLA core 0", "GPU");
    } else {
        EXPECT(vt_build_plan(library, &dla, &plan, NULL, fresh_error()), VT_UNSUPPORTED, "one batch size");
        dla.min_batch = dla.opt_batch = dla.max_batch = 3;
        dla.dla_core = 2;
        EXPECT(vt_build_plan(library, &dla, &plan, NULL, fresh_error()), VT_UNSUPPORTED, "DLA core 2", "finds 2");
        dla.dla_core = 1;
        EXPECT(vt_build_plan(library, &dla, &plan, NULL, fresh_error()), VT_OK, "");
        vt_blob_free(plan);
    }
    unsetenv("VEDETTE_TRT_DLA");
}

/* ---- bad builds */

static void refused(vt_library *library, vt_build build, int32_t code, const char *word, const char *other) {
    vt_blob *plan = (vt_blob *)1;
    EXPECT(vt_build_plan(library, &build, &plan, NULL, fresh_error()), code, word, other);
    CHECK(plan == NULL);
}

static void bad_builds(vt_library *library) {
    vt_build good = build_of(encoder_onnx, encoder_outputs, 2, PLAIN), bad = good;
    vt_blob *plan = NULL;
    EXPECT(vt_build_plan(NULL, &good, &plan, NULL, fresh_error()), VT_ARGUMENT, "");
    EXPECT(vt_build_plan(library, NULL, &plan, NULL, fresh_error()), VT_ARGUMENT, "");
    EXPECT(vt_build_plan(library, &good, NULL, NULL, fresh_error()), VT_ARGUMENT, "");
    bad.onnx = NULL;
    refused(library, bad, VT_ARGUMENT, "ONNX", "");
    bad.onnx_bytes = 0;
    refused(library, bad, VT_PARSE, "empty", "");
    bad = good;
    bad.onnx_bytes = UINT64_C(1) << 31; /* more than is there: it must not be looked at */
    refused(library, bad, VT_ARGUMENT, "2147483648", "2 GiB");
    bad = good;
    bad.output_count = 0;
    refused(library, bad, VT_ARGUMENT, "output", "");
    bad.output_count = 1;
    bad.outputs = (const char *const[]){NULL};
    refused(library, bad, VT_ARGUMENT, "output 0", "");
    const int64_t batches[][3] = {{0, 1, 2}, {2, 1, 4}, {1, 5, 4}, {-1, -1, -1}};
    for (int i = 0; i < 4; ++i) {
        bad = good;
        bad.min_batch = batches[i][0];
        bad.opt_batch = batches[i][1];
        bad.max_batch = batches[i][2];
        refused(library, bad, VT_ARGUMENT, "batches", "");
    }
    bad = good;
    bad.precision = 77;
    refused(library, bad, VT_ARGUMENT, "precision", "77");
    bad = good;
    bad.optimisation_level = 6;
    refused(library, bad, VT_ARGUMENT, "level", "");
    bad = good;
    bad.timing_cache_bytes = 7;
    refused(library, bad, VT_ARGUMENT, "timing cache", "");

    bad = good;
    bad.onnx = "this is no ONNX, and nobody ever said it was";
    bad.onnx_bytes = 44;
    refused(library, bad, VT_PARSE, "44 bytes", "Failed to parse");
    /* Cut off anywhere: refused, or (within trailing fields) parsed; never more. */
    for (size_t size = 1; size < encoder_onnx.size; size += 37) {
        bad = good;
        bad.onnx_bytes = size;
        plan = NULL;
        const int32_t code = vt_build_plan(library, &bad, &plan, NULL, fresh_error());
        CHECK(code == VT_PARSE || code == VT_OK || code == VT_NETWORK);
        CHECK(code == VT_OK || last_error.message[0] != '\0');
        vt_blob_free(plan);
    }
    file_bytes unknown = patched(encoder_onnx, "Relu", "Rely", 4);
    bad = build_of(unknown, encoder_outputs, 2, PLAIN);
    refused(library, bad, VT_PARSE, "operator Rely", "No importer registered");
    CHECK(strchr(last_error.message, '\n') == NULL);
    free(unknown.bytes);

    bad = good;
    bad.outputs = (const char *const[]){"features", "nonesuch"};
    refused(library, bad, VT_NETWORK, "nonesuch", "features, map");
    file_bytes closed = patched(encoder_onnx, "\x0a\x03\x12\x01N", "\x0a\x03\x08\x81\0", 5); /* N becomes 1 */
    bad = build_of(closed, features_only, 1, PLAIN);
    refused(library, bad, VT_NETWORK, "'view'", "[1,8,8,6]");
    free(closed.bytes);
    file_bytes open = patched(encoder_onnx, "\x0a\x02\x08\x08", "\x0a\x02\x12\0", 4); /* 8 becomes open */
    bad = build_of(open, features_only, 1, PLAIN);
    refused(library, bad, VT_NETWORK, "'view'", "[?,?,8,6]");
    free(open.bytes);
}

/* ---- bad plans, bad runs */

static void bad_plan(vt_library *library, const void *plan, uint64_t size, const char *word, const char *other) {
    vt_engine *engine = (vt_engine *)1;
    EXPECT(vt_engine_load(library, plan, size, -1, &engine, fresh_error()), VT_PLAN, word, other);
    CHECK(engine == NULL);
}

static void bad_plans(vt_library *library) {
    vt_blob *plan = build(library, build_of(encoder_onnx, features_only, 1, PLAIN));
    const unsigned char *bytes = vt_blob_data(plan);
    const uint64_t size = vt_blob_bytes(plan);
    vt_engine *engine = NULL;
    EXPECT(vt_engine_load(NULL, bytes, size, -1, &engine, fresh_error()), VT_ARGUMENT, "");
    EXPECT(vt_engine_load(library, bytes, size, -1, NULL, fresh_error()), VT_ARGUMENT, "");
    EXPECT(vt_engine_load(library, NULL, size, -1, &engine, fresh_error()), VT_ARGUMENT, "");
    bad_plan(library, bytes, 0, "empty", "");
    bad_plan(library, NULL, 0, "empty", "");
    bad_plan(library, "junk", 4, "4 bytes", "Magic tag does not match");
    for (uint64_t cut = 1; cut < size; cut += 61)
        bad_plan(library, bytes, cut, "Serialization assertion", "");
    unsigned char *copy = malloc(size);
    for (uint64_t i = 0; i < size; i += 53) {
        memcpy(copy, bytes, size);
        copy[i] ^= 0x10;
        bad_plan(library, copy, size, "Serialization", "");
    }
    free(copy);
    setenv("VEDETTE_TRT_GPU", "Another GPU", 1);
    bad_plan(library, bytes, size, "Another GPU", "target runtime platform");
    unsetenv("VEDETTE_TRT_GPU");
    char text[16];
    snprintf(text, sizeof(text), "%d", vt_headers_version() + 1);
    setenv("VEDETTE_TRT_VERSION", text, 1);
    bad_plan(library, bytes, size, "Version tag does not match", text);
    unsetenv("VEDETTE_TRT_VERSION");
    vt_blob_free(plan);
}

static void bad_runs(vt_library *library) {
    vt_blob *plan = build(library, build_of(encoder_onnx, features_only, 1, PLAIN));
    vt_engine *engine = NULL;
    vt_context *context = NULL;
    EXPECT(vt_engine_load(library, vt_blob_data(plan), vt_blob_bytes(plan), -1, &engine, fresh_error()), VT_OK, "");
    EXPECT(vt_context_new(NULL, NULL, 0, NULL, &context, fresh_error()), VT_ARGUMENT, "");
    EXPECT(vt_context_new(engine, NULL, 0, NULL, NULL, fresh_error()), VT_ARGUMENT, "");
    EXPECT(vt_context_new(engine, NULL, 0, NULL, &context, fresh_error()), VT_OK, "");
    const int64_t shape[9] = {1, 8, 8, 6, 1, 1, 1, 1, 1}, many[4] = {5, 8, 8, 6}, wide[4] = {1, 8, 9, 6},
                  negative[4] = {-1, 8, 8, 6}, none[4] = {0, 8, 8, 6};
    unsigned long long at_view = device_new(4 * VIEW), at_features = device_new(4 * FEATURES * sizeof(float));
    void *stream = stream_new();
    EXPECT(vt_context_shape(NULL, "view", shape, 4, fresh_error()), VT_ARGUMENT, "");
    EXPECT(vt_context_shape(context, NULL, shape, 4, fresh_error()), VT_ARGUMENT, "");
    EXPECT(vt_context_shape(context, "view", NULL, 4, fresh_error()), VT_ARGUMENT, "");
    EXPECT(vt_context_shape(context, "view", shape, 9, fresh_error()), VT_ARGUMENT, "8 dimensions");
    EXPECT(vt_context_shape(context, "view", shape, 0, fresh_error()), VT_ARGUMENT, "");
    EXPECT(vt_context_shape(context, "view", negative, 4, fresh_error()), VT_ARGUMENT, "[-1,8,8,6]");
    EXPECT(vt_context_shape(context, "view", many, 4, fresh_error()), VT_RUN, "[5,8,8,6]", "profile");
    EXPECT(vt_context_shape(context, "view", none, 4, fresh_error()), VT_RUN, "[0,8,8,6]", "profile");
    EXPECT(vt_context_shape(context, "view", wide, 4, fresh_error()), VT_RUN, "[1,8,9,6]");
    EXPECT(vt_context_shape(context, "view", shape, 3, fresh_error()), VT_RUN, "[1,8,8]");
    EXPECT(vt_context_shape(context, "features", shape, 4, fresh_error()), VT_RUN, "not an input");
    EXPECT(vt_context_shape(context, "nonesuch", shape, 4, fresh_error()), VT_RUN, "nonesuch");
    EXPECT(vt_context_address(NULL, "view", (void *)(uintptr_t)at_view, fresh_error()), VT_ARGUMENT, "");
    EXPECT(vt_context_address(context, NULL, (void *)(uintptr_t)at_view, fresh_error()), VT_ARGUMENT, "");
    EXPECT(vt_context_address(context, "view", NULL, fresh_error()), VT_ARGUMENT, "");
    EXPECT(vt_context_address(context, "view", (void *)(uintptr_t)(at_view + 64), fresh_error()), VT_ARGUMENT, "view", "256");
    EXPECT(vt_context_address(context, "nonesuch", (void *)(uintptr_t)at_view, fresh_error()), VT_RUN, "nonesuch");
    EXPECT(vt_context_enqueue(NULL, stream, fresh_error()), VT_ARGUMENT, "");
    EXPECT(vt_context_enqueue(context, stream, fresh_error()), VT_RUN, "no shape");
    EXPECT(vt_context_shape(context, "view", shape, 4, fresh_error()), VT_OK, "");
    EXPECT(vt_context_enqueue(context, stream, fresh_error()), VT_RUN, "address");
    bind(context, "view", at_view);
    EXPECT(vt_context_enqueue(context, stream, fresh_error()), VT_RUN, "features");
    bind(context, "features", at_features);
    /* A refused shape leaves the one before. */
    EXPECT(vt_context_shape(context, "view", many, 4, fresh_error()), VT_RUN, "profile");
    EXPECT(vt_context_enqueue(context, stream, fresh_error()), VT_OK, "");
    stream_wait(stream);
    CHECK(vt_context_enqueue(NULL, NULL, NULL) == VT_ARGUMENT); /* without a place for the error */

    /* What an error says is of its own call. */
    setenv("VEDETTE_TRT_FAULT", "ExecutionContext::enqueueV3:1,IExecutionContext::setTensorAddress:1:oom", 1);
    EXPECT(vt_context_enqueue(context, stream, fresh_error()), VT_RUN, "enqueueV3");
    EXPECT(vt_context_address(context, "view", (void *)(uintptr_t)at_view, fresh_error()), VT_MEMORY, "setTensorAddress");
    CHECK(strstr(last_error.message, "enqueueV3") == NULL);
    unsetenv("VEDETTE_TRT_FAULT");

    /* Numbers that are not right, on demand: for those who test that they are noticed. */
    float features[FEATURES];
    setenv("VEDETTE_TRT_FAULT", "ExecutionContext::enqueueV3:0:nan", 1);
    EXPECT(vt_context_enqueue(context, stream, fresh_error()), VT_OK, "");
    stream_wait(stream);
    from_device(features, at_features, sizeof(features));
    CHECK(isnan(features[0]));
    unsetenv("VEDETTE_TRT_FAULT");

    stream_free(stream);
    vt_context_free(context);
    vt_engine_free(engine);
    vt_blob_free(plan);
    device_free(at_view);
    device_free(at_features);
}

/* ---- several threads, each with its own library object: an error holds its own thread's words */

static void *fail_often(void *user) {
    const char *name = user;
    vt_library *library = NULL;
    vt_error error;
    if (vt_open(paths.nvinfer, paths.parser, keep_log, NULL, &library, &error) != VT_OK)
        return (void *)"open";
    const char *wrong = NULL;
    for (int i = 0; i < 50 && wrong == NULL; ++i) {
        const char *const outputs[1] = {name};
        vt_build build = build_of(encoder_onnx, outputs, 1, PLAIN);
        vt_blob *plan = NULL;
        if (vt_build_plan(library, &build, &plan, NULL, &error) != VT_NETWORK || strstr(error.message, name) == NULL)
            wrong = "build";
        vt_engine *engine = NULL;
        if (vt_engine_load(library, name, strlen(name), -1, &engine, &error) != VT_PLAN || strstr(error.message, "; ") != NULL)
            wrong = "load"; /* one error was logged by this thread: not two */
    }
    vt_close(library);
    return (void *)wrong;
}

/* Two contexts of one engine, each on its own thread: one logger, and still each its own words. */
static void *misname(void *user) {
    vt_context *context = user;
    char name[32];
    snprintf(name, sizeof(name), "tensor-%p", user);
    const int64_t shape[1] = {1};
    vt_error error;
    for (int i = 0; i < 200; ++i)
        if (vt_context_shape(context, name, shape, 1, &error) != VT_RUN || strstr(error.message, name) == NULL
            || strstr(strstr(error.message, "IO tensor") + 1, "IO tensor") != NULL)
            return (void *)"mixed";
    return NULL;
}

static void contexts(vt_library *library) {
    vt_blob *plan = build(library, build_of(encoder_onnx, features_only, 1, PLAIN));
    vt_engine *engine = NULL;
    vt_context *context[2] = {NULL, NULL};
    pthread_t thread[2];
    EXPECT(vt_engine_load(library, vt_blob_data(plan), vt_blob_bytes(plan), -1, &engine, fresh_error()), VT_OK, "");
    for (int i = 0; i < 2; ++i)
        EXPECT(vt_context_new(engine, NULL, 0, NULL, &context[i], fresh_error()), VT_OK, "");
    for (int i = 0; i < 2; ++i)
        pthread_create(&thread[i], NULL, misname, context[i]);
    for (int i = 0; i < 2; ++i) {
        void *wrong = NULL;
        pthread_join(thread[i], &wrong);
        CHECK(wrong == NULL);
    }
    vt_context_free(context[1]);
    vt_context_free(context[0]);
    vt_engine_free(engine);
    vt_blob_free(plan);
}

/* Two contexts in one piece of memory, one after the other: no more is allocated, and both compute. */
static void shared_memory(vt_library *library) {
    vt_blob *plan = build(library, build_of(encoder_onnx, features_only, 1, PLAIN));
    vt_engine *engine = NULL;
    EXPECT(vt_engine_load(library, vt_blob_data(plan), vt_blob_bytes(plan), -1, &engine, fresh_error()), VT_OK, "");
    const uint64_t bytes = vt_engine_device_bytes(engine);
    CHECK(bytes > 0);
    unsigned long long memory = device_new(bytes + 256), view = device_new(4 * VIEW), at[2];
    vt_context *context[2] = {NULL, NULL};
    void *const to = (void *)(uintptr_t)memory;
    EXPECT(vt_context_new(engine, to, bytes - 1, NULL, &context[0], fresh_error()), VT_ARGUMENT, "are needed");
    EXPECT(vt_context_new(engine, (char *)to + 64, bytes, NULL, &context[0], fresh_error()), VT_ARGUMENT, "aligned to 256");
    CHECK(context[0] == NULL);
    for (int i = 0; i < 2; ++i)
        at[i] = device_new(4 * FEATURES * sizeof(float));
    const long long before = cuda_count("allocations");
    void *stream = stream_new();
    for (int i = 0; i < 2; ++i) {
        const int64_t shape[4] = {i + 1, 8, 8, 6};
        EXPECT(vt_context_new(engine, to, bytes, stream, &context[i], fresh_error()), VT_OK, "");
        EXPECT(vt_context_shape(context[i], "view", shape, 4, fresh_error()), VT_OK, "");
        bind(context[i], "view", view);
        bind(context[i], "features", at[i]);
    }
    for (int i = 0; i < 2; ++i)
        EXPECT(vt_context_enqueue(context[i], stream, fresh_error()), VT_OK, "");
    stream_wait(stream);
    CHECK(cuda_count("allocations") == before);
    float features[2][FEATURES];
    for (int i = 0; i < 2; ++i)
        from_device(features[i], at[i], sizeof(features[i]));
    CHECK(memcmp(features[0], features[1], sizeof(features[0])) == 0); /* of the same view */
    stream_free(stream);
    for (int i = 0; i < 2; ++i) {
        vt_context_free(context[i]);
        device_free(at[i]);
    }
    vt_engine_free(engine);
    vt_blob_free(plan);
    device_free(memory);
    device_free(view);
}

static void threads(void) {
    pthread_t thread[3];
    const char *const names[3] = {"one", "two-two", "three-three-three"};
    for (int i = 0; i < 3; ++i)
        pthread_create(&thread[i], NULL, fail_often, (void *)names[i]);
    for (int i = 0; i < 3; ++i) {
        void *wrong = NULL;
        pthread_join(thread[i], &wrong);
        CHECK(wrong == NULL);
    }
}

void run_doubles(void) {
    const long long before = cuda_count("allocations");
    vt_library *library = open_library();
    CHECK(vt_library_version(library) == vt_headers_version());
    precisions(library);
    options(library);
    bad_builds(library);
    bad_plans(library);
    bad_runs(library);
    contexts(library);
    shared_memory(library);
    vt_close(library);
    threads();
    CHECK(cuda_count("allocations") == before);
    CHECK(cuda_count("queued") == 0);
}
