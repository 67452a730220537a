// The builder of the nvinfer double: network, configuration, profile, timing cache, and the plan that comes of them.
#include "cuda_calls.h"
#include "double.h"

#include <chrono>
#include <cstring>
#include <thread>

namespace
{

using nvinfer1::BuilderFlag;

// What the parser owns and the network refers to.
struct Weights
{
    std::string onnx;
    bool alive = true;
};

class Tensor final : public nvinfer1::ITensor, public nvinfer1::StubVTensor
{
public:
    explicit Tensor(onnx::Value value)
        : m_value(std::move(value))
    {
        mImpl = this;
    }
    char const* getName() const noexcept override { return m_value.name.c_str(); }
    nvinfer1::Dims getDimensions() const noexcept override { return dims_of(m_value.shape); }

private:
    onnx::Value const m_value;
};

class Network final : public nvinfer1::INetworkDefinition, public nvinfer1::StubVNetworkDefinition
{
public:
    Network(Log log_, bool strong_, std::shared_ptr<Children> builder)
        : log(log_)
        , strong(strong_)
        , m_builder(std::move(builder))
    {
        mImpl = this;
        ++m_builder->alive;
    }
    ~Network() noexcept override { --m_builder->alive; }

    std::shared_ptr<Weights> adopt(std::string onnx)
    {
        weights = std::make_shared<Weights>();
        weights->onnx = std::move(onnx);
        onnx::Graph const graph = onnx::read(weights->onnx.data(), weights->onnx.size());
        auto const shapes = onnx::shapes(graph);
        for (onnx::Value const& input : graph.inputs)
        {
            if (graph.initializers.count(input.name) == 0)
            {
                m_inputs.emplace_back(new Tensor(input));
            }
        }
        for (onnx::Value output : graph.outputs)
        {
            output.shape = shapes.at(output.name);
            m_outputs.emplace_back(new Tensor(output));
        }
        return weights;
    }

    int32_t getNbInputs() const noexcept override { return static_cast<int32_t>(m_inputs.size()); }
    nvinfer1::ITensor* getInput(int32_t i) const noexcept override { return m_inputs.at(static_cast<size_t>(i)).get(); }
    int32_t getNbOutputs() const noexcept override { return static_cast<int32_t>(m_outputs.size()); }
    nvinfer1::ITensor* getOutput(int32_t i) const noexcept override { return m_outputs.at(static_cast<size_t>(i)).get(); }
    void unmarkOutput(nvinfer1::ITensor& tensor) noexcept override
    {
        for (size_t i = 0; i < m_outputs.size(); ++i)
        {
            if (m_outputs[i].get() == &tensor)
            {
                m_unmarked.push_back(std::move(m_outputs[i])); // the tensor stays in the network
                m_outputs.erase(m_outputs.begin() + static_cast<std::ptrdiff_t>(i));
                return;
            }
        }
        misuse("unmarkOutput of a tensor that is no output");
    }

    Log const log;
    bool const strong;
    std::shared_ptr<Weights> weights;

private:
    std::shared_ptr<Children> const m_builder;
    std::vector<std::unique_ptr<Tensor>> m_inputs, m_outputs, m_unmarked;
};

class Profile final : public nvinfer1::IOptimizationProfile, public nvinfer1::StubVOptimizationProfile
{
public:
    explicit Profile(Log log)
        : m_log(log)
    {
        mImpl = this;
    }
    bool setDimensions(
        char const* name, nvinfer1::OptProfileSelector which, nvinfer1::Dims const& dims) noexcept override
    {
        if (m_log.fails("OptimizationProfile::setDimensions"))
        {
            return false;
        }
        shapes[name][static_cast<size_t>(which)] = shape_of(dims);
        return true;
    }
    bool isValid() const noexcept override
    {
        if (m_log.fails("OptimizationProfile::isValid"))
        {
            return false;
        }
        for (auto const& input : shapes)
        {
            if (input.second.size() != 3 || input.second.at(0) > input.second.at(1) || input.second.at(1) > input.second.at(2))
            {
                return false;
            }
        }
        return true;
    }

    std::map<std::string, std::map<size_t, onnx::Shape>> shapes; // by OptProfileSelector: kMIN 0, kOPT 1, kMAX 2

private:
    Log const m_log;
};

// Bytes that say which networks were timed, and where.
class TimingCache final : public nvinfer1::ITimingCache, public nvinfer1::StubVTimingCache
{
public:
    TimingCache(Log log, std::string gpu_, std::string entries_)
        : gpu(std::move(gpu_))
        , entries(std::move(entries_))
        , m_log(log)
    {
        mImpl = this;
    }
    nvinfer1::IHostMemory* serialize() const noexcept override
    {
        return m_log.fails("TimingCache::serialize") ? nullptr : new HostMemory("VDBLTIME" + gpu + '\n' + entries);
    }

    std::string const gpu;
    std::string entries; // one line for each network

private:
    Log const m_log;
};

class Config final : public nvinfer1::IBuilderConfig, public nvinfer1::StubVBuilderConfig
{
public:
    Config(Log log_, std::shared_ptr<Children> builder)
        : log(log_)
        , m_builder(std::move(builder))
    {
        mImpl = this;
        ++m_builder->alive;
    }
    ~Config() noexcept override { --m_builder->alive; }

    void setFlag(BuilderFlag flag) noexcept override
    {
#if DOUBLE_WEAK
        if (flag == BuilderFlag::kFP16)
        {
            half = true;
            return;
        }
#endif
        if (flag != BuilderFlag::kGPU_FALLBACK)
        {
            unexpected("IBuilderConfig::setFlag of a flag that this version does not have");
        }
        fallback = true;
    }
    void clearFlag(BuilderFlag flag) noexcept override
    {
        if (flag != BuilderFlag::kTF32)
        {
            unexpected("IBuilderConfig::clearFlag of another flag than TF32");
        }
        tf32 = false;
    }
    void setMemoryPoolLimit(nvinfer1::MemoryPoolType pool, std::size_t bytes) noexcept override
    {
        log.given("workspace " + std::to_string(bytes) + " bytes");
        if (pool != nvinfer1::MemoryPoolType::kWORKSPACE)
        {
            unexpected("IBuilderConfig::setMemoryPoolLimit of another pool than the workspace");
        }
    }
    void setBuilderOptimizationLevel(int32_t level) noexcept override
    {
        if (level < 0 || level > 5)
        {
            misuse("an optimisation level of " + std::to_string(level));
        }
    }
    void setDefaultDeviceType(nvinfer1::DeviceType type) noexcept override { dla = type == nvinfer1::DeviceType::kDLA; }
    void setDLACore(int32_t core) noexcept override { dla_core = core; }
    void setProgressMonitor(nvinfer1::IProgressMonitor* to) noexcept override { monitor = to; }
    int32_t addOptimizationProfile(nvinfer1::IOptimizationProfile const* profile_) noexcept override
    {
        if (log.fails("BuilderConfig::addOptimizationProfile") || profile_ == nullptr)
        {
            return -1;
        }
        profile = static_cast<Profile const*>(profile_);
        return 0;
    }
    nvinfer1::ITimingCache* createTimingCache(void const* bytes, std::size_t size) const noexcept override
    {
        if (!kTimingCache)
        {
            unexpected("IBuilderConfig::createTimingCache of RTX, which has none");
        }
        if (log.fails("BuilderConfig::createTimingCache"))
        {
            return nullptr;
        }
        if (size == 0)
        {
            return new TimingCache(log, gpu_name(), "");
        }
        std::string const text(static_cast<char const*>(bytes), size);
        size_t const line = text.find('\n');
        if (text.compare(0, 8, "VDBLTIME") != 0 || line == std::string::npos)
        {
            log.error("IBuilderConfig::createTimingCache: Error Code 1: Serialization (Timing cache has a bad header)");
            return nullptr;
        }
        return new TimingCache(log, text.substr(8, line - 8), text.substr(line + 1));
    }
    bool setTimingCache(nvinfer1::ITimingCache const& to, bool ignore) noexcept override
    {
        if (log.fails("BuilderConfig::setTimingCache"))
        {
            return false;
        }
        auto& given = const_cast<TimingCache&>(static_cast<TimingCache const&>(to));
        if (!ignore && given.gpu != gpu_name())
        {
            log.error("IBuilderConfig::setTimingCache: Error Code 3: API Usage Error (the cache is of " + given.gpu
                + ", this is " + gpu_name() + ")");
            return false;
        }
        cache = &given;
        return true;
    }
    nvinfer1::ITimingCache const* getTimingCache() const noexcept override { return cache; }

    Log const log;
    bool half = false, tf32 = true, fallback = false, dla = false;
    int32_t dla_core = -1;
    nvinfer1::IProgressMonitor* monitor = nullptr;
    Profile const* profile = nullptr;
    TimingCache* cache = nullptr;

private:
    std::shared_ptr<Children> const m_builder;
};

class Builder final : public nvinfer1::IBuilder, public nvinfer1::StubVBuilder
{
public:
    explicit Builder(Log log)
        : m_log(log)
        , m_children(std::make_shared<Children>())
    {
        mImpl = this;
    }
    ~Builder() noexcept override { m_children->check("a builder", "networks or configurations"); }

    nvinfer1::INetworkDefinition* createNetworkV2(nvinfer1::NetworkDefinitionCreationFlags flags) noexcept override;
    nvinfer1::IBuilderConfig* createBuilderConfig() noexcept override
    {
        return m_log.fails("Builder::createBuilderConfig") ? nullptr : new Config(m_log, m_children);
    }
    nvinfer1::IOptimizationProfile* createOptimizationProfile() noexcept override
    {
        if (m_log.fails("Builder::createOptimizationProfile"))
        {
            return nullptr;
        }
        m_profiles.emplace_back(new Profile(m_log));
        return m_profiles.back().get();
    }
    int32_t getNbDLACores() const noexcept override
    {
        char const* const cores = std::getenv("VEDETTE_TRT_DLA");
        return cores == nullptr ? 0 : std::atoi(cores);
    }
    nvinfer1::IHostMemory* buildSerializedNetwork(
        nvinfer1::INetworkDefinition& network, nvinfer1::IBuilderConfig& config) noexcept override;

private:
    std::string build(Network const& network, Config const& config, faults::Kind fault);

    Log const m_log;
    std::shared_ptr<Children> const m_children;
    std::vector<std::unique_ptr<Profile>> m_profiles;
};

nvinfer1::INetworkDefinition* Builder::createNetworkV2(nvinfer1::NetworkDefinitionCreationFlags flags) noexcept
{
    if (m_log.fails("Builder::createNetworkV2"))
    {
        return nullptr;
    }
    auto const bit = [](nvinfer1::NetworkDefinitionCreationFlag flag) { return 1U << static_cast<uint32_t>(flag); };
    auto const strong = bit(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#if NV_TENSORRT_MAJOR == 10 || (defined(TRT_MAJOR_RTX) && NV_TENSORRT_MINOR < 5)
    auto const known = strong | bit(nvinfer1::NetworkDefinitionCreationFlag::kEXPLICIT_BATCH);
#else
    auto const known = strong;
#endif
    if ((flags & ~known) != 0)
    {
        misuse("a network with flags that this version does not have: " + std::to_string(flags));
    }
    if (kRtx && (flags & strong) == 0)
    {
        misuse("a network of RTX that is not strongly typed");
    }
    return new Network(m_log, !DOUBLE_WEAK || (flags & strong) != 0, m_children);
}

// Phases of a build, one inside the other, the inner one on a thread of the builder's own, as TensorRT has them.
class Phases
{
public:
    Phases(nvinfer1::IProgressMonitor* monitor, bool slow)
        : m_monitor(monitor)
        , m_slow(slow)
    {
    }
    // False: cancelled.
    bool run(char const* name, char const* parent, int32_t steps, bool (*work)(Phases&, int32_t))
    {
        if (m_monitor != nullptr)
        {
            m_monitor->phaseStart(name, parent, steps);
        }
        bool goes_on = true;
        for (int32_t step = 0; goes_on && step < steps; ++step)
        {
            if (m_slow)
            {
                std::this_thread::sleep_for(std::chrono::milliseconds(200));
            }
            goes_on = work == nullptr || work(*this, step);
            goes_on = (m_monitor == nullptr || m_monitor->stepComplete(name, step)) && goes_on;
        }
        if (m_monitor != nullptr)
        {
            m_monitor->phaseFinish(name);
        }
        return goes_on;
    }
    static bool tactics(Phases& phases, int32_t)
    {
        bool goes_on = true;
        std::thread([&] { goes_on = phases.run("Tactic selection", "Building engine", 5, nullptr); }).join();
        return goes_on;
    }

private:
    nvinfer1::IProgressMonitor* const m_monitor;
    bool const m_slow;
};

// The plan, or "" and an error in the log.
std::string Builder::build(Network const& network, Config const& config, faults::Kind fault)
{
    if (!network.weights)
    {
        m_log.error("IBuilder::buildSerializedNetwork: Error Code 4: Internal Error (Network must have at least one output)");
        return "";
    }
    if (!network.weights->alive)
    {
        misuse("a network is built whose weights went with its parser");
    }
    if (config.profile == nullptr)
    {
        m_log.error("IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network has dynamic or shape inputs, "
                    "but no optimization profile has been defined.)");
        return "";
    }
    if (network.strong && config.half)
    {
        m_log.error("IBuilder::buildSerializedNetwork: Error Code 3: API Usage Error (BuilderFlag::kFP16 set in a strongly "
                    "typed network)");
        return "";
    }
    if (config.dla && (!config.fallback || config.dla_core < 0 || config.dla_core >= getNbDLACores()))
    {
        misuse("a DLA without fallback, or with a core that is not there");
    }
    if (config.dla)
    {
        m_log.given("default device DLA, core " + std::to_string(config.dla_core) + ", with the GPU for the rest");
    }
    Plan plan;
    plan.dla_core = config.dla ? config.dla_core : -1;
    plan.version = library_version();
    plan.gpu = gpu_name();
    plan.half = config.half;
    plan.onnx = network.weights->onnx;
    for (int32_t i = 0; i < network.getNbOutputs(); ++i)
    {
        plan.outputs.push_back(network.getOutput(i)->getName());
    }
    for (int32_t i = 0; i < network.getNbInputs(); ++i)
    {
        auto const shapes = config.profile->shapes.find(network.getInput(i)->getName());
        if (shapes == config.profile->shapes.end())
        {
            m_log.error("IBuilder::buildSerializedNetwork: Error Code 4: Internal Error (input without dimensions in the profile)");
            return "";
        }
        for (auto const& shape : shapes->second)
        {
            plan.batches[shapes->first].push_back(shape.second.at(0));
        }
        auto const& batches = plan.batches[shapes->first];
        m_log.given("batches " + std::to_string(batches.at(0)) + ", " + std::to_string(batches.at(1)) + ", "
            + std::to_string(batches.at(2)));
        if (config.dla && batches.at(0) != batches.at(2))
        {
            m_log.error("IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (DLA does not support dynamic shapes)");
            return "";
        }
    }
    cuda::ensure_context();
    unsigned long long workspace = 0;
    int const error = cuda::calls().allocate(&workspace, 65536);
    if (error != 0)
    {
        m_log.error(std::string("IBuilder::buildSerializedNetwork: Error Code 1: Cuda Runtime (") + cuda::words(error) + ")");
        return "";
    }
    bool const goes_on = Phases(config.monitor, fault == faults::Kind::slow).run("Building engine", nullptr, 3, Phases::tactics);
    cuda::calls().release(workspace);
    if (!goes_on)
    {
        m_log.say(Severity::kINFO, "the build was cancelled by the progress monitor");
        return "";
    }
    if (config.cache != nullptr)
    {
        std::string const entry = std::to_string(std::hash<std::string>()(plan.onnx)) + '\n';
        bool const hit = config.cache->entries.find(entry) != std::string::npos;
        m_log.say(Severity::kINFO, hit ? "timing cache hit" : "timing cache miss");
        config.cache->entries += hit ? "" : entry;
    }
    return plan.write();
}

nvinfer1::IHostMemory* Builder::buildSerializedNetwork(
    nvinfer1::INetworkDefinition& network, nvinfer1::IBuilderConfig& config) noexcept
{
    faults::Kind const fault = m_log.at("Builder::buildSerializedNetwork");
    if (faults::fails(fault))
    {
        return nullptr;
    }
    std::string plan = build(static_cast<Network const&>(network), static_cast<Config const&>(config), fault);
    return plan.empty() ? nullptr : new HostMemory(std::move(plan));
}

} // namespace

extern "C" __attribute__((visibility("default"))) void* double_adopt(
    nvinfer1::INetworkDefinition* network, void const* onnx, size_t size)
{
    auto& ours = static_cast<Network&>(*network);
    return new std::shared_ptr<Weights>(ours.adopt(std::string(static_cast<char const*>(onnx), size)));
}

extern "C" __attribute__((visibility("default"))) void double_abandon(void* weights)
{
    auto* const ours = static_cast<std::shared_ptr<Weights>*>(weights);
    (*ours)->alive = false;
    (*ours)->onnx.clear();
    delete ours;
}

extern "C" __attribute__((visibility("default"))) void* createInferBuilder_INTERNAL(void* logger, int32_t version) noexcept
{
    Log const log(static_cast<nvinfer1::ILogger*>(logger));
    if (version / 100 != NV_TENSORRT_VERSION / 100)
    {
        misuse("a builder is made with headers of " + std::to_string(version));
    }
    if (log.fails("createInferBuilder"))
    {
        return nullptr;
    }
    char const* why = nullptr;
    if (!cuda::start(&why))
    {
        log.error(std::string("createInferBuilder: Error Code 6: API Usage Error (CUDA initialization failure with error: ")
            + why + ". Please check your CUDA installation)");
        return nullptr;
    }
    return static_cast<nvinfer1::IBuilder*>(new Builder(log));
}
