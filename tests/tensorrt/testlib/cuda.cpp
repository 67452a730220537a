// The CUDA double: device, context and memory. Streams, events and graphs are in cuda_streams.cpp.
//
// A libcuda.so over host memory, for the functions that the agent's crate (cudarc) calls, and the nvinfer double. It is
// lazy where CUDA is asynchronous: what is queued runs when somebody waits, so that a synchronisation that is missing
// gives wrong numbers every time and not now and then. What a GPU would answer with an illegal address is the end of
// the process, with a line on stderr.
//
// Environment: VEDETTE_CUDA_NONE=1 no device; VEDETTE_TRT_GPU its name; VEDETTE_CUDA_MEMORY its bytes;
// VEDETTE_CUDA_VERSION the driver's version; VEDETTE_CUDA_POOLS=1 has memory pools; VEDETTE_CUDA_REPORT a file that gets
// the counts at exit; faults as in faults.h.
#include "cuda_double.h"
#include "faults.h"

#include <algorithm>

int64_t count_of(std::string const& what);

namespace
{

int s_primary; // its address is the context's handle
thread_local void* t_context = nullptr;

char const* environment(char const* name, char const* otherwise)
{
    char const* const value = std::getenv(name);
    return value == nullptr || *value == '\0' ? otherwise : value;
}

size_t total_bytes()
{
    return std::strtoull(environment("VEDETTE_CUDA_MEMORY", "8589934592"), nullptr, 10);
}

// The allocation that holds [at, at + size), or the end of the process.
void check_device(Address at, size_t size, char const* function)
{
    State& s = state();
    auto next = s.device.upper_bound(at);
    if (next != s.device.begin())
    {
        auto const& allocation = *--next;
        if (at + size <= allocation.first + allocation.second)
        {
            return;
        }
    }
    misuse(std::string(function) + " of " + std::to_string(size) + " bytes at " + std::to_string(at)
        + ", which is not (or no longer) device memory of that size");
}

bool is_pinned(void const* at, size_t size)
{
    State& s = state();
    auto next = s.pinned.upper_bound(reinterpret_cast<uintptr_t>(at));
    if (next == s.pinned.begin())
    {
        return false;
    }
    auto const& allocation = *--next;
    return reinterpret_cast<uintptr_t>(at) + size <= allocation.first + allocation.second;
}

int allocate(Address* out, size_t size)
{
    State& s = state();
    if (out == nullptr || size == 0)
    {
        return INVALID_VALUE;
    }
    if (s.used + size > total_bytes())
    {
        return OUT_OF_MEMORY;
    }
    void* memory = nullptr;
    if (posix_memalign(&memory, 512, size) != 0)
    {
        return OUT_OF_MEMORY;
    }
    std::memset(memory, 0xCD, size); // what was never written is seen to be so
    *out = reinterpret_cast<Address>(memory);
    s.device[*out] = size;
    s.used += size;
    ++s.counts["allocations_made"];
    return SUCCESS;
}

int release(Address at)
{
    State& s = state();
    auto const found = s.device.find(at);
    if (found == s.device.end())
    {
        misuse("cuMemFree of " + std::to_string(at) + ", which is not device memory");
    }
    s.used -= found->second;
    std::free(reinterpret_cast<void*>(at));
    s.device.erase(found);
    return SUCCESS;
}

// Queues a copy between device and host. Host memory that is not pinned is read at once and written before the call
// returns, as CUDA does it, and counted.
int copy_host(void* to, void const* from, size_t size, bool to_device, void* handle, char const* function)
{
    Lock lock(state().mutex);
    auto const stream = find_stream(handle);
    if (!stream)
    {
        return INVALID_HANDLE;
    }
    if (size == 0)
    {
        return SUCCESS;
    }
    Address const device = reinterpret_cast<Address>(to_device ? to : from);
    void const* const host = to_device ? from : to;
    check_device(device, size, function);
    bool const pinned = is_pinned(host, size);
    bool const capturing = stream->capture != nullptr;
    state().counts["unpinned_copies"] += pinned ? 0 : 1;
    std::shared_ptr<std::string> snapshot;
    if (!pinned && to_device && !capturing)
    {
        snapshot = std::make_shared<std::string>(static_cast<char const*>(from), size);
    }
    push(*stream, Op{[=] {
        {
            Lock inside(state().mutex);
            check_device(device, size, function);
            if (pinned && !is_pinned(host, size))
            {
                misuse(std::string(function) + ": its pinned memory was freed before the copy ran");
            }
        }
        std::memcpy(to, snapshot ? snapshot->data() : from, size);
    }, nullptr, nullptr});
    if (!pinned && !to_device && !capturing)
    {
        run(lock, stream, stream->pushed);
    }
    return SUCCESS;
}

int copy_device(Address to, Address from, size_t size, void* handle)
{
    Lock lock(state().mutex);
    auto const stream = find_stream(handle);
    if (!stream)
    {
        return INVALID_HANDLE;
    }
    if (size == 0)
    {
        return SUCCESS;
    }
    check_device(to, size, "cuMemcpyDtoD");
    check_device(from, size, "cuMemcpyDtoD");
    push(*stream, Op{[=] {
        {
            Lock inside(state().mutex);
            check_device(to, size, "cuMemcpyDtoD");
            check_device(from, size, "cuMemcpyDtoD");
        }
        std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<void const*>(from), size);
    }, nullptr, nullptr});
    return SUCCESS;
}

int fill(Address to, unsigned char value, size_t size, void* handle)
{
    Lock lock(state().mutex);
    auto const stream = find_stream(handle);
    if (!stream)
    {
        return INVALID_HANDLE;
    }
    if (size == 0)
    {
        return SUCCESS;
    }
    check_device(to, size, "cuMemsetD8");
    push(*stream, Op{[=] {
        {
            Lock inside(state().mutex);
            check_device(to, size, "cuMemsetD8");
        }
        std::memset(reinterpret_cast<void*>(to), value, size);
    }, nullptr, nullptr});
    return SUCCESS;
}

// A synchronous function: its asynchronous twin on the default stream, and everything waited for.
int then_wait(int queued)
{
    if (queued == SUCCESS)
    {
        Lock lock(state().mutex);
        auto const stream = find_stream(nullptr);
        run(lock, stream, stream->pushed);
    }
    return queued;
}

struct Words
{
    int code;
    char const* name;
    char const* text;
};

constexpr Words kWords[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {CAPTURE_MERGE, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "operation would result in a merge of separate capture sequences"},
    {CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began"},
    {CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
        "dependency created on uncaptured work in another stream"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
        "attempt to terminate a thread-local capture sequence from another thread"},
    {UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

// Where the numbers go when the process ends.
struct Report
{
    ~Report()
    {
        char const* const path = std::getenv("VEDETTE_CUDA_REPORT");
        FILE* const file = path == nullptr ? nullptr : std::fopen(path, "w");
        if (file != nullptr)
        {
            for (char const* what : {"allocations", "bytes", "pinned", "streams", "events", "graphs", "queued",
                     "unpinned_copies", "allocations_made", "graph_launches"})
            {
                std::fprintf(file, "%s %lld\n", what, static_cast<long long>(count_of(what)));
            }
            std::fclose(file);
        }
    }
} s_report;

} // namespace

int64_t count_of(std::string const& what)
{
    State& s = state();
    Lock lock(s.mutex);
    if (what == "queued")
    {
        int64_t queued = 0;
        for (auto const& stream : s.streams)
        {
            queued += static_cast<int64_t>(stream.second->queue.size());
        }
        return queued;
    }
    return what == "allocations" ? static_cast<int64_t>(s.device.size())
        : what == "bytes"        ? static_cast<int64_t>(s.used)
        : what == "pinned"       ? static_cast<int64_t>(s.pinned.size())
        : what == "streams"      ? static_cast<int64_t>(s.streams.size()) - 1 // without the default one
        : what == "events"       ? static_cast<int64_t>(s.events.size())
        : what == "graphs"       ? static_cast<int64_t>(s.graphs.size() + s.execs.size())
                                 : s.counts[what];
}

// For tests: what lives, and what was done. Not of CUDA.
CUDA_API int64_t vedette_cuda_count(char const* what)
{
    return count_of(what);
}

State& state()
{
    static State& s = *[] {
        auto* const fresh = new State();
        fresh->streams[nullptr] = std::make_shared<Stream>();
        return fresh;
    }();
    return s;
}

void misuse(std::string const& what)
{
    std::fprintf(stderr, "cuda double: %s\n", what.c_str());
    std::fflush(stderr);
    std::abort();
}

int enter(char const* function, bool early)
{
    faults::Kind const fault = faults::at(function, [](int, std::string const&) {});
    if (fault == faults::Kind::lost)
    {
        state().lost = true;
    }
    if (state().lost && !early)
    {
        return ILLEGAL_ADDRESS;
    }
    if (faults::fails(fault))
    {
        return fault == faults::Kind::oom ? OUT_OF_MEMORY : UNKNOWN;
    }
    return early || state().initialized ? SUCCESS : NOT_INITIALIZED;
}

int enter_context(char const* function)
{
    int const error = enter(function);
    return error != SUCCESS ? error : t_context == nullptr ? INVALID_CONTEXT : SUCCESS;
}

CUDA_API int cuInit(unsigned)
{
    ENTER_EARLY("cuInit");
    if (std::getenv("VEDETTE_CUDA_NONE") != nullptr)
    {
        return NO_DEVICE;
    }
    state().initialized = true;
    return SUCCESS;
}

CUDA_API int cuDriverGetVersion(int* version)
{
    ENTER_EARLY("cuDriverGetVersion");
    *version = std::atoi(environment("VEDETTE_CUDA_VERSION", "12060"));
    return SUCCESS;
}

CUDA_API int cuGetErrorName(int error, char const** text)
{
    for (Words const& words : kWords)
    {
        if (words.code == error)
        {
            *text = words.name;
            return SUCCESS;
        }
    }
    *text = nullptr;
    return INVALID_VALUE;
}

CUDA_API int cuGetErrorString(int error, char const** text)
{
    for (Words const& words : kWords)
    {
        if (words.code == error)
        {
            *text = words.text;
            return SUCCESS;
        }
    }
    *text = nullptr;
    return INVALID_VALUE;
}

CUDA_API int cuDeviceGetCount(int* count)
{
    ENTER("cuDeviceGetCount");
    *count = 1;
    return SUCCESS;
}

CUDA_API int cuDeviceGet(int* device, int ordinal)
{
    ENTER("cuDeviceGet");
    *device = 0;
    return ordinal == 0 ? SUCCESS : INVALID_DEVICE;
}

CUDA_API int cuDeviceGetName(char* name, int size, int)
{
    ENTER("cuDeviceGetName");
    std::snprintf(name, static_cast<size_t>(std::max(size, 0)), "%s", environment("VEDETTE_TRT_GPU", "Orin (double)"));
    return SUCCESS;
}

CUDA_API int cuDeviceGetUuid(unsigned char* uuid, int)
{
    ENTER("cuDeviceGetUuid");
    std::string const name = environment("VEDETTE_TRT_GPU", "Orin (double)");
    for (size_t i = 0; i < 16; ++i)
    {
        uuid[i] = static_cast<unsigned char>(name[i % name.size()]);
    }
    return SUCCESS;
}

CUDA_API int cuDeviceGetUuid_v2(unsigned char* uuid, int device)
{
    return cuDeviceGetUuid(uuid, device);
}

CUDA_API int cuDeviceTotalMem_v2(size_t* bytes, int)
{
    ENTER("cuDeviceTotalMem_v2");
    *bytes = total_bytes();
    return SUCCESS;
}

// By CUdevice_attribute's numbers; an Orin Nano's values.
CUDA_API int cuDeviceGetAttribute(int* value, int attribute, int)
{
    ENTER("cuDeviceGetAttribute");
    switch (attribute)
    {
    case 1: *value = 1024; break;    // threads a block
    case 10: *value = 32; break;     // warp
    case 13: *value = 625000; break; // kHz
    case 16: *value = 8; break;      // multiprocessors
    case 18: *value = 1; break;      // integrated
    case 31: *value = 1; break;      // concurrent kernels
    case 41: *value = 1; break;      // unified addressing
    case 75: *value = 8; break;      // compute capability 8.7
    case 76: *value = 7; break;
    case 115: *value = std::getenv("VEDETTE_CUDA_POOLS") != nullptr ? 1 : 0; break;
    default: *value = 0; break;
    }
    return SUCCESS;
}

CUDA_API int cuDevicePrimaryCtxRetain(void** context, int)
{
    ENTER("cuDevicePrimaryCtxRetain");
    Lock lock(state().mutex);
    ++state().retained;
    *context = &s_primary;
    return SUCCESS;
}

CUDA_API int cuDevicePrimaryCtxRelease_v2(int)
{
    ENTER("cuDevicePrimaryCtxRelease_v2");
    Lock lock(state().mutex);
    return --state().retained < 0 ? INVALID_CONTEXT : SUCCESS;
}

CUDA_API int cuCtxGetCurrent(void** context)
{
    ENTER("cuCtxGetCurrent");
    *context = t_context;
    return SUCCESS;
}

CUDA_API int cuCtxSetCurrent(void* context)
{
    ENTER("cuCtxSetCurrent");
    if (context != nullptr && context != &s_primary)
    {
        return INVALID_CONTEXT;
    }
    t_context = context;
    return SUCCESS;
}

CUDA_API int cuCtxGetDevice(int* device)
{
    ENTER_CONTEXT("cuCtxGetDevice");
    *device = 0;
    return SUCCESS;
}

CUDA_API int cuMemGetInfo_v2(size_t* free, size_t* total)
{
    ENTER_CONTEXT("cuMemGetInfo_v2");
    Lock lock(state().mutex);
    *total = total_bytes();
    *free = *total - std::min(*total, state().used);
    return SUCCESS;
}

CUDA_API int cuMemAlloc_v2(Address* out, size_t size)
{
    ENTER_CONTEXT("cuMemAlloc_v2");
    Lock lock(state().mutex);
    int const forbidden = forbidden_in_capture();
    return forbidden != SUCCESS ? forbidden : allocate(out, size);
}

// Waits for everything, as CUDA's does.
CUDA_API int cuMemFree_v2(Address at)
{
    ENTER_CONTEXT("cuMemFree_v2");
    Lock lock(state().mutex);
    if (at == 0)
    {
        return SUCCESS;
    }
    int const forbidden = forbidden_in_capture();
    if (forbidden != SUCCESS)
    {
        return forbidden;
    }
    run_all(lock);
    return release(at);
}

CUDA_API int cuMemAllocAsync(Address* out, size_t size, void*)
{
    ENTER_CONTEXT("cuMemAllocAsync");
    Lock lock(state().mutex);
    return allocate(out, size);
}

CUDA_API int cuMemFreeAsync(Address at, void* handle)
{
    ENTER_CONTEXT("cuMemFreeAsync");
    Lock lock(state().mutex);
    auto const stream = find_stream(handle);
    if (!stream)
    {
        return INVALID_HANDLE;
    }
    push(*stream, Op{[at] {
        Lock inside(state().mutex);
        release(at);
    }, nullptr, nullptr});
    return SUCCESS;
}

CUDA_API int cuMemHostAlloc(void** out, size_t size, unsigned)
{
    ENTER_CONTEXT("cuMemHostAlloc");
    Lock lock(state().mutex);
    int const forbidden = forbidden_in_capture();
    if (forbidden != SUCCESS)
    {
        return forbidden;
    }
    if (out == nullptr || size == 0)
    {
        return INVALID_VALUE;
    }
    if (posix_memalign(out, 4096, size) != 0)
    {
        return OUT_OF_MEMORY;
    }
    std::memset(*out, 0xCE, size);
    state().pinned[reinterpret_cast<uintptr_t>(*out)] = size;
    return SUCCESS;
}

CUDA_API int cuMemFreeHost(void* at)
{
    ENTER_CONTEXT("cuMemFreeHost");
    Lock lock(state().mutex);
    int const forbidden = forbidden_in_capture();
    if (forbidden != SUCCESS)
    {
        return forbidden;
    }
    if (state().pinned.erase(reinterpret_cast<uintptr_t>(at)) == 0)
    {
        misuse("cuMemFreeHost of memory that is not pinned");
    }
    std::free(at);
    return SUCCESS;
}

CUDA_API int cuMemGetAddressRange_v2(Address* base, size_t* size, Address at)
{
    ENTER("cuMemGetAddressRange_v2");
    Lock lock(state().mutex);
    auto next = state().device.upper_bound(at);
    if (next == state().device.begin())
    {
        return INVALID_VALUE;
    }
    auto const& allocation = *--next;
    if (at >= allocation.first + allocation.second)
    {
        return INVALID_VALUE;
    }
    *base = allocation.first;
    *size = allocation.second;
    return SUCCESS;
}

CUDA_API int cuMemcpyHtoDAsync_v2(Address to, void const* from, size_t size, void* stream)
{
    ENTER_CONTEXT("cuMemcpyHtoDAsync_v2");
    return copy_host(reinterpret_cast<void*>(to), from, size, true, stream, "cuMemcpyHtoD");
}

CUDA_API int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t size, void* stream)
{
    ENTER_CONTEXT("cuMemcpyDtoHAsync_v2");
    return copy_host(to, reinterpret_cast<void const*>(from), size, false, stream, "cuMemcpyDtoH");
}

CUDA_API int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, void* stream)
{
    ENTER_CONTEXT("cuMemcpyDtoDAsync_v2");
    return copy_device(to, from, size, stream);
}

CUDA_API int cuMemcpyHtoD_v2(Address to, void const* from, size_t size)
{
    ENTER_CONTEXT("cuMemcpyHtoD_v2");
    return then_wait(copy_host(reinterpret_cast<void*>(to), from, size, true, nullptr, "cuMemcpyHtoD"));
}

CUDA_API int cuMemcpyDtoH_v2(void* to, Address from, size_t size)
{
    ENTER_CONTEXT("cuMemcpyDtoH_v2");
    return then_wait(copy_host(to, reinterpret_cast<void const*>(from), size, false, nullptr, "cuMemcpyDtoH"));
}

CUDA_API int cuMemcpyDtoD_v2(Address to, Address from, size_t size)
{
    ENTER_CONTEXT("cuMemcpyDtoD_v2");
    return then_wait(copy_device(to, from, size, nullptr));
}

CUDA_API int cuMemsetD8Async(Address to, unsigned char value, size_t size, void* stream)
{
    ENTER_CONTEXT("cuMemsetD8Async");
    return fill(to, value, size, stream);
}

CUDA_API int cuMemsetD8_v2(Address to, unsigned char value, size_t size)
{
    ENTER_CONTEXT("cuMemsetD8_v2");
    return then_wait(fill(to, value, size, nullptr));
}
