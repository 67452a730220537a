// What the parts of the nvinfer double share.
#pragma once

#include "faults.h"
#include "onnx.h"
#include "stubs.h"

#include <atomic>
#include <memory>
#include <set>

// RTX numbers its versions anew; the two differ here in names and in what a network may be.
#ifdef TRT_MAJOR_RTX
constexpr bool kRtx = true;
#else
constexpr bool kRtx = false;
#endif
// Weak typing, and the flags that go with it: see the shim's family.h.
#if !defined(TRT_MAJOR_RTX) && NV_TENSORRT_MAJOR < 11
#define DOUBLE_WEAK 1
#else
#define DOUBLE_WEAK 0
#endif
// Timing caches do nothing in RTX.
constexpr bool kTimingCache = !kRtx;

// The caller did what TensorRT or CUDA would answer with a crash, or with rubbish: said, and the end.
[[noreturn]] inline void misuse(std::string const& what)
{
    std::fprintf(stderr, "double: %s\n", what.c_str());
    std::fflush(stderr);
    std::abort();
}

using Severity = nvinfer1::ILogger::Severity;

class Log
{
public:
    explicit Log(nvinfer1::ILogger* logger)
        : m_logger(logger)
    {
    }
    void say(Severity severity, std::string const& line) const
    {
        if (m_logger != nullptr)
        {
            m_logger->log(severity, line.c_str());
        }
    }
    void error(std::string const& line) const { say(Severity::kERROR, line); }
    // What the caller asked for that shows in no result.
    void given(std::string const& what) const
    {
        if (std::getenv("VEDETTE_TRT_TRACE") != nullptr)
        {
            say(Severity::kVERBOSE, "given: " + what);
        }
    }
    faults::Kind at(char const* function) const
    {
        return faults::at(function, [this](int severity, std::string const& line) {
            say(static_cast<Severity>(severity), line);
        });
    }
    bool fails(char const* function) const { return faults::fails(at(function)); }

private:
    nvinfer1::ILogger* m_logger;
};

// How many children an object has; they go first.
struct Children
{
    std::atomic<int> alive{0};
    void check(char const* parent, char const* child) const
    {
        if (alive != 0)
        {
            misuse(std::string(parent) + " destroyed while " + std::to_string(alive) + " " + child + " of it live");
        }
    }
};

// What a plan holds.
struct Plan
{
    int32_t version = 0;
    std::string gpu;
    bool half = false;
    int32_t dla_core = -1; // that it was built for; -1: none
    std::vector<std::string> outputs;
    std::map<std::string, std::vector<int64_t>> batches; // of each input: least, usual, most
    std::string onnx;

    std::string write() const;
    // Throws std::runtime_error, in TensorRT's manner.
    static Plan read(void const* bytes, size_t size);
};

// The network as far as the builder goes: the parser fills it. In the builder's library; the parser's library calls it.
extern "C" __attribute__((visibility("default"))) void* double_adopt(nvinfer1::INetworkDefinition* network, void const* onnx, size_t size);
// The parser goes, and with it the weights, which the network held by reference.
extern "C" __attribute__((visibility("default"))) void double_abandon(void* weights);

int32_t library_version();
std::string gpu_name();
nvinfer1::DataType data_type(int onnx_type);

class HostMemory final : public nvinfer1::IHostMemory, public nvinfer1::StubVHostMemory
{
public:
    explicit HostMemory(std::string bytes)
        : m_bytes(std::move(bytes))
    {
        mImpl = this;
    }
    void* data() const noexcept override { return const_cast<char*>(m_bytes.data()); }
    std::size_t size() const noexcept override { return m_bytes.size(); }

private:
    std::string m_bytes;
};

inline nvinfer1::Dims dims_of(onnx::Shape const& shape)
{
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<int32_t>(shape.size());
    for (size_t i = 0; i < shape.size() && i < 8; ++i)
    {
        dims.d[i] = static_cast<std::remove_reference<decltype(dims.d[0])>::type>(shape[i]);
    }
    return dims;
}

inline onnx::Shape shape_of(nvinfer1::Dims const& dims)
{
    return onnx::Shape(dims.d, dims.d + dims.nbDims);
}

inline std::string spell(onnx::Shape const& shape)
{
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); ++i)
    {
        text += (i == 0 ? "" : ",") + std::to_string(shape[i]);
    }
    return text + "]";
}
