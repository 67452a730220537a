#include "cuda_calls.h"

#include <cstring>
#include <dlfcn.h>

namespace cuda
{

namespace
{

Calls s_calls;

template <typename F>
bool look_up(void* library, F& function, char const* name)
{
    void* const symbol = dlsym(library, name);
    std::memcpy(&function, &symbol, sizeof(symbol));
    return symbol != nullptr;
}

bool load()
{
    void* library = dlopen("libcuda.so", RTLD_NOW | RTLD_LOCAL);
    library = library != nullptr ? library : dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    return library != nullptr && look_up(library, s_calls.init, "cuInit")
        && look_up(library, s_calls.device_name, "cuDeviceGetName") && look_up(library, s_calls.current, "cuCtxGetCurrent")
        && look_up(library, s_calls.set_current, "cuCtxSetCurrent")
        && look_up(library, s_calls.retain, "cuDevicePrimaryCtxRetain")
        && look_up(library, s_calls.allocate, "cuMemAlloc_v2") && look_up(library, s_calls.release, "cuMemFree_v2")
        && look_up(library, s_calls.range, "cuMemGetAddressRange_v2")
        && look_up(library, s_calls.host_function, "cuLaunchHostFunc")
        && look_up(library, s_calls.capturing, "cuStreamIsCapturing")
        && look_up(library, s_calls.error_string, "cuGetErrorString");
}

} // namespace

char const* words(int error)
{
    char const* text = nullptr;
    return s_calls.error_string != nullptr && s_calls.error_string(error, &text) == 0 && text != nullptr ? text : "?";
}

bool start(char const** why)
{
    static bool const loaded = load();
    if (!loaded)
    {
        *why = "libcuda.so cannot be opened";
        return false;
    }
    int const error = s_calls.init(0);
    *why = error != 0 ? words(error) : "";
    return error == 0;
}

void ensure_context()
{
    void* context = nullptr;
    if (s_calls.current(&context) == 0 && context == nullptr && s_calls.retain(&context, 0) == 0)
    {
        s_calls.set_current(context);
    }
}

Calls const& calls()
{
    return s_calls;
}

} // namespace cuda
