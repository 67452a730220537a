/* Runs the shim through its interface and nothing else, against the doubles or NVIDIA's own TensorRT-RTX.
 *
 *   driver doubles <nvinfer> <parser> <models>   all of the interface, every error of it, every fault of the doubles
 *   driver real <nvinfer> <parser> <models>      what can be had of NVIDIA's library without a GPU
 *   driver gate <nvinfer>                        the library is of another version and must be refused
 *   driver cycles <nvinfer> <parser> <models>    twenty times made and destroyed, for a leak checker
 *
 * Exit code 0: all checks hold. */
#define _GNU_SOURCE
#include "driver.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

int checks, failures;
vt_error last_error;
library_paths paths;
file_bytes encoder_onnx, head_onnx;
const char *const encoder_outputs[2] = {"features", "map"};
const char *const features_only[1] = {"features"};
const char *const head_outputs[1] = {"probabilities"};
static const char *models;

void check_that(bool holds, const char *what, const char *file, int line) {
    ++checks;
    if (!holds) {
        ++failures;
        printf("FAILED %s:%d: %s\n", file, line, what);
    }
}

vt_error *fresh_error(void) {
    last_error.code = -1;
    last_error.message[0] = '\0';
    return &last_error;
}

void expect_code(int32_t code, int32_t wanted, const char *what, const char *file, int line, const char *const *words) {
    bool right = code == wanted && (wanted == VT_OK || (last_error.code == code && last_error.message[0] != '\0'));
    for (; right && wanted != VT_OK && *words != NULL; ++words)
        right = strcasestr(last_error.message, *words) != NULL;
    ++checks;
    if (!right) {
        ++failures;
        printf("FAILED %s:%d: %s\n  gave %d, expected %d%s%s\n  message: %s\n", file, line, what, code, wanted,
            *words != NULL && code == wanted ? ", with the words: " : "", *words != NULL && code == wanted ? *words : "",
            last_error.message);
    }
}

/* The log: everything, in one text. */
static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
static char log_buffer[1 << 20];
static size_t log_used;
static int log_errors;

void keep_log(void *user, int32_t severity, const char *message) {
    (void)user;
    pthread_mutex_lock(&log_mutex);
    log_errors += severity <= VT_SEVERITY_ERROR;
    size_t length = strlen(message);
    if (log_used + length + 2 < sizeof(log_buffer)) {
        memcpy(log_buffer + log_used, message, length);
        log_used += length;
        log_buffer[log_used++] = '\n';
        log_buffer[log_used] = '\0';
    }
    pthread_mutex_unlock(&log_mutex);
}

bool logged(const char *words) { return strstr(log_buffer, words) != NULL; }
int logged_errors(void) { return log_errors; }
const char *log_text(void) { return log_buffer; }
void forget_log(void) {
    log_used = 0;
    log_buffer[0] = '\0';
    log_errors = 0;
}

file_bytes read_file(const char *name) {
    char path[1024];
    snprintf(path, sizeof(path), "%s/%s", models, name);
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(2);
    }
    file_bytes bytes = {malloc(1 << 20), 0};
    bytes.size = fread(bytes.bytes, 1, 1 << 20, file);
    fclose(file);
    return bytes;
}

file_bytes patched(file_bytes file, const void *from, const void *to, size_t size) {
    file_bytes copy = {malloc(file.size), file.size};
    memcpy(copy.bytes, file.bytes, file.size);
    void *found = memmem(copy.bytes, copy.size, from, size);
    if (found == NULL) {
        printf("FAILED: the fixture is not what the driver takes it for\n");
        exit(2);
    }
    memcpy(found, to, size);
    return copy;
}

vt_library *open_library(void) {
    vt_library *library = NULL;
    EXPECT(vt_open(paths.nvinfer, paths.parser, keep_log, NULL, &library, fresh_error()), VT_OK, "");
    return library;
}

vt_build build_of(file_bytes onnx, const char *const *outputs, uint32_t count, int32_t precision) {
    vt_build build = {0};
    build.onnx = onnx.bytes;
    build.onnx_bytes = onnx.size;
    build.outputs = outputs;
    build.output_count = count;
    build.min_batch = 1;
    build.opt_batch = 2;
    build.max_batch = 4;
    build.precision = precision;
    build.dla_core = -1;
    build.optimisation_level = -1;
    return build;
}

/* The library of another version is refused before anything in it is called but getInferLibVersion(). */
static void run_gate(void) {
    vt_library *library = (vt_library *)1;
    EXPECT(vt_open(paths.nvinfer, NULL, keep_log, NULL, &library, fresh_error()), VT_VERSION, "version", "headers");
    CHECK(library == NULL);
    printf("  refused with: %s\n", last_error.message);
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *what = count > 2 ? arguments[1] : "";
    if (count > 2)
        snprintf(paths.nvinfer, sizeof(paths.nvinfer), "%s", arguments[2]);
    if (count > 4) {
        snprintf(paths.parser, sizeof(paths.parser), "%s", arguments[3]);
        models = arguments[4];
        encoder_onnx = read_file("encoder.onnx");
        head_onnx = read_file("head.onnx");
    }
    CHECK(vt_abi() == VT_ABI);
    paths.rtx = strcmp(vt_flavour(), "TensorRT-RTX") == 0;
    paths.weak = !paths.rtx && vt_headers_version() < 110000;
    if (count == 5 && strcmp(what, "doubles") == 0) {
        cuda_start();
        run_opening();
        run_doubles();
        run_faults();
        run_cycles(20);
    } else if (count == 5 && strcmp(what, "real") == 0) {
        run_real();
    } else if (count == 5 && strcmp(what, "cycles") == 0) {
        run_cycles(20);
    } else if (count == 3 && strcmp(what, "gate") == 0) {
        run_gate();
    } else {
        fprintf(stderr, "usage: see driver.c\n");
        return 2;
    }
    free(encoder_onnx.bytes);
    free(head_onnx.bytes);
    printf("%s %d: %d checks, %d failed\n", vt_flavour(), vt_headers_version(), checks, failures);
    return failures == 0 ? 0 : 1;
}
