// What differs between TensorRT's header families, all of it: nothing outside this file asks for a version.
//
// How each line is known. "compiled": the family's headers are fetched and compiled by tests/tensorrt/check.sh, which
// also runs the shim on a library of that layout: TensorRT 10.16, 11.0, 11.1, 11.4, TensorRT-RTX 1.3 to 1.7. "read":
// NVIDIA's header, or NVIDIA's words in a later one, were read and not compiled, since 8.5, 8.6 and 10.3 come only with
// JetPack: of 8.5 NvInferRuntime.h; of 10.1, 10.7 and 10.9 NvInferImpl.h, between which 10.3 lies; of 8.6 the release
// notes and programs. The branches for them are compiled with a sketch of what was read (tests/tensorrt/sketch).
#ifndef VEDETTE_TRT_FAMILY_H
#define VEDETTE_TRT_FAMILY_H

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include "vedette_trt.h"

#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

// TensorRT-RTX numbers its versions anew and says so in its version header (compiled: 1.3 and later).
#ifdef TRT_MAJOR_RTX
#define VT_RTX 1
#else
#define VT_RTX 0
#endif

// TensorRT's version with two digits for the minor; TensorRT-RTX's as the TensorRT that it was cut from: RTX 1.5 gave
// up what TensorRT 11.0 gave up, 1.3 and 1.4 still have it (compiled).
#if !VT_RTX
#define VT_LEVEL (NV_TENSORRT_MAJOR * 100 + NV_TENSORRT_MINOR)
#elif NV_TENSORRT_MAJOR == 1 && NV_TENSORRT_MINOR < 5
#define VT_LEVEL 1013
#else
#define VT_LEVEL 1100
#endif

#if VT_LEVEL < 805
#error "TensorRT 8.5 is the oldest that binds tensors by name (setTensorAddress, enqueueV3)"
#endif

namespace family
{

constexpr bool kRtx = VT_RTX != 0;

// Up to 9 a version is major * 1000 + minor * 100 + patch, 8502 (read: 8.4, 8.6); from 10 on, and in every
// TensorRT-RTX, major * 10000 + minor * 100 + patch (compiled). The two ranges do not meet.
constexpr int32_t kVersion = NV_TENSORRT_VERSION;

inline int32_t major_of(int32_t version) { return version < 10000 ? version / 1000 : version / 10000; }
inline int32_t minor_of(int32_t version) { return version < 10000 ? version / 100 % 10 : version / 100 % 100; }
inline int32_t patch_of(int32_t version) { return version % 100; }

// ILogger becomes a versioned interface, with another virtual table, in 11.0 and RTX 1.5 (compiled). Deriving from it
// and overriding log() does for both.

// A dimension is an int32_t up to 9 (read: 8.4, 8.6) and an int64_t from 10 on (compiled).
using Extent = std::remove_reference<decltype(nvinfer1::Dims::d[0])>::type;
inline bool fits(int64_t extent)
{
    return extent >= 0 && extent <= static_cast<int64_t>(std::numeric_limits<Extent>::max());
}

// Weak typing, and with it the FP16 flag: until 10.16, deprecated from 10.12 on; 11.0 has neither (compiled). RTX 1.3
// and 1.4 declare the flag and do not honour it ("Unsupported in TensorRT-RTX", their NvInfer.h).
constexpr bool kWeakTypes = !kRtx && VT_LEVEL < 1100;
// Strongly typed networks: from 10.0 on (read: 10.x; compiled: 10.16 and later). 9 had them, but is on no Jetson.
constexpr bool kStrongTypes = VT_LEVEL >= 1000;
// DLA: the classes stay in RTX, whose GPUs have none.
constexpr bool kDla = !kRtx;
// The builder's optimisation level: from 8.6 on (read: its release notes).
constexpr bool kOptimisationLevel = VT_LEVEL >= 806;
// RTX compiles its kernels where they run and has no timing cache: "no-ops" (RTX 1.5's NvInfer.h; compiled).
constexpr bool kTimingCache = !kRtx;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

// The flags of a network. Explicit batch is a flag up to 9, ignored in 10, and gone from 11.0 on, where its bit is
// that of strong typing (compiled): a bit that must not be set by number.
inline nvinfer1::NetworkDefinitionCreationFlags network_flags(bool strongly_typed)
{
    nvinfer1::NetworkDefinitionCreationFlags flags = 0;
#if VT_LEVEL < 1100
    flags |= 1U << static_cast<uint32_t>(nvinfer1::NetworkDefinitionCreationFlag::kEXPLICIT_BATCH);
#endif
#if VT_LEVEL >= 1000
    if (strongly_typed)
    {
        flags |= 1U << static_cast<uint32_t>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
    }
#else
    static_cast<void>(strongly_typed);
#endif
    return flags;
}

// Only called where kWeakTypes.
inline void allow_fp16(nvinfer1::IBuilderConfig& config)
{
#if VT_LEVEL < 1100
    config.setFlag(nvinfer1::BuilderFlag::kFP16);
#else
    static_cast<void>(config);
#endif
}

inline void set_optimisation_level(nvinfer1::IBuilderConfig& config, int32_t level)
{
#if VT_LEVEL >= 806
    config.setBuilderOptimizationLevel(level);
#else
    static_cast<void>(config);
    static_cast<void>(level);
#endif
}

// Two contexts on one profile: 8.6 has it as a preview, 10 as the rule, 8.5 not at all (read: createExecutionContext() in
// 8.5's NvInferRuntime.h, getOptimizationProfile() in 10.16's, PreviewFeature in 8.6's release notes).
#if VT_LEVEL >= 806
constexpr bool kSharesProfiles = true;
#else
constexpr bool kSharesProfiles = false;
#endif

inline void share_profiles(nvinfer1::IBuilderConfig& config)
{
#if VT_LEVEL >= 806 && VT_LEVEL < 1000
    config.setPreviewFeature(nvinfer1::PreviewFeature::kPROFILE_SHARING_0806, true);
#else
    static_cast<void>(config);
#endif
}

// Types of tensors. UINT8: from 8.5 on. INT64: from 10.0 on (read; compiled: 10.16 and later).
inline int32_t type_of(nvinfer1::DataType type)
{
    switch (type)
    {
    case nvinfer1::DataType::kFLOAT: return VT_TYPE_FLOAT;
    case nvinfer1::DataType::kHALF: return VT_TYPE_HALF;
    case nvinfer1::DataType::kINT8: return VT_TYPE_INT8;
    case nvinfer1::DataType::kINT32: return VT_TYPE_INT32;
    case nvinfer1::DataType::kBOOL: return VT_TYPE_BOOL;
    case nvinfer1::DataType::kUINT8: return VT_TYPE_UINT8;
#if VT_LEVEL >= 1000
    case nvinfer1::DataType::kINT64: return VT_TYPE_INT64;
#endif
    default: return VT_TYPE_OTHER;
    }
}

// The device memory of a context: a size_t up to 10.0; 10.1 added the V2 (read: its comment), 11.0 and RTX 1.3 have
// only that (compiled).
inline uint64_t device_bytes(nvinfer1::ICudaEngine const& engine)
{
#if VT_LEVEL >= 1001
    int64_t const bytes = engine.getDeviceMemorySizeV2();
    return bytes > 0 ? static_cast<uint64_t>(bytes) : 0;
#else
    return engine.getDeviceMemorySize();
#endif
}

// A context that works in the caller's memory: by a strategy from 10.0 on (compiled: 10.16 and later), by a method of its
// own before (read: in 10.16's header, which says since when it is superseded; so the memory's V2).
inline nvinfer1::IExecutionContext* context_without_memory(nvinfer1::ICudaEngine& engine)
{
#if VT_LEVEL >= 1000
    return engine.createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED);
#else
    return engine.createExecutionContextWithoutDeviceMemory();
#endif
}

inline void set_memory(nvinfer1::IExecutionContext& context, void* memory, uint64_t bytes)
{
#if VT_LEVEL >= 1001
    context.setDeviceMemoryV2(memory, static_cast<int64_t>(bytes));
#else
    static_cast<void>(bytes);
    context.setDeviceMemory(memory);
#endif
}

// The node that a parser's error is about. Its name and operator: from 10.1 on (read; compiled: 10.16 and later). Before,
// its number only.
inline std::string node_of(nvonnxparser::IParserError const& error)
{
    std::string node;
#if VT_LEVEL >= 1001
    char const* const name = error.nodeName();
    char const* const type = error.nodeOperator();
    if (name != nullptr && *name != '\0')
    {
        node += std::string("node '") + name + "'";
    }
    if (type != nullptr && *type != '\0')
    {
        node += std::string(node.empty() ? "" : " ") + "(operator " + type + ")";
    }
#endif
    if (node.empty() && error.node() >= 0)
    {
        node = "node " + std::to_string(error.node());
    }
    return node;
}

// Progress and cancelling: IProgressMonitor, from 10.0 on (read; compiled: 10.16 and later). Where there is none the
// shim calls once, before the build, without a phase.
#if VT_LEVEL >= 1000
constexpr bool kProgress = true;
using Monitor = nvinfer1::IProgressMonitor;
inline void set_monitor(nvinfer1::IBuilderConfig& config, Monitor* monitor) { config.setProgressMonitor(monitor); }
#else
constexpr bool kProgress = false;
class Monitor
{
public:
    virtual ~Monitor() = default;
    virtual void phaseStart(char const* phase, char const* parent, int32_t steps) noexcept = 0;
    virtual bool stepComplete(char const* phase, int32_t step) noexcept = 0;
    virtual void phaseFinish(char const* phase) noexcept = 0;
};
inline void set_monitor(nvinfer1::IBuilderConfig&, Monitor*) {}
#endif

// The timing cache. RTX marks all of it deprecated (compiled), hence here.
using TimingCache = nvinfer1::ITimingCache;
inline TimingCache* create_timing_cache(nvinfer1::IBuilderConfig const& config, void const* bytes, size_t size)
{
    return config.createTimingCache(bytes, size);
}
inline bool set_timing_cache(nvinfer1::IBuilderConfig& config, TimingCache const& cache)
{
    return config.setTimingCache(cache, false);
}
inline TimingCache const* timing_cache(nvinfer1::IBuilderConfig const& config)
{
    return config.getTimingCache();
}

#pragma GCC diagnostic pop

} // namespace family

#endif
