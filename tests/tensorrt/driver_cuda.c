/* The few functions of libcuda.so that the driver wants; what fails here ends the run. */
#include "driver.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long address;

static int (*init)(unsigned);
static int (*retain)(void **, int);
static int (*set_current)(void *);
static int (*allocate)(address *, size_t);
static int (*release)(address);
static int (*up)(address, const void *, size_t);
static int (*down)(void *, address, size_t);
static int (*new_stream)(void **, unsigned);
static int (*wait)(void *);
static int (*end_stream)(void *);
static int (*begin)(void *, int);
static int (*end)(void *, void **);
static int (*instantiate)(void **, void *, unsigned long long);
static int (*launch)(void *, void *);
static int (*free_exec)(void *);
static int (*free_graph)(void *);
static int64_t (*count)(const char *);

static void *library;

static void need(int error, const char *what) {
    if (error != 0) {
        printf("FAILED: %s of the driver itself: CUDA error %d\n", what, error);
        exit(2);
    }
}

static void look_up(void *function, const char *name) {
    void *symbol = dlsym(library, name);
    if (symbol == NULL) {
        printf("FAILED: libcuda.so has no %s\n", name);
        exit(2);
    }
    memcpy(function, &symbol, sizeof(symbol));
}

void cuda_start(void) {
    char path[600];
    snprintf(path, sizeof(path), "%s", paths.nvinfer);
    char *slash = strrchr(path, '/');
    snprintf(slash + 1, sizeof(path) - (size_t)(slash + 1 - path), "libcuda.so");
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        printf("FAILED: %s\n", dlerror());
        exit(2);
    }
    look_up(&init, "cuInit");
    look_up(&retain, "cuDevicePrimaryCtxRetain");
    look_up(&set_current, "cuCtxSetCurrent");
    look_up(&allocate, "cuMemAlloc_v2");
    look_up(&release, "cuMemFree_v2");
    look_up(&up, "cuMemcpyHtoD_v2");
    look_up(&down, "cuMemcpyDtoH_v2");
    look_up(&new_stream, "cuStreamCreate");
    look_up(&wait, "cuStreamSynchronize");
    look_up(&end_stream, "cuStreamDestroy_v2");
    look_up(&begin, "cuStreamBeginCapture_v2");
    look_up(&end, "cuStreamEndCapture");
    look_up(&instantiate, "cuGraphInstantiateWithFlags");
    look_up(&launch, "cuGraphLaunch");
    look_up(&free_exec, "cuGraphExecDestroy");
    look_up(&free_graph, "cuGraphDestroy");
    look_up(&count, "vedette_cuda_count");
    void *context = NULL;
    need(init(0), "cuInit");
    need(retain(&context, 0), "cuDevicePrimaryCtxRetain");
    need(set_current(context), "cuCtxSetCurrent");
}

address device_new(size_t bytes) {
    address at = 0;
    need(allocate(&at, bytes), "cuMemAlloc");
    return at;
}
void device_free(address at) { need(release(at), "cuMemFree"); }
void to_device(address at, const void *from, size_t bytes) { need(up(at, from, bytes), "cuMemcpyHtoD"); }
void from_device(void *to, address at, size_t bytes) { need(down(to, at, bytes), "cuMemcpyDtoH"); }
void *stream_new(void) {
    void *stream = NULL;
    need(new_stream(&stream, 1), "cuStreamCreate");
    return stream;
}
void stream_wait(void *stream) { need(wait(stream), "cuStreamSynchronize"); }
void stream_free(void *stream) { need(end_stream(stream), "cuStreamDestroy"); }
void capture_begin(void *stream) { need(begin(stream, 1), "cuStreamBeginCapture"); }
void *capture_end(void *stream) {
    void *graph = NULL, *exec = NULL;
    need(end(stream, &graph), "cuStreamEndCapture");
    need(instantiate(&exec, graph, 0), "cuGraphInstantiate");
    need(free_graph(graph), "cuGraphDestroy");
    return exec;
}
void graph_launch(void *graph, void *stream) { need(launch(graph, stream), "cuGraphLaunch"); }
void graph_free(void *graph) { need(free_exec(graph), "cuGraphExecDestroy"); }
long long cuda_count(const char *what) { return count(what); }
