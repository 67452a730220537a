/* NVIDIA's own TensorRT-RTX, as far as it goes without a GPU. What it said is printed: it is the only account there is. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

static void refuses(vt_library *library, const char *what, const void *plan, uint64_t size) {
    vt_engine *engine = (vt_engine *)1;
    forget_log();
    EXPECT(vt_engine_load(library, plan, size, -1, &engine, fresh_error()), VT_PLAN, size == 0 ? "empty" : "loading a plan");
    CHECK(engine == NULL);
    /* Its words, and not only ours. */
    CHECK(size == 0 || strstr(last_error.message, "without a word") == NULL);
    printf("  %s: %s\n", what, last_error.message);
}

static void builds(vt_library *library, const char *what, file_bytes onnx, const char *const *outputs, uint32_t count) {
    vt_build build = build_of(onnx, outputs, count, VT_PRECISION_AS_TYPED);
    vt_blob *plan = NULL;
    forget_log();
    const int32_t code = vt_build_plan(library, &build, &plan, NULL, fresh_error());
    CHECK(code == VT_OK ? plan != NULL : plan == NULL && last_error.message[0] != '\0');
    if (code == VT_OK) {
        printf("  building %s: a plan of %llu bytes\n", what, (unsigned long long)vt_blob_bytes(plan));
        for (uint64_t part = 1; part < 4; ++part)
            refuses(library, "a truncated plan of its own", vt_blob_data(plan), vt_blob_bytes(plan) * part / 4);
        vt_engine *engine = NULL;
        const int32_t loaded = vt_engine_load(library, vt_blob_data(plan), vt_blob_bytes(plan), -1, &engine, fresh_error());
        printf("  loading %s: %d %s\n", what, loaded, loaded == VT_OK ? "" : last_error.message);
        vt_engine_free(engine);
    } else {
        printf("  building %s: %d, %s\n", what, code, last_error.message);
    }
    vt_blob_free(plan);
}

void run_real(void) {
    vt_library *library = NULL;
    EXPECT(vt_open("/nowhere/libtensorrt_rtx.so.1", NULL, keep_log, NULL, &library, fresh_error()), VT_LIBRARY, "No such file");
    EXPECT(vt_open("libm.so.6", NULL, keep_log, NULL, &library, fresh_error()), VT_SYMBOL, "getInferLibVersion");
    library = open_library();
    CHECK(vt_library_version(library) / 100 == vt_headers_version() / 100);
    printf("  opened version %d with headers of %d\n", vt_library_version(library), vt_headers_version());

    char zeros[4096] = {0};
    refuses(library, "an empty plan", zeros, 0);
    refuses(library, "a plan of one byte", zeros, 1);
    refuses(library, "a plan of zeros", zeros, sizeof(zeros));
    refuses(library, "an ONNX for a plan", encoder_onnx.bytes, encoder_onnx.size);

    builds(library, "encoder.onnx", encoder_onnx, encoder_outputs, 2);
    builds(library, "head.onnx", head_onnx, head_outputs, 1);
    vt_build build = build_of(encoder_onnx, features_only, 1, VT_PRECISION_FP16_FLAG);
    vt_blob *plan = NULL;
    EXPECT(vt_build_plan(library, &build, &plan, NULL, fresh_error()), VT_UNSUPPORTED, "FP16 flag");
    const char *const wrong[1] = {"nonesuch"};
    build = build_of(encoder_onnx, wrong, 1, VT_PRECISION_AS_TYPED);
    EXPECT(vt_build_plan(library, &build, &plan, NULL, fresh_error()), VT_NETWORK, "nonesuch", "features", "map");
    printf("  %s\n", last_error.message);
    build = build_of(encoder_onnx, features_only, 1, VT_PRECISION_AS_TYPED);
    build.onnx_bytes = 99;
    EXPECT(vt_build_plan(library, &build, &plan, NULL, fresh_error()), VT_PARSE, "99 bytes");
    printf("  %s\n", last_error.message);
    file_bytes unknown = patched(encoder_onnx, "Relu", "Rely", 4);
    build = build_of(unknown, features_only, 1, VT_PRECISION_AS_TYPED);
    EXPECT(vt_build_plan(library, &build, &plan, NULL, fresh_error()), VT_PARSE, "Rely");
    printf("  %s\n", last_error.message);
    free(unknown.bytes);
    file_bytes closed = patched(encoder_onnx, "\x0a\x03\x12\x01N", "\x0a\x03\x08\x81\0", 5); /* the batch N becomes 1 */
    build = build_of(closed, features_only, 1, VT_PRECISION_AS_TYPED);
    EXPECT(vt_build_plan(library, &build, &plan, NULL, fresh_error()), VT_NETWORK, "'view'", "[1,8,8,6]");
    printf("  %s\n", last_error.message);
    free(closed.bytes);
    vt_close(library);
}
