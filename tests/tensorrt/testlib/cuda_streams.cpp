// The CUDA double: streams, events and graphs.
#include "cuda_double.h"

namespace
{

// Whatever is queued in a stream before a record is done.
bool is_done(Record const& record)
{
    return record.stream->done >= record.place;
}

Event* find_event(void* handle)
{
    auto const found = state().events.find(handle);
    return found == state().events.end() ? nullptr : found->second.get();
}

// Asked for the second time, the work runs: a GPU works by itself, so that asking again and again comes to an end.
int poll(Lock& lock, int& polls, std::shared_ptr<Stream> const& stream, uint64_t place)
{
    if (stream->done >= place)
    {
        return SUCCESS;
    }
    if (++polls < 2)
    {
        return NOT_READY;
    }
    run(lock, stream, place);
    return SUCCESS;
}

int invalidate(Capture& capture, int error)
{
    capture.valid = false;
    return error;
}

} // namespace

void push(Stream& stream, Op op)
{
    if (stream.capture)
    {
        stream.capture->ops.push_back(std::move(op));
        return;
    }
    stream.queue.push_back(std::move(op));
    ++stream.pushed;
}

std::shared_ptr<Stream> find_stream(void* handle)
{
    // Per-thread and legacy default streams: one.
    auto const found = state().streams.find(reinterpret_cast<uintptr_t>(handle) <= 2 ? nullptr : handle);
    return found == state().streams.end() ? nullptr : found->second;
}

int forbidden_in_capture()
{
    for (auto const& capture : state().captures)
    {
        if (capture->mode == 0 || (capture->mode == 1 && capture->thread == std::this_thread::get_id()))
        {
            return invalidate(*capture, CAPTURE_UNSUPPORTED);
        }
    }
    return SUCCESS;
}

void run(Lock& lock, std::shared_ptr<Stream> const& stream, uint64_t place)
{
    State& s = state();
    while (stream->done < place)
    {
        if (stream->busy)
        {
            s.changed.wait(lock);
            continue;
        }
        Op op = std::move(stream->queue.front());
        stream->queue.pop_front();
        stream->busy = true;
        if (op.wait)
        {
            run(lock, op.wait->stream, op.wait->place);
        }
        if (op.work && !s.lost)
        {
            lock.unlock();
            op.work();
            lock.lock();
        }
        if (op.stamp)
        {
            op.stamp->time = std::chrono::steady_clock::now();
        }
        stream->busy = false;
        ++stream->done;
        s.changed.notify_all();
    }
}

void run_all(Lock& lock)
{
    std::vector<std::shared_ptr<Stream>> all;
    for (auto const& stream : state().streams)
    {
        all.push_back(stream.second);
    }
    for (auto const& stream : all)
    {
        run(lock, stream, stream->pushed);
    }
}

CUDA_API int cuCtxSynchronize()
{
    ENTER_CONTEXT("cuCtxSynchronize");
    Lock lock(state().mutex);
    int const forbidden = forbidden_in_capture();
    if (forbidden != SUCCESS)
    {
        return forbidden;
    }
    run_all(lock);
    return SUCCESS;
}

CUDA_API int cuCtxGetStreamPriorityRange(int* least, int* greatest)
{
    ENTER_CONTEXT("cuCtxGetStreamPriorityRange");
    *least = 0;
    *greatest = -5;
    return SUCCESS;
}

CUDA_API int cuStreamCreate(void** out, unsigned)
{
    ENTER_CONTEXT("cuStreamCreate");
    Lock lock(state().mutex);
    auto const stream = std::make_shared<Stream>();
    state().streams[stream.get()] = stream;
    *out = stream.get();
    return SUCCESS;
}

CUDA_API int cuStreamCreateWithPriority(void** out, unsigned flags, int)
{
    return cuStreamCreate(out, flags);
}

// CUDA lets the work go on; here nobody would run it later.
CUDA_API int cuStreamDestroy_v2(void* handle)
{
    ENTER_CONTEXT("cuStreamDestroy_v2");
    Lock lock(state().mutex);
    auto const stream = find_stream(handle);
    if (!stream || handle == nullptr)
    {
        return INVALID_HANDLE;
    }
    if (stream->capture)
    {
        state().captures.erase(stream->capture);
        stream->capture.reset();
    }
    run(lock, stream, stream->pushed);
    state().streams.erase(handle);
    return SUCCESS;
}

CUDA_API int cuStreamSynchronize(void* handle)
{
    ENTER_CONTEXT("cuStreamSynchronize");
    Lock lock(state().mutex);
    auto const stream = find_stream(handle);
    if (!stream)
    {
        return INVALID_HANDLE;
    }
    if (stream->capture)
    {
        return invalidate(*stream->capture, CAPTURE_UNSUPPORTED);
    }
    run(lock, stream, stream->pushed);
    return SUCCESS;
}

CUDA_API int cuStreamQuery(void* handle)
{
    ENTER_CONTEXT("cuStreamQuery");
    Lock lock(state().mutex);
    auto const stream = find_stream(handle);
    if (!stream)
    {
        return INVALID_HANDLE;
    }
    if (stream->capture)
    {
        return invalidate(*stream->capture, CAPTURE_UNSUPPORTED);
    }
    int const result = poll(lock, stream->polls, stream, stream->pushed);
    stream->polls = result == SUCCESS ? 0 : stream->polls;
    return result;
}

CUDA_API int cuStreamWaitEvent(void* handle, void* event_handle, unsigned)
{
    ENTER_CONTEXT("cuStreamWaitEvent");
    Lock lock(state().mutex);
    auto const stream = find_stream(handle);
    Event* const event = find_event(event_handle);
    if (!stream || event == nullptr)
    {
        return INVALID_HANDLE;
    }
    if (!event->record)
    {
        return SUCCESS; // never recorded: nothing to wait for
    }
    auto const& from = event->record->capture;
    if (from && state().captures.count(from) == 0)
    {
        return INVALID_VALUE; // recorded in a capture that has ended
    }
    if (stream->capture)
    {
        return from == stream->capture ? SUCCESS
            : from                     ? invalidate(*stream->capture, CAPTURE_MERGE)
                                       : invalidate(*stream->capture, CAPTURE_ISOLATION);
    }
    if (from)
    {
        stream->capture = from; // this stream joins the capture
        return SUCCESS;
    }
    push(*stream, Op{nullptr, event->record, nullptr});
    return SUCCESS;
}

CUDA_API int cuLaunchHostFunc(void* handle, void (*function)(void*), void* data)
{
    ENTER_CONTEXT("cuLaunchHostFunc");
    Lock lock(state().mutex);
    auto const stream = find_stream(handle);
    if (!stream)
    {
        return INVALID_HANDLE;
    }
    push(*stream, Op{[=] { function(data); }, nullptr, nullptr});
    return SUCCESS;
}

CUDA_API int cuEventCreate(void** out, unsigned flags)
{
    ENTER_CONTEXT("cuEventCreate");
    Lock lock(state().mutex);
    std::unique_ptr<Event> event(new Event());
    event->timing = (flags & 2U) == 0; // CU_EVENT_DISABLE_TIMING
    *out = event.get();
    state().events[*out] = std::move(event);
    return SUCCESS;
}

CUDA_API int cuEventDestroy_v2(void* handle)
{
    ENTER_CONTEXT("cuEventDestroy_v2");
    Lock lock(state().mutex);
    return state().events.erase(handle) == 0 ? INVALID_HANDLE : SUCCESS;
}

CUDA_API int cuEventRecord(void* handle, void* stream_handle)
{
    ENTER_CONTEXT("cuEventRecord");
    Lock lock(state().mutex);
    auto const stream = find_stream(stream_handle);
    Event* const event = find_event(handle);
    if (!stream || event == nullptr)
    {
        return INVALID_HANDLE;
    }
    auto const record = std::make_shared<Record>();
    record->stream = stream;
    record->capture = stream->capture;
    if (!stream->capture)
    {
        push(*stream, Op{nullptr, nullptr, record});
        record->place = stream->pushed;
    }
    event->record = record;
    return SUCCESS;
}

CUDA_API int cuEventQuery(void* handle)
{
    ENTER("cuEventQuery");
    Lock lock(state().mutex);
    Event* const event = find_event(handle);
    if (event == nullptr)
    {
        return INVALID_HANDLE;
    }
    if (!event->record)
    {
        return SUCCESS;
    }
    if (event->record->capture)
    {
        return CAPTURED_EVENT;
    }
    auto const record = event->record;
    return poll(lock, record->polls, record->stream, record->place);
}

CUDA_API int cuEventSynchronize(void* handle)
{
    ENTER("cuEventSynchronize");
    Lock lock(state().mutex);
    Event* const event = find_event(handle);
    if (event == nullptr)
    {
        return INVALID_HANDLE;
    }
    if (!event->record)
    {
        return SUCCESS;
    }
    if (event->record->capture)
    {
        return CAPTURED_EVENT;
    }
    auto const record = event->record;
    run(lock, record->stream, record->place);
    return SUCCESS;
}

CUDA_API int cuEventElapsedTime(float* milliseconds, void* begin_handle, void* end_handle)
{
    ENTER("cuEventElapsedTime");
    Lock lock(state().mutex);
    Event* const begin = find_event(begin_handle);
    Event* const end = find_event(end_handle);
    if (begin == nullptr || end == nullptr || !begin->timing || !end->timing || !begin->record || !end->record)
    {
        return INVALID_HANDLE;
    }
    if (begin->record->capture || end->record->capture)
    {
        return CAPTURED_EVENT;
    }
    if (!is_done(*begin->record) || !is_done(*end->record))
    {
        return NOT_READY;
    }
    *milliseconds = std::chrono::duration<float, std::milli>(end->record->time - begin->record->time).count();
    return SUCCESS;
}

CUDA_API int cuEventElapsedTime_v2(float* milliseconds, void* begin, void* end)
{
    return cuEventElapsedTime(milliseconds, begin, end);
}

CUDA_API int cuStreamBeginCapture_v2(void* handle, int mode)
{
    ENTER_CONTEXT("cuStreamBeginCapture_v2");
    Lock lock(state().mutex);
    auto const stream = find_stream(handle);
    if (!stream || handle == nullptr || stream->capture)
    {
        return !stream ? INVALID_HANDLE : handle == nullptr ? CAPTURE_UNSUPPORTED : INVALID_VALUE;
    }
    stream->capture = std::make_shared<Capture>();
    stream->capture->origin = stream.get();
    stream->capture->thread = std::this_thread::get_id();
    stream->capture->mode = mode;
    state().captures.insert(stream->capture);
    return SUCCESS;
}

CUDA_API int cuStreamIsCapturing(void* handle, int* status)
{
    ENTER_CONTEXT("cuStreamIsCapturing");
    Lock lock(state().mutex);
    auto const stream = find_stream(handle);
    if (!stream)
    {
        return INVALID_HANDLE;
    }
    *status = !stream->capture ? 0 : stream->capture->valid ? 1 : 2;
    return SUCCESS;
}

CUDA_API int cuStreamEndCapture(void* handle, void** out)
{
    ENTER_CONTEXT("cuStreamEndCapture");
    Lock lock(state().mutex);
    *out = nullptr;
    auto const stream = find_stream(handle);
    if (!stream)
    {
        return INVALID_HANDLE;
    }
    auto const capture = stream->capture;
    if (!capture || capture->origin != stream.get())
    {
        return CAPTURE_UNMATCHED;
    }
    if (capture->mode != 2 && capture->thread != std::this_thread::get_id())
    {
        return CAPTURE_WRONG_THREAD;
    }
    for (auto const& other : state().streams)
    {
        if (other.second->capture == capture)
        {
            other.second->capture.reset();
        }
    }
    state().captures.erase(capture);
    if (!capture->valid)
    {
        return CAPTURE_INVALIDATED;
    }
    std::unique_ptr<Graph> graph(new Graph{std::move(capture->ops)});
    *out = graph.get();
    state().graphs[*out] = std::move(graph);
    return SUCCESS;
}

CUDA_API int cuGraphInstantiateWithFlags(void** out, void* handle, unsigned long long)
{
    ENTER_CONTEXT("cuGraphInstantiateWithFlags");
    Lock lock(state().mutex);
    *out = nullptr;
    auto const found = state().graphs.find(handle);
    if (found == state().graphs.end())
    {
        return INVALID_VALUE;
    }
    std::unique_ptr<Graph> exec(new Graph(*found->second));
    *out = exec.get();
    state().execs[*out] = std::move(exec);
    return SUCCESS;
}

CUDA_API int cuGraphInstantiate_v2(void** out, void* graph, void*, char*, size_t)
{
    return cuGraphInstantiateWithFlags(out, graph, 0);
}

CUDA_API int cuGraphUpload(void* handle, void*)
{
    ENTER_CONTEXT("cuGraphUpload");
    Lock lock(state().mutex);
    return state().execs.count(handle) == 0 ? INVALID_VALUE : SUCCESS;
}

CUDA_API int cuGraphLaunch(void* handle, void* stream_handle)
{
    ENTER_CONTEXT("cuGraphLaunch");
    Lock lock(state().mutex);
    auto const stream = find_stream(stream_handle);
    auto const found = state().execs.find(handle);
    if (!stream || found == state().execs.end())
    {
        return !stream ? INVALID_HANDLE : INVALID_VALUE;
    }
    for (Op const& op : found->second->ops)
    {
        push(*stream, op);
    }
    ++state().counts["graph_launches"];
    return SUCCESS;
}

CUDA_API int cuGraphExecDestroy(void* handle)
{
    ENTER_CONTEXT("cuGraphExecDestroy");
    Lock lock(state().mutex);
    return state().execs.erase(handle) == 0 ? INVALID_VALUE : SUCCESS;
}

CUDA_API int cuGraphDestroy(void* handle)
{
    ENTER_CONTEXT("cuGraphDestroy");
    Lock lock(state().mutex);
    return state().graphs.erase(handle) == 0 ? INVALID_VALUE : SUCCESS;
}

// What else the crate looks up. There is no device to run a kernel, and no second one.
#define NOT_HERE(function)                                                                                             \
    CUDA_API int function()                                                                                            \
    {                                                                                                                  \
        return NOT_SUPPORTED;                                                                                          \
    }
NOT_HERE(cuCtxCreate_v3)
NOT_HERE(cuCtxCreate_v4)
NOT_HERE(cuCtxDestroy_v2)
NOT_HERE(cuCtxGetCacheConfig)
NOT_HERE(cuCtxGetLimit)
NOT_HERE(cuCtxSetCacheConfig)
NOT_HERE(cuCtxSetFlags)
NOT_HERE(cuCtxSetLimit)
NOT_HERE(cuDestroyExternalMemory)
NOT_HERE(cuDeviceGetDefaultMemPool)
NOT_HERE(cuDeviceGetMemPool)
NOT_HERE(cuDeviceSetMemPool)
NOT_HERE(cuExternalMemoryGetMappedBuffer)
NOT_HERE(cuFuncGetAttribute)
NOT_HERE(cuFuncSetAttribute)
NOT_HERE(cuFuncSetCacheConfig)
NOT_HERE(cuImportExternalMemory)
NOT_HERE(cuLaunchCooperativeKernel)
NOT_HERE(cuLaunchKernel)
NOT_HERE(cuMemAllocFromPoolAsync)
NOT_HERE(cuMemAllocManaged)
NOT_HERE(cuMemcpyPeerAsync)
NOT_HERE(cuMemPoolCreate)
NOT_HERE(cuMemPoolDestroy)
NOT_HERE(cuMemPoolGetAttribute)
NOT_HERE(cuMemPoolSetAttribute)
NOT_HERE(cuMemPoolTrimTo)
NOT_HERE(cuModuleGetFunction)
NOT_HERE(cuModuleGetGlobal_v2)
NOT_HERE(cuModuleLoad)
NOT_HERE(cuModuleLoadData)
NOT_HERE(cuModuleUnload)
NOT_HERE(cuOccupancyAvailableDynamicSMemPerBlock)
NOT_HERE(cuOccupancyMaxActiveBlocksPerMultiprocessor)
NOT_HERE(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags)
NOT_HERE(cuOccupancyMaxPotentialBlockSize)
NOT_HERE(cuOccupancyMaxPotentialBlockSizeWithFlags)
NOT_HERE(cuProfilerStart)
NOT_HERE(cuProfilerStop)
NOT_HERE(cuStreamAttachMemAsync)
