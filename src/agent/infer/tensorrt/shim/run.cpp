// Engines and contexts of vedette_trt.h: plans loaded, shapes and addresses set, work enqueued.
#include "library.h"

#include <cstring>

#define VT_EXPORT extern "C" __attribute__((visibility("default")))

struct vt_engine
{
    vt_library* library = nullptr;
    Owned<nvinfer1::ICudaEngine> engine;
    std::vector<vt_tensor> tensors;
};

struct vt_context
{
    vt_library* library = nullptr;
    Owned<nvinfer1::IExecutionContext> context;
};

namespace
{

nvinfer1::IRuntime& runtime_of(vt_library& library, Call const& call)
{
    if (!library.runtime)
    {
        library.runtime.reset(
            static_cast<nvinfer1::IRuntime*>(library.create_runtime(library.logger, family::kVersion)));
        if (!library.runtime)
        {
            fail(call, VT_CREATE, "making a runtime of " + library.path);
        }
    }
    return *library.runtime;
}

int64_t profile_batch(nvinfer1::ICudaEngine const& engine, char const* name, nvinfer1::OptProfileSelector which)
{
    nvinfer1::Dims const dims = engine.getProfileShape(name, 0, which);
    return dims.nbDims > 0 ? dims.d[0] : 0;
}

// `index` of the engine's tensors, in our terms.
vt_tensor describe(nvinfer1::ICudaEngine const& engine, int32_t index)
{
    using Selector = nvinfer1::OptProfileSelector;
    char const* const name = engine.getIOTensorName(index);
    if (name == nullptr || std::strlen(name) >= VT_NAME_BYTES)
    {
        refuse(VT_PLAN, "the plan names its tensor " + std::to_string(index) + " with nothing or with more than "
                + std::to_string(VT_NAME_BYTES - 1) + " bytes");
    }
    vt_tensor tensor{};
    std::strcpy(tensor.name, name);
    nvinfer1::Dims const dims = engine.getTensorShape(name);
    if (dims.nbDims < 0 || dims.nbDims > VT_MAX_DIMS)
    {
        refuse(VT_PLAN, std::string("the plan gives its tensor ") + name + " no shape");
    }
    tensor.is_input = engine.getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT ? 1 : 0;
    tensor.type = family::type_of(engine.getTensorDataType(name));
    tensor.rank = dims.nbDims;
    for (int32_t i = 0; i < dims.nbDims; ++i)
    {
        tensor.dims[i] = dims.d[i];
    }
    if (tensor.is_input != 0 && engine.getNbOptimizationProfiles() > 0)
    {
        tensor.min_batch = profile_batch(engine, name, Selector::kMIN);
        tensor.opt_batch = profile_batch(engine, name, Selector::kOPT);
        tensor.max_batch = profile_batch(engine, name, Selector::kMAX);
    }
    return tensor;
}

std::string spell(int64_t const* dims, int32_t rank)
{
    std::string text = "[";
    for (int32_t i = 0; i < rank; ++i)
    {
        text += (i == 0 ? "" : ",") + std::to_string(dims[i]);
    }
    return text + "]";
}

} // namespace

VT_EXPORT int32_t vt_engine_load(
    vt_library* library, const void* plan, uint64_t plan_bytes, int32_t dla_core, vt_engine** out, vt_error* error)
{
    return guarded(library == nullptr ? nullptr : library->logger, error, [&](Call& call) {
        if (library == nullptr || out == nullptr || (plan == nullptr && plan_bytes > 0))
        {
            refuse(VT_ARGUMENT, "vt_engine_load: a library, a plan and a place for the result are needed");
        }
        *out = nullptr;
        if (plan_bytes == 0)
        {
            refuse(VT_PLAN, "the plan is empty");
        }
        std::unique_ptr<vt_engine> loaded(new vt_engine());
        loaded->library = library;
        nvinfer1::IRuntime& runtime = runtime_of(*library, call);
        if (dla_core >= 0)
        {
            runtime.setDLACore(dla_core);
        }
        loaded->engine.reset(runtime.deserializeCudaEngine(plan, static_cast<size_t>(plan_bytes)));
        if (!loaded->engine)
        {
            fail(call, VT_PLAN, "loading a plan of " + std::to_string(plan_bytes) + " bytes");
        }
        int32_t const count = loaded->engine->getNbIOTensors();
        for (int32_t i = 0; i < count; ++i)
        {
            loaded->tensors.push_back(describe(*loaded->engine, i));
        }
        *out = loaded.release();
    });
}

VT_EXPORT void vt_engine_free(vt_engine* engine)
{
    delete engine;
}

VT_EXPORT uint32_t vt_engine_tensors(const vt_engine* engine)
{
    return engine == nullptr ? 0 : static_cast<uint32_t>(engine->tensors.size());
}

VT_EXPORT int32_t vt_engine_tensor(const vt_engine* engine, uint32_t index, vt_tensor* out)
{
    if (engine == nullptr || out == nullptr || index >= engine->tensors.size())
    {
        return VT_ARGUMENT;
    }
    *out = engine->tensors[index];
    return VT_OK;
}

VT_EXPORT uint64_t vt_engine_device_bytes(const vt_engine* engine)
{
    return engine == nullptr ? 0 : family::device_bytes(*engine->engine);
}

VT_EXPORT int32_t vt_context_new(
    vt_engine* engine, void* memory, uint64_t memory_bytes, void* stream, vt_context** out, vt_error* error)
{
    return guarded(engine == nullptr ? nullptr : engine->library->logger, error, [&](Call& call) {
        if (engine == nullptr || out == nullptr)
        {
            refuse(VT_ARGUMENT, "vt_context_new: an engine and a place for the result are needed");
        }
        *out = nullptr;
        uint64_t const needed = vt_engine_device_bytes(engine);
        if (memory != nullptr && (memory_bytes < needed || reinterpret_cast<uintptr_t>(memory) % 256 != 0))
        {
            refuse(VT_ARGUMENT, "vt_context_new: " + std::to_string(memory_bytes) + " bytes to work in, and "
                    + std::to_string(needed) + " are needed, aligned to 256");
        }
        std::unique_ptr<vt_context> made(new vt_context());
        made->library = engine->library;
        made->context.reset(memory == nullptr ? engine->engine->createExecutionContext()
                                              : family::context_without_memory(*engine->engine));
        if (!made->context)
        {
            fail(call, VT_CREATE,
                "making a context, which needs " + std::to_string(needed) + " bytes of the GPU's memory");
        }
        if (memory != nullptr)
        {
            family::set_memory(*made->context, memory, memory_bytes);
        }
        // Of the first context it is 0 by itself; of the others it has to be set, and can be where profiles are shared: see
        // family::share_profiles().
        if (made->context->getOptimizationProfile() < 0
            && (!family::kSharesProfiles
                || !made->context->setOptimizationProfileAsync(0, static_cast<cudaStream_t>(stream))))
        {
            fail(call, VT_UNSUPPORTED, "a second context: this version of TensorRT lets one at a time use a profile");
        }
        *out = made.release();
    });
}

VT_EXPORT void vt_context_free(vt_context* context)
{
    delete context;
}

VT_EXPORT int32_t vt_context_shape(
    vt_context* context, const char* input, const int64_t* dims, int32_t rank, vt_error* error)
{
    return guarded(context == nullptr ? nullptr : context->library->logger, error, [&](Call& call) {
        if (context == nullptr || input == nullptr || dims == nullptr || rank < 1 || rank > VT_MAX_DIMS)
        {
            refuse(VT_ARGUMENT, "vt_context_shape: a context, an input's name and 1 to 8 dimensions are needed");
        }
        nvinfer1::Dims shape{};
        shape.nbDims = rank;
        for (int32_t i = 0; i < rank; ++i)
        {
            if (!family::fits(dims[i]))
            {
                refuse(VT_ARGUMENT, std::string("the shape ") + spell(dims, rank) + " of " + input
                        + " has a dimension that this version of TensorRT cannot take");
            }
            shape.d[i] = static_cast<family::Extent>(dims[i]);
        }
        if (!context->context->setInputShape(input, shape))
        {
            fail(call, VT_RUN, std::string("giving ") + input + " the shape " + spell(dims, rank));
        }
    });
}

VT_EXPORT int32_t vt_context_address(vt_context* context, const char* tensor, void* address, vt_error* error)
{
    return guarded(context == nullptr ? nullptr : context->library->logger, error, [&](Call& call) {
        if (context == nullptr || tensor == nullptr || address == nullptr)
        {
            refuse(VT_ARGUMENT, "vt_context_address: a context, a tensor's name and an address are needed");
        }
        if (reinterpret_cast<uintptr_t>(address) % 256 != 0)
        {
            refuse(VT_ARGUMENT, std::string("the address of ") + tensor + " is not aligned to 256 bytes");
        }
        if (!context->context->setTensorAddress(tensor, address))
        {
            fail(call, VT_RUN, std::string("giving ") + tensor + " an address");
        }
    });
}

VT_EXPORT int32_t vt_context_enqueue(vt_context* context, void* stream, vt_error* error)
{
    return guarded(context == nullptr ? nullptr : context->library->logger, error, [&](Call& call) {
        if (context == nullptr)
        {
            refuse(VT_ARGUMENT, "vt_context_enqueue: a context is needed");
        }
        if (!context->context->enqueueV3(static_cast<cudaStream_t>(stream)))
        {
            fail(call, VT_RUN, "putting the work on the stream");
        }
    });
}
