// The library's words: where its log goes, and what of it becomes part of an error.
//
// Every line goes to the agent's log function. While a call of ours runs, its error lines are kept too (the first of
// them, within bounds: the first error is the cause, the rest its consequences), and end up in vt_error.message after
// what was tried. A line that a thread logs while it is inside a call belongs to that call; one from a thread of the
// library's own, which builds have, to every call that runs.
#ifndef VEDETTE_TRT_WORDS_H
#define VEDETTE_TRT_WORDS_H

#include "family.h"
#include "vedette_trt.h"

#include <mutex>
#include <string>
#include <vector>

class Logger;

// One call of ours that runs: from its making to its end it collects errors.
class Call
{
public:
    explicit Call(Logger* logger);
    ~Call();
    Call(Call const&) = delete;
    Call& operator=(Call const&) = delete;

    // What the library said so far, "" if nothing; and whether it spoke of memory.
    std::string words() const;
    bool memory() const;
    // Leaves aside what was said of a thing that may fail.
    void forget();

private:
    friend class Logger;
    void add(char const* line);

    Logger* const m_logger;
    Call* const m_outer; // of this thread: calls nest when a progress function calls us again
    mutable std::mutex m_mutex;
    std::string m_words;
    unsigned m_left_out = 0;
    bool m_memory = false;
};

// What ends a call. `code` stands unless the library spoke of memory.
struct Failure
{
    int32_t code;
    std::string message;
};

// What the caller or the shim says of itself, to which the library's words add nothing.
[[noreturn]] void refuse(int32_t code, std::string message);
// What the library would not do: with its words, and VT_MEMORY if they speak of memory.
[[noreturn]] void fail(Call const& call, int32_t code, std::string const& tried);

class Logger final : public nvinfer1::ILogger
{
public:
    // The library keeps pointers to the logger beyond the objects that it was given with. So loggers are handed out
    // from a few that live as long as the process, and taken back by detach().
    static Logger* attach(vt_log_fn function, void* user);
    void detach();

    void log(Severity severity, char const* line) noexcept override;
    // A line of our own.
    void say(int32_t severity, std::string const& line) noexcept;

private:
    friend class Call;
    Logger() = default;

    std::mutex m_mutex; // of the three below; held while the agent's function runs, so that detach() waits for it
    bool m_attached = false;
    vt_log_fn m_function = nullptr;
    void* m_user = nullptr;
    std::mutex m_calls_mutex;
    std::vector<Call*> m_calls;
};

// Fills `error` (may be NULL) with one line; a message that is too long is cut between two characters.
int32_t report(vt_error* error, int32_t code, char const* message) noexcept;

// Runs `body(Call&)`; whatever leaves it becomes a code and a message.
template <typename Body>
int32_t guarded(Logger* logger, vt_error* error, Body&& body) noexcept
{
    try
    {
        Call call(logger);
        body(call);
        return VT_OK;
    }
    catch (Failure const& failure)
    {
        return report(error, failure.code, failure.message.c_str());
    }
    catch (std::bad_alloc const&)
    {
        return report(error, VT_MEMORY, "the host has no memory left for the shim");
    }
    catch (std::exception const& exception)
    {
        return report(error, VT_BUILD, exception.what());
    }
    catch (...)
    {
        return report(error, VT_BUILD, "an exception of unknown kind reached the shim");
    }
}

#endif
