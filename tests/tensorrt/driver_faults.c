/* Every function of the doubles fails once, at each of its calls: the scenario ends with an error that has words, nothing
 * crashes, and nothing is left behind (the sanitizer looks at that). */
#define _GNU_SOURCE
#include "driver.h"

#include <stdlib.h>
#include <string.h>

enum { VIEW = 2 * 8 * 8 * 6, FEATURES = 2 * 4 * 4 };

static unsigned long long at_view, at_features;
static void *stream;

/* All that the agent does with a model: build, load, run. The first error ends it. */
static int32_t scenario(void) {
    vt_library *library = NULL;
    vt_blob *plan = NULL, *cache = NULL;
    vt_engine *engine = NULL;
    vt_context *context = NULL;
    const int64_t shape[4] = {2, 8, 8, 6};
    vt_build build = build_of(encoder_onnx, features_only, 1, PLAIN);
    build.optimisation_level = 2;
    int32_t code = vt_open(paths.nvinfer, paths.parser, keep_log, NULL, &library, fresh_error());
    if (code == VT_OK)
        code = vt_build_plan(library, &build, &plan, &cache, fresh_error());
    if (code == VT_OK)
        code = vt_engine_load(library, vt_blob_data(plan), vt_blob_bytes(plan), -1, &engine, fresh_error());
    if (code == VT_OK)
        code = vt_context_new(engine, NULL, 0, NULL, &context, fresh_error());
    if (code == VT_OK)
        code = vt_context_shape(context, "view", shape, 4, fresh_error());
    if (code == VT_OK)
        code = vt_context_address(context, "view", (void *)(uintptr_t)at_view, fresh_error());
    if (code == VT_OK)
        code = vt_context_address(context, "features", (void *)(uintptr_t)at_features, fresh_error());
    if (code == VT_OK)
        code = vt_context_enqueue(context, stream, fresh_error());
    unsetenv("VEDETTE_TRT_FAULT"); /* the waiting is the driver's own */
    stream_wait(stream);
    vt_context_free(context);
    vt_engine_free(engine);
    vt_blob_free(plan);
    vt_blob_free(cache);
    vt_close(library);
    return code;
}

/* Without a timing cache a build is slower, and no worse. */
static bool tolerated(const char *function) { return strstr(function, "imingCache") != NULL; }

/* How often it was hit. */
static int fail_each(const char *function, const char *kind) {
    for (int nth = 1;; ++nth) {
        char fault[256];
        snprintf(fault, sizeof(fault), "%s:%d:%s", function, nth, kind);
        setenv("VEDETTE_TRT_FAULT", fault, 1);
        forget_log();
        const long long before = cuda_count("allocations");
        const int32_t code = scenario();
        /* A fault of CUDA's is seen by its consequence, one of TensorRT's in the log as well. */
        const bool hit = strncmp(function, "cu", 2) == 0 ? code != VT_OK : logged("injected fault");
        CHECK(cuda_count("allocations") == before);
        if (!hit) {
            CHECK(code == VT_OK);
            return nth - 1;
        }
        const bool memory = strcmp(kind, "oom") == 0;
        const bool right = tolerated(function) ? code == VT_OK
                                               : code != VT_OK && last_error.code == code && strlen(last_error.message) > 20
                && (!memory || code == VT_MEMORY) && (memory || code != VT_MEMORY);
        if (!right)
            printf("  fault %s: code %d, message: %s\n", fault, code, last_error.message);
        CHECK(right);
        if (nth > 50) { /* the scenario fails without a fault */
            CHECK(!"a call is made fifty times");
            return nth;
        }
    }
}

void run_faults(void) {
    at_view = device_new(VIEW);
    at_features = device_new(FEATURES);
    stream = stream_new();
    /* Which functions there are, the scenario says itself. */
    setenv("VEDETTE_TRT_TRACE", "1", 1);
    forget_log();
    EXPECT(scenario(), VT_OK, "");
    unsetenv("VEDETTE_TRT_TRACE");
    char *trace = strdup(log_text());
    char seen[8192] = "\n";
    int functions = 0, hits = 0;
    char *rest = NULL;
    for (char *line = strtok_r(trace, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        char name[256];
        if (strncmp(line, "call ", 5) != 0)
            continue;
        snprintf(name, sizeof(name), "\n%s\n", line + 5);
        if (strstr(seen, name) != NULL)
            continue;
        strcat(seen, name + 1);
        ++functions;
        hits += fail_each(line + 5, "fail") + fail_each(line + 5, "oom");
    }
    free(trace);
    const char *const cuda[] = {"cuInit", "cuMemAlloc_v2", "cuLaunchHostFunc"};
    for (size_t i = 0; i < sizeof(cuda) / sizeof(cuda[0]); ++i) {
        ++functions;
        hits += fail_each(cuda[i], "fail");
        if (i > 0)
            hits += fail_each(cuda[i], "oom");
    }
    CHECK(functions >= (paths.rtx ? 15 : 18));
    printf("  %d functions of the doubles failed at %d calls\n", functions, hits);
    stream_free(stream);
    device_free(at_view);
    device_free(at_features);
}

/* Opened, refused a plan, refused an ONNX, closed: again and again. */
void run_cycles(int count) {
    for (int i = 0; i < count; ++i) {
        vt_library *library = open_library();
        vt_engine *engine = NULL;
        EXPECT(vt_engine_load(library, "junk that is no plan, but long enough to look at", 48, -1, &engine, fresh_error()), VT_PLAN, "48 bytes");
        vt_blob *plan = NULL;
        vt_build bad = build_of(encoder_onnx, features_only, 1, PLAIN);
        bad.onnx_bytes = 99;
        EXPECT(vt_build_plan(library, &bad, &plan, NULL, fresh_error()), VT_PARSE, "99 bytes");
        vt_close(library);
    }
}
