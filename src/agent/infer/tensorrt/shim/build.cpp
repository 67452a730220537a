// vt_build_plan: from an ONNX to a plan, in the order that TensorRT wants it.
#include "library.h"

#include <atomic>
#include <cstring>
#include <map>

#define VT_EXPORT extern "C" __attribute__((visibility("default")))

namespace
{

constexpr uint64_t kOnnxLimit = (uint64_t{1} << 31) - 1; // a protobuf message cannot be larger

// Hands on the library's steps, and its wish to stop back. Any thread, several phases at a time.
class Progress final : public family::Monitor
{
public:
    Progress(vt_progress_fn function, void* user)
        : m_function(function)
        , m_user(user)
    {
    }

    void phaseStart(char const* phase, char const* /*parent*/, int32_t steps) noexcept override
    {
        phase = phase == nullptr ? "" : phase;
        remember(phase, steps);
        tell(phase, 0, steps);
    }

    // A step that is finished, counted from 0; we tell how many are.
    bool stepComplete(char const* phase, int32_t step) noexcept override
    {
        phase = phase == nullptr ? "" : phase;
        tell(phase, step + 1, steps_of(phase));
        return !m_cancelled;
    }

    void phaseFinish(char const* phase) noexcept override
    {
        std::lock_guard<std::mutex> lock(m_mutex);
        try
        {
            m_steps.erase(phase == nullptr ? "" : phase);
        }
        catch (...) // a name that did not fit into memory
        {
        }
    }

    void tell(char const* phase, int32_t step, int32_t steps) noexcept
    {
        if (m_function != nullptr && m_function(m_user, phase, step, steps) != 0)
        {
            m_cancelled = true;
        }
    }

    bool wanted() const { return m_function != nullptr; }
    bool cancelled() const { return m_cancelled; }

private:
    void remember(char const* phase, int32_t steps) noexcept
    {
        std::lock_guard<std::mutex> lock(m_mutex);
        try
        {
            m_steps[phase] = steps;
        }
        catch (...) // then its number of steps is not known
        {
        }
    }

    int32_t steps_of(char const* phase) noexcept
    {
        std::lock_guard<std::mutex> lock(m_mutex);
        try
        {
            auto const found = m_steps.find(phase);
            return found == m_steps.end() ? 0 : found->second;
        }
        catch (...)
        {
            return 0;
        }
    }

    vt_progress_fn const m_function;
    void* const m_user;
    std::atomic<bool> m_cancelled{false};
    std::mutex m_mutex;
    std::map<std::string, int32_t> m_steps;
};

void check(vt_build const& build)
{
    if (build.onnx == nullptr && build.onnx_bytes > 0)
    {
        refuse(VT_ARGUMENT, "vt_build_plan: there is no ONNX");
    }
    if (build.onnx_bytes > kOnnxLimit)
    {
        refuse(VT_ARGUMENT, "the ONNX has " + std::to_string(build.onnx_bytes) + " bytes, and cannot have more than 2 GiB");
    }
    if (build.onnx_bytes == 0)
    {
        refuse(VT_PARSE, "the ONNX is empty");
    }
    if (build.outputs == nullptr || build.output_count == 0)
    {
        refuse(VT_ARGUMENT, "vt_build_plan: no output is wanted");
    }
    for (uint32_t i = 0; i < build.output_count; ++i)
    {
        if (build.outputs[i] == nullptr)
        {
            refuse(VT_ARGUMENT, "vt_build_plan: output " + std::to_string(i) + " has no name");
        }
    }
    if (build.min_batch < 1 || build.min_batch > build.opt_batch || build.opt_batch > build.max_batch
        || !family::fits(build.max_batch))
    {
        refuse(VT_ARGUMENT, "vt_build_plan: batches of " + std::to_string(build.min_batch) + ", "
                + std::to_string(build.opt_batch) + " and " + std::to_string(build.max_batch)
                + " are not in the order of least, usual and most");
    }
    if (build.optimisation_level < -1 || build.optimisation_level > 5)
    {
        refuse(VT_ARGUMENT, "vt_build_plan: the optimisation level is -1 or 0 to 5");
    }
    if (build.timing_cache == nullptr && build.timing_cache_bytes > 0)
    {
        refuse(VT_ARGUMENT, "vt_build_plan: there is no timing cache");
    }
}

// Whether the network is to be strongly typed; refuses what this version does not have.
bool strongly_typed(vt_build const& build)
{
    switch (build.precision)
    {
    case VT_PRECISION_AS_TYPED:
        if (!family::kStrongTypes)
        {
            refuse(VT_UNSUPPORTED, "strongly typed networks begin with TensorRT 10: build the FP32 network, with the FP16 flag "
                                   "where that is wanted");
        }
        return true;
    case VT_PRECISION_FP32: return !family::kWeakTypes;
    case VT_PRECISION_FP16_FLAG:
        if (!family::kWeakTypes)
        {
            refuse(VT_UNSUPPORTED, std::string("this version of ") + vt_flavour()
                    + " has no FP16 flag: build a network that is FP16 itself, as typed");
        }
        return false;
    default: refuse(VT_ARGUMENT, "vt_build_plan: a precision of " + std::to_string(build.precision) + " is not known");
    }
}

// The parser must outlive the build: the network holds its weights by reference.
Owned<nvonnxparser::IParser> parse(
    vt_library const& library, vt_build const& build, nvinfer1::INetworkDefinition& network, Call const& call)
{
    Owned<nvonnxparser::IParser> parser(static_cast<nvonnxparser::IParser*>(
        library.create_parser(&network, library.logger, NV_ONNX_PARSER_VERSION)));
    if (!parser)
    {
        fail(call, VT_CREATE, "making an ONNX parser");
    }
    if (parser->parse(build.onnx, static_cast<size_t>(build.onnx_bytes)))
    {
        return parser;
    }
    std::string const tried = "parsing the ONNX of " + std::to_string(build.onnx_bytes) + " bytes";
    std::string errors;
    for (int32_t i = 0; i < parser->getNbErrors(); ++i)
    {
        nvonnxparser::IParserError const* const error = parser->getError(i);
        if (error != nullptr)
        {
            std::string const node = family::node_of(*error);
            char const* const words = error->desc();
            errors += (errors.empty() ? "" : "; ") + node + (node.empty() ? "" : ": ") + (words == nullptr ? "" : words);
        }
    }
    if (errors.empty())
    {
        fail(call, VT_PARSE, tried);
    }
    // The log says the same again.
    refuse(call.memory() ? VT_MEMORY : VT_PARSE, tried + ": " + errors);
}

std::string names_of_outputs(nvinfer1::INetworkDefinition const& network)
{
    std::string names;
    for (int32_t i = 0; i < network.getNbOutputs(); ++i)
    {
        nvinfer1::ITensor const* const output = network.getOutput(i);
        names += (i == 0 ? "" : ", ") + std::string(output == nullptr ? "?" : output->getName());
    }
    return names;
}

// Leaves the outputs that are wanted, in the network's order.
void choose_outputs(vt_build const& build, nvinfer1::INetworkDefinition& network)
{
    std::string const there = names_of_outputs(network);
    std::vector<nvinfer1::ITensor*> others;
    std::vector<bool> found(build.output_count, false);
    for (int32_t i = 0; i < network.getNbOutputs(); ++i)
    {
        nvinfer1::ITensor* const output = network.getOutput(i);
        if (output == nullptr)
        {
            refuse(VT_NETWORK, "the network has an output that is none");
        }
        bool wanted = false;
        for (uint32_t k = 0; k < build.output_count; ++k)
        {
            if (std::strcmp(output->getName(), build.outputs[k]) == 0)
            {
                found[k] = wanted = true;
            }
        }
        if (!wanted)
        {
            others.push_back(output);
        }
    }
    for (uint32_t k = 0; k < build.output_count; ++k)
    {
        if (!found[k])
        {
            refuse(VT_NETWORK,
                std::string("the network has no output '") + build.outputs[k] + "'; it has: " + (there.empty() ? "none" : there));
        }
    }
    for (nvinfer1::ITensor* const output : others)
    {
        network.unmarkOutput(*output);
    }
}

std::string spell(nvinfer1::Dims const& dims)
{
    std::string text = "[";
    for (int32_t i = 0; i < dims.nbDims; ++i)
    {
        text += (i == 0 ? "" : ",") + (dims.d[i] < 0 ? std::string("?") : std::to_string(dims.d[i]));
    }
    return text + "]";
}

// One profile for all inputs: their first dimension is the batch.
void set_profile(vt_build const& build, nvinfer1::INetworkDefinition const& network, nvinfer1::IBuilder& builder,
    nvinfer1::IBuilderConfig& config, Call const& call)
{
    using Selector = nvinfer1::OptProfileSelector;
    // Belongs to the builder in every family.
    nvinfer1::IOptimizationProfile* const profile = builder.createOptimizationProfile();
    if (profile == nullptr)
    {
        fail(call, VT_BUILD, "making an optimisation profile");
    }
    if (network.getNbInputs() == 0)
    {
        refuse(VT_NETWORK, "the network has no input");
    }
    for (int32_t i = 0; i < network.getNbInputs(); ++i)
    {
        nvinfer1::ITensor const* const input = network.getInput(i);
        if (input == nullptr)
        {
            refuse(VT_NETWORK, "the network has an input that is none");
        }
        nvinfer1::Dims dims = input->getDimensions();
        bool fits = dims.nbDims > 0 && dims.d[0] == -1;
        for (int32_t k = 1; k < dims.nbDims; ++k)
        {
            fits = fits && dims.d[k] >= 0;
        }
        if (!fits)
        {
            refuse(VT_NETWORK, std::string("the input '") + input->getName() + "' has the shape " + spell(dims)
                    + ": its first dimension must be open, for the batch, and the others fixed");
        }
        for (auto const& bound : {std::make_pair(Selector::kMIN, build.min_batch),
                 std::make_pair(Selector::kOPT, build.opt_batch), std::make_pair(Selector::kMAX, build.max_batch)})
        {
            dims.d[0] = static_cast<family::Extent>(bound.second);
            if (!profile->setDimensions(input->getName(), bound.first, dims))
            {
                fail(call, VT_BUILD, std::string("giving '") + input->getName() + "' the shape " + spell(dims));
            }
        }
    }
    if (!profile->isValid() || config.addOptimizationProfile(profile) < 0)
    {
        fail(call, VT_BUILD, "adding the optimisation profile");
    }
    family::share_profiles(config);
}

void set_dla(vt_build const& build, nvinfer1::IBuilder const& builder, nvinfer1::IBuilderConfig& config)
{
    if (build.dla_core < 0)
    {
        return;
    }
    int32_t const cores = family::kDla ? builder.getNbDLACores() : 0;
    if (build.dla_core >= cores)
    {
        refuse(VT_UNSUPPORTED, "DLA core " + std::to_string(build.dla_core) + " is asked for, and TensorRT finds "
                + std::to_string(cores) + " on this machine: build for the GPU");
    }
    if (build.min_batch != build.max_batch)
    {
        refuse(VT_UNSUPPORTED, "the DLA takes one batch size only (IOptimizationProfile's documentation): ask for the same "
                               "least, usual and most, or build for the GPU");
    }
    config.setDefaultDeviceType(nvinfer1::DeviceType::kDLA);
    config.setDLACore(build.dla_core);
    config.setFlag(nvinfer1::BuilderFlag::kGPU_FALLBACK);
}

// A timing cache in the configuration: the caller's if the library takes it, else an empty one. May be none.
Owned<family::TimingCache> use_timing_cache(
    vt_library const& library, vt_build const& build, nvinfer1::IBuilderConfig& config, Call& call)
{
    if (!family::kTimingCache)
    {
        return nullptr;
    }
    Owned<family::TimingCache> cache;
    if (build.timing_cache_bytes > 0)
    {
        cache.reset(
            family::create_timing_cache(config, build.timing_cache, static_cast<size_t>(build.timing_cache_bytes)));
        if (!cache || !family::set_timing_cache(config, *cache))
        {
            library.logger->say(VT_SEVERITY_WARNING, "the timing cache of " + std::to_string(build.timing_cache_bytes)
                    + " bytes was left aside: " + call.words());
            cache.reset();
        }
    }
    if (!cache)
    {
        cache.reset(family::create_timing_cache(config, nullptr, 0));
        if (cache && !family::set_timing_cache(config, *cache))
        {
            cache.reset();
        }
    }
    call.forget(); // a build without is slower, and no worse
    return cache;
}

std::unique_ptr<vt_blob> blob_of(nvinfer1::IHostMemory* memory)
{
    Owned<nvinfer1::IHostMemory> owned(memory);
    if (!owned || owned->data() == nullptr || owned->size() == 0)
    {
        return nullptr;
    }
    std::unique_ptr<vt_blob> blob(new vt_blob());
    blob->memory = std::move(owned);
    return blob;
}

void configure(vt_build const& build, nvinfer1::IBuilderConfig& config)
{
    if (build.precision == VT_PRECISION_FP32)
    {
        config.clearFlag(nvinfer1::BuilderFlag::kTF32); // on by default, and has the range of FP32 but not its precision
    }
    if (build.precision == VT_PRECISION_FP16_FLAG)
    {
        family::allow_fp16(config);
    }
    if (build.optimisation_level >= 0)
    {
        if (!family::kOptimisationLevel)
        {
            refuse(VT_UNSUPPORTED, "optimisation levels begin with TensorRT 8.6: ask for -1");
        }
        family::set_optimisation_level(config, build.optimisation_level);
    }
    if (build.workspace_bytes > 0)
    {
        config.setMemoryPoolLimit(nvinfer1::MemoryPoolType::kWORKSPACE, static_cast<size_t>(build.workspace_bytes));
    }
}

void build_plan(vt_library& library, vt_build const& build, std::unique_ptr<vt_blob>& plan,
    std::unique_ptr<vt_blob>& timing_cache, Call& call)
{
    check(build);
    bool const strong = strongly_typed(build);
    if (library.create_parser == nullptr)
    {
        refuse(VT_ARGUMENT, "vt_build_plan: the library was opened without its parser");
    }
    Progress progress(build.progress, build.progress_user);
    if (!family::kProgress)
    {
        progress.tell("", 0, 0);
        if (progress.cancelled())
        {
            refuse(VT_CANCELLED, "the build was cancelled before it began");
        }
    }

    // What is made later refers to what was made before it, and goes first.
    Owned<nvinfer1::IBuilder> builder(
        static_cast<nvinfer1::IBuilder*>(library.create_builder(library.logger, family::kVersion)));
    if (!builder)
    {
        fail(call, VT_CREATE, "making a builder of " + library.path);
    }
    Owned<nvinfer1::INetworkDefinition> network(builder->createNetworkV2(family::network_flags(strong)));
    if (!network)
    {
        fail(call, VT_CREATE, "making an empty network");
    }
    Owned<nvonnxparser::IParser> const parser = parse(library, build, *network, call);
    choose_outputs(build, *network);
    Owned<nvinfer1::IBuilderConfig> config(builder->createBuilderConfig());
    if (!config)
    {
        fail(call, VT_CREATE, "making a builder's configuration");
    }
    configure(build, *config);
    set_dla(build, *builder, *config);
    set_profile(build, *network, *builder, *config, call);
    Owned<family::TimingCache> const cache = use_timing_cache(library, build, *config, call);
    if (progress.wanted())
    {
        family::set_monitor(*config, &progress);
    }

    plan = blob_of(builder->buildSerializedNetwork(*network, *config));
    if (progress.cancelled())
    {
        plan.reset();
        refuse(VT_CANCELLED, "the build was cancelled");
    }
    if (!plan)
    {
        fail(call, VT_BUILD, "building a plan");
    }
    family::TimingCache const* const after = cache ? family::timing_cache(*config) : nullptr;
    if (after != nullptr)
    {
        timing_cache = blob_of(after->serialize());
    }
}

} // namespace

VT_EXPORT int32_t vt_build_plan(
    vt_library* library, const vt_build* build, vt_blob** plan, vt_blob** timing_cache, vt_error* error)
{
    return guarded(library == nullptr ? nullptr : library->logger, error, [&](Call& call) {
        if (library == nullptr || build == nullptr || plan == nullptr)
        {
            refuse(VT_ARGUMENT, "vt_build_plan: a library, what to build and a place for the plan are needed");
        }
        *plan = nullptr;
        if (timing_cache != nullptr)
        {
            *timing_cache = nullptr;
        }
        std::unique_ptr<vt_blob> built;
        std::unique_ptr<vt_blob> cache;
        build_plan(*library, *build, built, cache, call);
        *plan = built.release();
        if (timing_cache != nullptr)
        {
            *timing_cache = cache.release();
        }
    });
}
