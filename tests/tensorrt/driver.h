/* What the parts of the driver share. It knows the shim by vedette_trt.h alone, and the GPU by a few functions of
 * libcuda.so. */
#pragma once

#include "vedette_trt.h"

#include <stdbool.h>
#include <stdio.h>

/* ---- checks (driver.c) */

/* Counts; a failure is printed with its line and what the shim said, and does not end the run. */
#define CHECK(condition) check_that((condition), #condition, __FILE__, __LINE__)
void check_that(bool holds, const char *what, const char *file, int line);
/* `code` came back; unless VT_OK, with a message that holds each of the words ("" any). */
#define EXPECT(call, wanted, ...) expect_code((call), (wanted), #call, __FILE__, __LINE__, (const char *const[]){__VA_ARGS__, NULL})
void expect_code(int32_t code, int32_t wanted, const char *what, const char *file, int line, const char *const *words);
/* What EXPECT looks at. */
extern vt_error last_error;
/* Clears it, so that what is found in it is of this call. */
vt_error *fresh_error(void);
extern int checks, failures;

/* ---- the log (driver.c) */

void keep_log(void *user, int32_t severity, const char *message);
bool logged(const char *words);
int logged_errors(void);
void forget_log(void);
const char *log_text(void);

/* ---- the library under test (driver.c) */

typedef struct {
    char nvinfer[512], parser[512];
    bool rtx, weak; /* by vt_flavour() and vt_headers_version(): weak typing and the FP16 flag are there */
} library_paths;
extern library_paths paths;

typedef struct {
    unsigned char *bytes;
    size_t size;
} file_bytes;
file_bytes read_file(const char *name); /* of the models' folder; ends the run if there is none */
/* Replaces the first `from` by `to`, of the same size, in a copy. */
file_bytes patched(file_bytes file, const void *from, const void *to, size_t size);
extern file_bytes encoder_onnx, head_onnx;

vt_library *open_library(void);
vt_build build_of(file_bytes onnx, const char *const *outputs, uint32_t count, int32_t precision);
extern const char *const encoder_outputs[2];
extern const char *const features_only[1];
extern const char *const head_outputs[1];
/* The precision that a plain test takes: FP32 exists everywhere. */
enum { PLAIN = VT_PRECISION_FP32 };

/* ---- the GPU (driver_cuda.c) */

void cuda_start(void);
unsigned long long device_new(size_t bytes);
void device_free(unsigned long long at);
void to_device(unsigned long long at, const void *from, size_t bytes);
void from_device(void *to, unsigned long long at, size_t bytes);
void *stream_new(void);
void stream_wait(void *stream);
void stream_free(void *stream);
/* Begins a capture; ends it and gives back a graph that can be launched; launches; frees. */
void capture_begin(void *stream);
void *capture_end(void *stream);
void graph_launch(void *graph, void *stream);
void graph_free(void *graph);
long long cuda_count(const char *what);

/* ---- the parts */

void run_opening(void);      /* driver_double.c: everything that a working library can be asked */
void run_doubles(void);
void run_faults(void);       /* driver_faults.c: every function of the doubles fails once */
void run_real(void);         /* driver_real.c: NVIDIA's own library, without a GPU */
void run_cycles(int count);
