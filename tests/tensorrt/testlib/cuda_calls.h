// The few driver functions that the nvinfer double calls, in whatever libcuda.so the process has.
#pragma once

#include <cstddef>

namespace cuda
{

struct Calls
{
    int (*init)(unsigned) = nullptr;
    int (*device_name)(char*, int, int) = nullptr;
    int (*current)(void**) = nullptr;
    int (*set_current)(void*) = nullptr;
    int (*retain)(void**, int) = nullptr;
    int (*allocate)(unsigned long long*, size_t) = nullptr;
    int (*release)(unsigned long long) = nullptr;
    int (*range)(unsigned long long*, size_t*, unsigned long long) = nullptr;
    int (*host_function)(void* stream, void (*)(void*), void*) = nullptr;
    int (*capturing)(void* stream, int*) = nullptr;
    int (*error_string)(int, char const**) = nullptr;
};

// Initialises the driver; false, and `why`, where there is no driver or no GPU.
bool start(char const** why);
// After that.
Calls const& calls();
char const* words(int error);
// The runtime API, which TensorRT uses, has a context on every thread; the driver's may be current or not.
void ensure_context();

} // namespace cuda
