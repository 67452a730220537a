// What the parts of the CUDA double share: one device over host memory, and streams that run when somebody waits.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#define CUDA_API extern "C" __attribute__((visibility("default")))

// CUresult, as far as it is used.
enum : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_MERGE = 902,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_ISOLATION = 905,
    CAPTURED_EVENT = 907,
    CAPTURE_WRONG_THREAD = 908,
    UNKNOWN = 999
};

using Address = unsigned long long; // CUdeviceptr
using Lock = std::unique_lock<std::mutex>;

struct Stream;
struct Capture;

// One recording of an event: a place in a stream's work.
struct Record
{
    std::shared_ptr<Stream> stream;
    uint64_t place = 0;                 // done when that many pieces of the stream's work are
    std::shared_ptr<Capture> capture;   // recorded while capturing: no place in a stream
    std::chrono::steady_clock::time_point time;
    int polls = 0;
};

// A piece of work, or a wait for another stream's.
struct Op
{
    std::function<void()> work; // without the lock
    std::shared_ptr<Record> wait;
    std::shared_ptr<Record> stamp; // takes the time
};

struct Capture
{
    std::vector<Op> ops;
    Stream* origin = nullptr;
    std::thread::id thread;
    int mode = 0; // 0 global, 1 thread local, 2 relaxed
    bool valid = true;
};

struct Stream
{
    std::deque<Op> queue;
    uint64_t pushed = 0, done = 0;
    bool busy = false; // some thread runs a piece of it
    int polls = 0;
    std::shared_ptr<Capture> capture;
};

struct Event
{
    bool timing = false;
    std::shared_ptr<Record> record;
};

struct Graph
{
    std::vector<Op> ops;
};

// All of it, never destroyed: work may come until the process ends.
struct State
{
    std::mutex mutex;
    std::condition_variable changed;
    bool initialized = false;
    std::atomic<bool> lost{false}; // nothing runs any more, and everything says so
    int retained = 0;
    std::map<Address, size_t> device;  // what cuMemAlloc handed out
    std::map<uintptr_t, size_t> pinned; // what cuMemHostAlloc handed out
    size_t used = 0;
    std::map<void*, std::shared_ptr<Stream>> streams; // the default stream under NULL
    std::map<void*, std::unique_ptr<Event>> events;
    std::map<void*, std::unique_ptr<Graph>> graphs, execs;
    std::set<std::shared_ptr<Capture>> captures;
    std::map<std::string, int64_t> counts;
};

State& state();
[[noreturn]] void misuse(std::string const& what);

// At the beginning of every function: faults, and unless `early` an initialised driver. 0: go on.
int enter(char const* function, bool early = false);
// The same, and a context that is current on this thread.
int enter_context(char const* function);
// Calls that a capture by this thread, or a global one, forbids.
int forbidden_in_capture();

// Runs the stream's work up to a place. Waits that are in it run the other streams.
void run(Lock& lock, std::shared_ptr<Stream> const& stream, uint64_t place);
void run_all(Lock& lock);
// Queues, or captures.
void push(Stream& stream, Op op);
std::shared_ptr<Stream> find_stream(void* handle); // NULL: not a stream

#define ENTER_EARLY(function)                                                                                          \
    if (int const error = enter(function, true))                                                                       \
    return error
#define ENTER(function)                                                                                                \
    if (int const error = enter(function))                                                                             \
    return error
#define ENTER_CONTEXT(function)                                                                                        \
    if (int const error = enter_context(function))                                                                     \
    return error
