// The library, engines and contexts of vedette_trt.h. Plans are built in build.cpp.
//
// The shim is all of *.cpp here, as one shared library. No NVIDIA library is linked; the shim stays mapped (nodelete),
// since NVIDIA's may hold on to its logger:
//   g++ -std=c++14 -O2 -fPIC -shared -pthread -fvisibility=hidden -isystem <headers> *.cpp -o libvedette_trt.so
//       -Wl,--version-script=exports.map -Wl,-z,nodelete -ldl
#include "library.h"

#include <cstring>
#include <dlfcn.h>

#define VT_EXPORT extern "C" __attribute__((visibility("default")))

namespace
{

struct Closes
{
    void operator()(void* handle) const { dlclose(handle); }
};
using Handle = std::unique_ptr<void, Closes>;

Handle open_library(std::string const& path)
{
    Handle handle(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL));
    if (!handle)
    {
        char const* const why = dlerror();
        refuse(VT_LIBRARY, "opening " + path + ": " + (why == nullptr ? "no reason given" : why));
    }
    return handle;
}

template <typename Function>
void look_up(Function& function, void* handle, std::string const& path, char const* name)
{
    void* const symbol = dlsym(handle, name);
    if (symbol == nullptr)
    {
        refuse(VT_SYMBOL, path + " has no " + name + ": it is not what it was taken for");
    }
    static_assert(sizeof(function) == sizeof(symbol), "POSIX: functions and objects have pointers of one size");
    std::memcpy(&function, &symbol, sizeof(symbol));
}

std::string spell(int32_t version)
{
    return std::to_string(family::major_of(version)) + "." + std::to_string(family::minor_of(version)) + "."
        + std::to_string(family::patch_of(version));
}

// The one thing that must be right before any virtual call: the classes' layout is the headers'.
void compare_versions(std::string const& path, int32_t version)
{
    if (family::major_of(version) != family::major_of(family::kVersion)
        || family::minor_of(version) != family::minor_of(family::kVersion))
    {
        refuse(VT_VERSION, path + " is version " + spell(version) + " and this shim was compiled for "
                + vt_flavour() + " " + spell(family::kVersion)
                + ": compile a shim with the headers of this library, or take the one that fits");
    }
}

// Once the version fits, the library stays mapped for the process's life, whatever dlclose() is asked: it leaves
// threads and thread-local destructors behind, whose code must not go.
void keep(std::string const& path)
{
    void* const again = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (again != nullptr)
    {
        dlclose(again);
    }
}

void open_parser(vt_library& library, std::string const& path)
{
    Handle handle = open_library(path);
    int (*version)() = nullptr;
    look_up(version, handle.get(), path, "getNvOnnxParserVersion");
    look_up(library.create_parser, handle.get(), path, "createNvOnnxParser_INTERNAL");
    int const is = version();
    if (is / 100 != NV_ONNX_PARSER_VERSION / 100)
    {
        refuse(VT_VERSION, path + " is an ONNX parser of version " + std::to_string(is) + " and this shim's headers are of "
                + std::to_string(NV_ONNX_PARSER_VERSION) + ": it does not belong to " + library.path);
    }
    keep(path);
    library.parser = handle.release();
}

} // namespace

vt_library::~vt_library()
{
    runtime.reset();
    if (parser != nullptr)
    {
        dlclose(parser);
    }
    if (nvinfer != nullptr)
    {
        dlclose(nvinfer);
    }
    if (logger != nullptr)
    {
        logger->detach();
    }
}

VT_EXPORT int32_t vt_abi(void)
{
    return VT_ABI;
}

VT_EXPORT int32_t vt_headers_version(void)
{
    return family::kVersion;
}

VT_EXPORT const char* vt_flavour(void)
{
    return family::kRtx ? "TensorRT-RTX" : "TensorRT";
}

VT_EXPORT int32_t vt_open(
    const char* library, const char* parser, vt_log_fn log, void* user, vt_library** out, vt_error* error)
{
    return guarded(nullptr, error, [&](Call&) {
        if (library == nullptr || *library == '\0' || out == nullptr)
        {
            refuse(VT_ARGUMENT, "vt_open: the library's path and the place for the result are needed");
        }
        *out = nullptr;
        std::unique_ptr<vt_library> opened(new vt_library());
        opened->path = library;
        Handle handle = open_library(opened->path);
        int32_t (*version)() = nullptr;
        look_up(version, handle.get(), opened->path, "getInferLibVersion");
        opened->version = version();
        compare_versions(opened->path, opened->version);
        look_up(opened->create_runtime, handle.get(), opened->path, "createInferRuntime_INTERNAL");
        look_up(opened->create_builder, handle.get(), opened->path, "createInferBuilder_INTERNAL");
        keep(opened->path);
        opened->nvinfer = handle.release();
        if (parser != nullptr)
        {
            open_parser(*opened, parser);
        }
        opened->logger = Logger::attach(log, user);
        *out = opened.release();
    });
}

VT_EXPORT void vt_close(vt_library* library)
{
    delete library;
}

VT_EXPORT int32_t vt_library_version(const vt_library* library)
{
    return library == nullptr ? 0 : library->version;
}

VT_EXPORT const void* vt_blob_data(const vt_blob* blob)
{
    return blob == nullptr ? nullptr : blob->memory->data();
}

VT_EXPORT uint64_t vt_blob_bytes(const vt_blob* blob)
{
    return blob == nullptr ? 0 : blob->memory->size();
}

VT_EXPORT void vt_blob_free(vt_blob* blob)
{
    delete blob;
}
