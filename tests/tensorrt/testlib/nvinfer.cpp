// The nvinfer double: entry points, plans, runtime, engine and context. The builder is in builder.cpp.
//
// It has the virtual tables of the family whose headers it is compiled with, really computes (onnx.h), and insists on
// what TensorRT insists on: with an error logged where TensorRT answers with one, with abort() where TensorRT or the
// GPU would answer with a crash.
#include "cuda_calls.h"
#include "double.h"

#include <cmath>
#include <limits>

void unexpected(char const* method)
{
    misuse(std::string("unexpected call of ") + method);
}

int32_t library_version()
{
    char const* const other = std::getenv("VEDETTE_TRT_VERSION");
    return other != nullptr && *other != '\0' ? std::atoi(other) : static_cast<int32_t>(NV_TENSORRT_VERSION);
}

std::string gpu_name()
{
    char name[256] = "";
    return cuda::calls().device_name(name, sizeof(name), 0) == 0 ? name : "";
}

nvinfer1::DataType data_type(int type)
{
    switch (type)
    {
    case onnx::FLOAT: return nvinfer1::DataType::kFLOAT;
    case onnx::FLOAT16: return nvinfer1::DataType::kHALF;
    case onnx::UINT8: return nvinfer1::DataType::kUINT8;
    case onnx::INT8: return nvinfer1::DataType::kINT8;
    case onnx::INT32: return nvinfer1::DataType::kINT32;
    default: return nvinfer1::DataType::kINT64;
    }
}

namespace
{

// One inference as it was enqueued: shapes and addresses are those of that moment, for a graph for ever.
struct Work
{
    std::shared_ptr<onnx::Graph const> graph;
    std::vector<std::string> outputs;
    bool half = false;
    faults::Kind fault = faults::Kind::none;
    std::map<std::string, onnx::Shape> shapes;
    std::map<std::string, void*> addresses;
    unsigned long long scratch = 0; // what the context works in
    size_t scratch_bytes = 0;
    bool once = true; // not captured: gone when it has run

    void run() const;
};

std::mutex s_works_mutex;
std::set<Work*> s_works;

void store(onnx::Tensor const& tensor, void* to)
{
    for (size_t i = 0; i < tensor.values.size(); ++i)
    {
        float const value = tensor.values[i];
        switch (tensor.type)
        {
        case onnx::FLOAT16: static_cast<uint16_t*>(to)[i] = onnx::to_half(value); break;
        case onnx::UINT8: static_cast<uint8_t*>(to)[i] = static_cast<uint8_t>(value); break;
        default: static_cast<float*>(to)[i] = value; break;
        }
    }
}

onnx::Tensor load(int type, onnx::Shape const& shape, void const* from)
{
    onnx::Tensor tensor;
    tensor.type = type;
    tensor.shape = shape;
    tensor.values.resize(static_cast<size_t>(onnx::count(shape)));
    for (size_t i = 0; i < tensor.values.size(); ++i)
    {
        switch (type)
        {
        case onnx::FLOAT16: tensor.values[i] = onnx::from_half(static_cast<uint16_t const*>(from)[i]); break;
        case onnx::UINT8: tensor.values[i] = static_cast<uint8_t const*>(from)[i]; break;
        default: tensor.values[i] = static_cast<float const*>(from)[i]; break;
        }
    }
    return tensor;
}

// Whether [at, at + needed) is device memory.
bool is_device_memory(unsigned long long at, size_t needed)
{
    unsigned long long base = 0;
    size_t size = 0;
    return cuda::calls().range(&base, &size, at) == 0 && at + needed <= base + size;
}

void Work::run() const
{
    if (!is_device_memory(scratch, scratch_bytes))
    {
        misuse("a context's device memory was freed before its work ran");
    }
    std::memset(reinterpret_cast<void*>(scratch), 0xA5, scratch_bytes);
    onnx::Values inputs;
    for (onnx::Value const& input : graph->inputs)
    {
        auto const address = addresses.find(input.name);
        if (address != addresses.end())
        {
            inputs[input.name] = load(input.type, shapes.at(input.name), address->second);
        }
    }
    try
    {
        for (auto& output : onnx::run(*graph, std::move(inputs), outputs, half))
        {
            for (float& value : output.second.values)
            {
                value = fault == faults::Kind::nan ? std::numeric_limits<float>::quiet_NaN()
                    : fault == faults::Kind::wrong ? value + 0.05F
                                                   : value;
            }
            store(output.second, addresses.at(output.first));
        }
    }
    catch (onnx::Bad const& bad)
    {
        misuse(std::string("the interpreter failed on the stream: ") + bad.what());
    }
}

void on_stream(void* data)
{
    Work* const work = static_cast<Work*>(data);
    {
        std::lock_guard<std::mutex> lock(s_works_mutex);
        if (s_works.count(work) == 0)
        {
            misuse("work of a context that is destroyed runs on a stream");
        }
    }
    work->run();
    if (work->once)
    {
        std::lock_guard<std::mutex> lock(s_works_mutex);
        s_works.erase(work);
        delete work;
    }
}

class Engine;

class Context final : public nvinfer1::IExecutionContext, public nvinfer1::StubVExecutionContext
{
public:
    // `scratch` 0: the caller sets it.
    Context(Engine& engine, unsigned long long scratch);
    ~Context() noexcept override;

    int32_t getOptimizationProfile() const noexcept override { return m_profile; }
    bool setOptimizationProfileAsync(int32_t profile, cudaStream_t) noexcept override;
    bool setInputShape(char const* name, nvinfer1::Dims const& dims) noexcept override;
    bool setTensorAddress(char const* name, void* data) noexcept override;
    bool enqueueV3(cudaStream_t stream) noexcept override;
    void setDeviceMemoryV2(void* memory, int64_t size) noexcept override;

private:
    bool complete(std::map<std::string, onnx::Shape>& shapes) const;

    // As TensorRT has it: 0 of the first context of an engine, of the others none until it is set.
    int32_t m_profile;
    Engine& m_engine;
    unsigned long long const m_own;
    unsigned long long m_scratch;
    std::map<std::string, onnx::Shape> m_shapes;
    std::map<std::string, void*> m_addresses;
    std::vector<Work*> m_captured;
};

class Engine final : public nvinfer1::ICudaEngine, public nvinfer1::StubVCudaEngine
{
public:
    Engine(Log log_, Plan plan_, std::shared_ptr<Children> runtime)
        : log(log_)
        , plan(std::move(plan_))
        , m_runtime(std::move(runtime))
    {
        mImpl = this;
        graph = std::make_shared<onnx::Graph const>(onnx::read(plan.onnx.data(), plan.onnx.size()));
        output_shapes = onnx::shapes(*graph);
        for (onnx::Value const& input : graph->inputs)
        {
            if (plan.batches.count(input.name) != 0)
            {
                tensors.push_back(input);
            }
        }
        inputs = tensors.size();
        for (onnx::Value const& output : graph->outputs)
        {
            for (std::string const& wanted : plan.outputs)
            {
                if (wanted == output.name)
                {
                    tensors.push_back(output);
                    tensors.back().shape = output_shapes.at(wanted);
                }
            }
        }
        ++m_runtime->alive;
    }
    ~Engine() noexcept override
    {
        contexts.check("an engine", "contexts");
        --m_runtime->alive;
    }

    onnx::Value const* find(char const* name) const
    {
        for (onnx::Value const& tensor : tensors)
        {
            if (name != nullptr && tensor.name == name)
            {
                return &tensor;
            }
        }
        log.error(std::string("IO tensor ") + (name == nullptr ? "(null)" : name) + " is not of this engine");
        return nullptr;
    }
    bool is_input(onnx::Value const& tensor) const { return &tensor < tensors.data() + inputs; }

    int32_t getNbIOTensors() const noexcept override { return static_cast<int32_t>(tensors.size()); }
    char const* getIOTensorName(int32_t index) const noexcept override
    {
        return tensors.at(static_cast<size_t>(index)).name.c_str();
    }
    nvinfer1::Dims getTensorShape(char const* name) const noexcept override
    {
        onnx::Value const* const tensor = find(name);
        return tensor == nullptr ? nvinfer1::Dims{-1, {}} : dims_of(tensor->shape);
    }
    nvinfer1::DataType getTensorDataType(char const* name) const noexcept override
    {
        onnx::Value const* const tensor = find(name);
        return tensor == nullptr ? nvinfer1::DataType::kFLOAT : data_type(tensor->type);
    }
    nvinfer1::TensorIOMode getTensorIOMode(char const* name) const noexcept override
    {
        onnx::Value const* const tensor = find(name);
        return tensor == nullptr ? nvinfer1::TensorIOMode::kNONE
            : is_input(*tensor)  ? nvinfer1::TensorIOMode::kINPUT
                                 : nvinfer1::TensorIOMode::kOUTPUT;
    }
    int32_t getNbOptimizationProfiles() const noexcept override { return 1; }
    nvinfer1::Dims getProfileShape(
        char const* name, int32_t profile, nvinfer1::OptProfileSelector which) const noexcept override
    {
        onnx::Value const* const tensor = find(name);
        if (tensor == nullptr || !is_input(*tensor) || profile != 0)
        {
            return nvinfer1::Dims{-1, {}};
        }
        onnx::Shape shape = tensor->shape;
        shape[0] = plan.batches.at(tensor->name).at(static_cast<size_t>(which));
        return dims_of(shape);
    }
    int64_t getDeviceMemorySizeV2() const noexcept override { return 65536; }
    nvinfer1::IExecutionContext* createExecutionContext(
        nvinfer1::ExecutionContextAllocationStrategy strategy) noexcept override
    {
        if (strategy == nvinfer1::ExecutionContextAllocationStrategy::kON_PROFILE_CHANGE)
        {
            unexpected("createExecutionContext with a strategy");
        }
        if (log.fails("CudaEngine::createExecutionContext"))
        {
            return nullptr;
        }
        if (strategy == nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED)
        {
            return new Context(*this, 0);
        }
        cuda::ensure_context();
        unsigned long long scratch = 0;
        int const error = cuda::calls().allocate(&scratch, static_cast<size_t>(getDeviceMemorySizeV2()));
        if (error != 0)
        {
            log.error(std::string("[executionContext] Error Code 1: Cuda Runtime (") + cuda::words(error) + ")");
            return nullptr;
        }
        return new Context(*this, scratch);
    }

    Log const log;
    Plan const plan;
    std::shared_ptr<onnx::Graph const> graph;
    std::map<std::string, onnx::Shape> output_shapes;
    std::vector<onnx::Value> tensors; // inputs first
    size_t inputs = 0;
    Children contexts;

private:
    std::shared_ptr<Children> const m_runtime;
};

Context::Context(Engine& engine, unsigned long long scratch)
    : m_profile(engine.contexts.alive == 0 ? 0 : -1)
    , m_engine(engine)
    , m_own(scratch)
    , m_scratch(scratch)
{
    mImpl = this;
    ++m_engine.contexts.alive;
}

bool Context::setOptimizationProfileAsync(int32_t profile, cudaStream_t) noexcept
{
    // As 8.5 has it, whose headers are not here: a profile in use is nobody else's.
    bool const taken = std::getenv("VEDETTE_TRT_ONE_CONTEXT") != nullptr && m_engine.contexts.alive > 1;
    if (profile != 0 || taken || m_engine.log.fails("ExecutionContext::setOptimizationProfileAsync"))
    {
        m_engine.log.error("Profile " + std::to_string(profile) + " cannot be set.");
        return false;
    }
    m_profile = profile;
    return true;
}

Context::~Context() noexcept
{
    if (m_own != 0)
    {
        cuda::calls().release(m_own);
    }
    {
        std::lock_guard<std::mutex> lock(s_works_mutex);
        for (Work* work : m_captured)
        {
            s_works.erase(work);
            delete work;
        }
    }
    --m_engine.contexts.alive;
}

void Context::setDeviceMemoryV2(void* memory, int64_t size) noexcept
{
    auto const at = reinterpret_cast<unsigned long long>(memory);
    if (m_own != 0 || at % 256 != 0 || size < m_engine.getDeviceMemorySizeV2()
        || !is_device_memory(at, static_cast<size_t>(size)))
    {
        misuse("setDeviceMemoryV2 of " + std::to_string(size) + " bytes at " + std::to_string(at)
            + ": of a context that has its own, too few, not aligned, or not device memory");
    }
    m_scratch = at;
}

bool Context::setInputShape(char const* name, nvinfer1::Dims const& dims) noexcept
{
    if (m_engine.log.fails("ExecutionContext::setInputShape"))
    {
        return false;
    }
    if (m_profile < 0)
    {
        m_engine.log.error("IExecutionContext::setInputShape: Error Code 3: API Usage Error (no profile is selected)");
        return false;
    }
    onnx::Value const* const tensor = m_engine.find(name);
    if (tensor == nullptr || !m_engine.is_input(*tensor))
    {
        m_engine.log.error("IExecutionContext::setInputShape: Error Code 3: API Usage Error (not an input tensor)");
        return false;
    }
    onnx::Shape const shape = shape_of(dims);
    auto const& batches = m_engine.plan.batches.at(tensor->name);
    bool fits = shape.size() == tensor->shape.size() && shape[0] >= batches[0] && shape[0] <= batches[2];
    for (size_t i = 1; fits && i < shape.size(); ++i)
    {
        fits = shape[i] == tensor->shape[i];
    }
    if (!fits)
    {
        m_engine.log.error("IExecutionContext::setInputShape: Error Code 3: API Usage Error (Parameter check failed, "
                           "condition: engineDims.d[i] == dims.d[i] or within the profile. Supplied "
            + spell(shape) + " for input " + name + " of " + spell(tensor->shape) + ", profile minimum "
            + std::to_string(batches[0]) + ", maximum " + std::to_string(batches[2]) + ")");
        return false;
    }
    m_shapes[name] = shape;
    return true;
}

bool Context::setTensorAddress(char const* name, void* data) noexcept
{
    if (m_engine.log.fails("ExecutionContext::setTensorAddress"))
    {
        return false;
    }
    if (m_engine.find(name) == nullptr)
    {
        return false;
    }
    if (reinterpret_cast<uintptr_t>(data) % 256 != 0)
    {
        misuse(std::string("the address of ") + name + " is not aligned to 256 bytes");
    }
    m_addresses[name] = data;
    return true;
}

// Everything is set, and there is memory for it. Fills in the outputs' shapes.
bool Context::complete(std::map<std::string, onnx::Shape>& shapes) const
{
    shapes = m_shapes;
    int64_t batch = 0;
    for (onnx::Value const& tensor : m_engine.tensors)
    {
        if (m_engine.is_input(tensor))
        {
            if (shapes.count(tensor.name) == 0)
            {
                m_engine.log.error("IExecutionContext::enqueueV3: Error Code 3: API Usage Error (input " + tensor.name
                    + " has no shape)");
                return false;
            }
            batch = shapes.at(tensor.name)[0];
        }
        else
        {
            onnx::Shape shape = tensor.shape;
            for (int64_t& extent : shape)
            {
                extent = extent < 0 ? batch : extent;
            }
            shapes[tensor.name] = shape;
        }
    }
    for (onnx::Value const& tensor : m_engine.tensors)
    {
        auto const address = m_addresses.find(tensor.name);
        if (address == m_addresses.end())
        {
            m_engine.log.error("IExecutionContext::enqueueV3: Error Code 3: API Usage Error (Neither address or allocator "
                               "is set for tensor "
                + tensor.name + ")");
            return false;
        }
        auto const at = reinterpret_cast<unsigned long long>(address->second);
        size_t const needed = static_cast<size_t>(onnx::count(shapes.at(tensor.name))) * onnx::bytes_of(tensor.type);
        if (!is_device_memory(at, needed))
        {
            misuse("the tensor " + tensor.name + " of " + std::to_string(needed) + " bytes lies at "
                + std::to_string(at) + ", where there is no or too little device memory");
        }
    }
    return true;
}

bool Context::enqueueV3(cudaStream_t stream) noexcept
{
    faults::Kind const fault = m_engine.log.at("ExecutionContext::enqueueV3");
    if (faults::fails(fault))
    {
        return false;
    }
    if (m_scratch == 0)
    {
        m_engine.log.error("IExecutionContext::enqueueV3: Error Code 3: API Usage Error (no device memory is set)");
        return false;
    }
    cuda::ensure_context();
    std::unique_ptr<Work> work(new Work());
    if (!complete(work->shapes))
    {
        return false;
    }
    work->graph = m_engine.graph;
    work->outputs = m_engine.plan.outputs;
    work->half = m_engine.plan.half;
    work->fault = fault;
    work->addresses = m_addresses;
    work->scratch = m_scratch;
    work->scratch_bytes = static_cast<size_t>(m_engine.getDeviceMemorySizeV2());
    int capturing = 0;
    cuda::calls().capturing(stream, &capturing);
    work->once = capturing == 0;
    std::lock_guard<std::mutex> lock(s_works_mutex);
    int const error = cuda::calls().host_function(stream, on_stream, work.get());
    if (error != 0)
    {
        m_engine.log.error(std::string("IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (") + cuda::words(error) + ")");
        return false;
    }
    s_works.insert(work.get());
    if (!work->once)
    {
        m_captured.push_back(work.get());
    }
    work.release();
    return true;
}

class Runtime final : public nvinfer1::IRuntime, public nvinfer1::StubVRuntime
{
public:
    explicit Runtime(Log log)
        : m_log(log)
        , m_engines(std::make_shared<Children>())
    {
        mImpl = this;
    }
    ~Runtime() noexcept override { m_engines->check("a runtime", "engines"); }

    void setDLACore(int32_t core) noexcept override { m_dla_core = core; }
    nvinfer1::ICudaEngine* deserializeCudaEngine(void const* bytes, std::size_t size) noexcept override
    {
        if (m_log.fails("Runtime::deserializeCudaEngine"))
        {
            return nullptr;
        }
        try
        {
            Plan plan = Plan::read(bytes, size);
            // TensorRT would take another core, too; an agent that forgets which one it wanted is found here.
            if (plan.dla_core != m_dla_core)
            {
                misuse("a plan for DLA core " + std::to_string(plan.dla_core) + " is loaded with core "
                    + std::to_string(m_dla_core) + " chosen");
            }
            if (m_dla_core >= 0)
            {
                m_log.given("run on DLA core " + std::to_string(m_dla_core));
            }
            return new Engine(m_log, std::move(plan), m_engines);
        }
        catch (std::exception const& exception)
        {
            m_log.error(std::string("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (") + exception.what() + ")");
            return nullptr;
        }
    }
#if !defined(TRT_MAJOR_RTX) && NV_TENSORRT_MAJOR < 11
    nvinfer1::ICudaEngine* deserializeCudaEngine(nvinfer1::IStreamReader&) noexcept override
    {
        unexpected("deserializeCudaEngine of a stream");
    }
#elif defined(TRT_MAJOR_RTX) && NV_TENSORRT_MINOR < 5
    nvinfer1::ICudaEngine* deserializeCudaEngine(nvinfer1::IStreamReader&) noexcept override
    {
        unexpected("deserializeCudaEngine of a stream");
    }
#endif

private:
    Log const m_log;
    int32_t m_dla_core = -1;
    std::shared_ptr<Children> const m_engines;
};

uint64_t checksum(char const* bytes, size_t size)
{
    uint64_t sum = 0xCBF29CE484222325; // FNV-1a
    for (size_t i = 0; i < size; ++i)
    {
        sum = (sum ^ static_cast<unsigned char>(bytes[i])) * 0x100000001B3;
    }
    return sum;
}

void put(std::string& to, int64_t number)
{
    to.append(reinterpret_cast<char const*>(&number), sizeof(number));
}

void put(std::string& to, std::string const& text)
{
    put(to, static_cast<int64_t>(text.size()));
    to += text;
}

class Reader
{
public:
    Reader(char const* at, size_t size)
        : m_at(at)
        , m_left(size)
    {
    }
    int64_t number()
    {
        int64_t number = 0;
        std::memcpy(&number, take(sizeof(number)), sizeof(number));
        return number;
    }
    std::string text()
    {
        size_t const size = static_cast<size_t>(number());
        return std::string(take(size), size);
    }
    char const* take(size_t size)
    {
        if (size > m_left)
        {
            throw std::runtime_error("Serialization assertion sizeRead + size <= totalSize failed. Plan is truncated");
        }
        char const* const at = m_at;
        m_at += size;
        m_left -= size;
        return at;
    }

private:
    char const* m_at;
    size_t m_left;
};

constexpr char kMagic[] = "VDBLPLAN";

} // namespace

std::string Plan::write() const
{
    std::string bytes(kMagic, 8);
    put(bytes, version);
    put(bytes, gpu);
    put(bytes, half ? 1 : 0);
    put(bytes, dla_core);
    put(bytes, static_cast<int64_t>(outputs.size()));
    for (std::string const& output : outputs)
    {
        put(bytes, output);
    }
    put(bytes, static_cast<int64_t>(batches.size()));
    for (auto const& input : batches)
    {
        put(bytes, input.first);
        for (int64_t batch : input.second)
        {
            put(bytes, batch);
        }
    }
    put(bytes, onnx);
    put(bytes, static_cast<int64_t>(checksum(bytes.data(), bytes.size())));
    return bytes;
}

Plan Plan::read(void const* data, size_t size)
{
    char const* const bytes = static_cast<char const*>(data);
    if (size < 16 || std::memcmp(bytes, kMagic, 8) != 0)
    {
        throw std::runtime_error("Serialization assertion stdMagicTag == magicTag failed. Magic tag does not match");
    }
    Reader reader(bytes + 8, size - 8);
    Plan plan;
    plan.version = static_cast<int32_t>(reader.number());
    if (plan.version != library_version())
    {
        throw std::runtime_error("Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed. Version tag does "
                                 "not match. Note: Current Version: "
            + std::to_string(library_version()) + ", Serialized Engine Version: " + std::to_string(plan.version));
    }
    uint64_t sum = 0;
    std::memcpy(&sum, bytes + size - 8, 8);
    if (sum != checksum(bytes, size - 8))
    {
        throw std::runtime_error("Serialization assertion checksum failed. Plan is truncated or damaged");
    }
    plan.gpu = reader.text();
    if (plan.gpu != gpu_name())
    {
        throw std::runtime_error("Platform specific tag mismatch detected. TensorRT plan files are only supported on the "
                                 "target runtime platform they were created on. Created on "
            + plan.gpu + ", this is " + gpu_name());
    }
    plan.half = reader.number() != 0;
    plan.dla_core = static_cast<int32_t>(reader.number());
    for (int64_t left = reader.number(); left > 0; --left)
    {
        plan.outputs.push_back(reader.text());
    }
    for (int64_t left = reader.number(); left > 0; --left)
    {
        auto& batches = plan.batches[reader.text()];
        for (int i = 0; i < 3; ++i)
        {
            batches.push_back(reader.number());
        }
    }
    plan.onnx = reader.text();
    return plan;
}

extern "C" __attribute__((visibility("default"))) int32_t getInferLibVersion() noexcept
{
    return library_version();
}

extern "C" __attribute__((visibility("default"))) void* createInferRuntime_INTERNAL(void* logger, int32_t version) noexcept
{
    Log const log(static_cast<nvinfer1::ILogger*>(logger));
    if (version / 100 != NV_TENSORRT_VERSION / 100)
    {
        misuse("a runtime is made with headers of " + std::to_string(version));
    }
    if (log.fails("createInferRuntime"))
    {
        return nullptr;
    }
    char const* why = nullptr;
    if (!cuda::start(&why))
    {
        log.error(std::string("createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure with error: ")
            + why + ". Please check your CUDA installation)");
        return nullptr;
    }
    return static_cast<nvinfer1::IRuntime*>(new Runtime(log));
}
