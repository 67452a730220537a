/* A sketch of the TensorRT families whose headers come only with JetPack: 8.5, 8.6, 10.3 (SKETCH=805, 806, 1003).
 *
 * Not NVIDIA's headers, and good for nothing but this: that the shim's branches for those families compile. It declares
 * what the shim calls, with the types that were read: 8.5 in its NvInferRuntime.h; 8.6 in its release notes and in
 * programs written for it; 10.3 between the NvInferImpl.h of 10.1 and of 10.7, which agree on all of it, and in the
 * NvOnnxParser.h of that time. What was not read for a family is declared as its neighbour has it.
 */
#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>

#define NV_TENSORRT_MAJOR (SKETCH / 100)
#define NV_TENSORRT_MINOR (SKETCH % 100)
#define NV_TENSORRT_PATCH 1
#if SKETCH < 1000
#define NV_TENSORRT_VERSION ((NV_TENSORRT_MAJOR * 1000) + (NV_TENSORRT_MINOR * 100) + NV_TENSORRT_PATCH)
#else
#define NV_TENSORRT_VERSION (NV_TENSORRT_MAJOR * 10000L + NV_TENSORRT_MINOR * 100L + NV_TENSORRT_PATCH * 1L)
#endif

namespace nvinfer1
{

struct Dims
{
    int32_t nbDims;
#if SKETCH < 1000
    int32_t d[8];
#else
    int64_t d[8];
#endif
};

enum class DataType : int32_t {
    kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5,
#if SKETCH >= 806
    kFP8 = 6,
#endif
#if SKETCH >= 1000
    kBF16 = 7, kINT64 = 8,
#endif
};
enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class OptProfileSelector : int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };
enum class DeviceType : int32_t { kGPU, kDLA };
enum class MemoryPoolType : int32_t { kWORKSPACE = 0 };
enum class BuilderFlag : int32_t { kFP16 = 0, kGPU_FALLBACK = 3, kTF32 = 6 };
enum class PreviewFeature : int32_t {
#if SKETCH == 805
    kFASTER_DYNAMIC_SHAPES_0805 = 0,
#else
    kPROFILE_SHARING_0806 = 0,
#endif
};
using NetworkDefinitionCreationFlags = uint32_t;
enum class NetworkDefinitionCreationFlag : int32_t {
    kEXPLICIT_BATCH = 0,
#if SKETCH >= 1000
    kSTRONGLY_TYPED = 1,
#endif
};

class ILogger
{
public:
    enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, char const* words) noexcept = 0;
    virtual ~ILogger() = default;
};

struct IHostMemory
{
    virtual ~IHostMemory() noexcept = default;
    void* data() const noexcept;
    std::size_t size() const noexcept;
};

#if SKETCH >= 1000
enum class ExecutionContextAllocationStrategy : int32_t { kSTATIC = 0, kON_PROFILE_CHANGE = 1, kUSER_MANAGED = 2 };
#endif

struct IExecutionContext
{
    virtual ~IExecutionContext() noexcept = default;
    int32_t getOptimizationProfile() const noexcept;
    bool setOptimizationProfileAsync(int32_t index, cudaStream_t stream) noexcept; /* read in an NvInferImpl.h of 8.x */
    bool setInputShape(char const* name, Dims const& dims) noexcept;
    bool setTensorAddress(char const* name, void* data) noexcept;
    bool enqueueV3(cudaStream_t stream) noexcept;
    void setDeviceMemory(void* memory) noexcept; /* read in 10.16's header: superseded from 10.1 on */
#if SKETCH >= 1001
    void setDeviceMemoryV2(void* memory, int64_t size) noexcept;
#endif
};

struct ICudaEngine
{
    virtual ~ICudaEngine() noexcept = default;
#if SKETCH >= 1000
    IExecutionContext* createExecutionContext(
        ExecutionContextAllocationStrategy strategy = ExecutionContextAllocationStrategy::kSTATIC) noexcept;
#else
    IExecutionContext* createExecutionContext() noexcept;
    IExecutionContext* createExecutionContextWithoutDeviceMemory() noexcept; /* likewise: superseded from 10.0 on */
#endif
    std::size_t getDeviceMemorySize() const noexcept;
#if SKETCH >= 1001
    int64_t getDeviceMemorySizeV2() const noexcept;
#endif
    int32_t getNbIOTensors() const noexcept;
    char const* getIOTensorName(int32_t index) const noexcept;
    Dims getTensorShape(char const* name) const noexcept;
    DataType getTensorDataType(char const* name) const noexcept;
    TensorIOMode getTensorIOMode(char const* name) const noexcept;
    int32_t getNbOptimizationProfiles() const noexcept;
    Dims getProfileShape(char const* name, int32_t profile, OptProfileSelector which) const noexcept;
};

struct IRuntime
{
    virtual ~IRuntime() noexcept = default;
    ICudaEngine* deserializeCudaEngine(void const* bytes, std::size_t size) noexcept;
    void setDLACore(int32_t core) noexcept; /* likewise */
};

struct ITensor
{
    char const* getName() const noexcept;
    Dims getDimensions() const noexcept;

protected:
    virtual ~ITensor() noexcept = default;
};

struct INetworkDefinition
{
    virtual ~INetworkDefinition() noexcept = default;
    int32_t getNbInputs() const noexcept;
    ITensor* getInput(int32_t index) const noexcept;
    int32_t getNbOutputs() const noexcept;
    ITensor* getOutput(int32_t index) const noexcept;
    void unmarkOutput(ITensor& tensor) noexcept;
};

class IOptimizationProfile
{
public:
    bool setDimensions(char const* name, OptProfileSelector which, Dims dims) noexcept; /* const& from 10 on */
    bool isValid() const noexcept;

protected:
    virtual ~IOptimizationProfile() noexcept = default;
};

struct ITimingCache
{
    virtual ~ITimingCache() noexcept = default;
    IHostMemory* serialize() const noexcept;
};

#if SKETCH >= 1000
class IProgressMonitor
{
public:
    virtual ~IProgressMonitor() noexcept = default;
    virtual void phaseStart(char const* phase, char const* parent, int32_t steps) noexcept = 0;
    virtual bool stepComplete(char const* phase, int32_t step) noexcept = 0;
    virtual void phaseFinish(char const* phase) noexcept = 0;
};
#endif

struct IBuilderConfig
{
    virtual ~IBuilderConfig() noexcept = default;
    void setFlag(BuilderFlag flag) noexcept;
    void clearFlag(BuilderFlag flag) noexcept;
    void setMemoryPoolLimit(MemoryPoolType pool, std::size_t size) noexcept;
    void setDefaultDeviceType(DeviceType type) noexcept;
    void setDLACore(int32_t core) noexcept;
    void setPreviewFeature(PreviewFeature feature, bool enable) noexcept;
    int32_t addOptimizationProfile(IOptimizationProfile const* profile) noexcept;
    ITimingCache* createTimingCache(void const* bytes, std::size_t size) const noexcept;
    bool setTimingCache(ITimingCache const& cache, bool ignore) noexcept;
    ITimingCache const* getTimingCache() const noexcept;
#if SKETCH >= 806
    void setBuilderOptimizationLevel(int32_t level) noexcept;
#endif
#if SKETCH >= 1000
    void setProgressMonitor(IProgressMonitor* monitor) noexcept;
#endif
};

struct IBuilder
{
    virtual ~IBuilder() noexcept = default;
    int32_t getNbDLACores() const noexcept;
    IBuilderConfig* createBuilderConfig() noexcept;
    INetworkDefinition* createNetworkV2(NetworkDefinitionCreationFlags flags) noexcept;
    IOptimizationProfile* createOptimizationProfile() noexcept;
    IHostMemory* buildSerializedNetwork(INetworkDefinition& network, IBuilderConfig& config) noexcept;
};

} // namespace nvinfer1
