#include "words.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <deque>
#include <memory>

namespace
{

constexpr size_t kWordsBytes = VT_MESSAGE_BYTES - 512; // the rest is for what was tried

thread_local Call* t_call = nullptr;

// TensorRT's own words, and CUDA's as TensorRT repeats them. A tactic that is skipped for want of memory is a warning,
// and no error.
bool speaks_of_memory(char const* line)
{
    std::string text(line);
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    for (char const* words : {"out of memory", "outofmemory", "out_of_memory", "bad_alloc", "could not be allocated",
             "cudaerrormemoryallocation", "mem_alloc_failed", "cannot allocate memory"})
    {
        if (text.find(words) != std::string::npos)
        {
            return true;
        }
    }
    return false;
}

// Cuts at `bytes`, before the character that does not fit whole.
size_t cut(char const* text, size_t length, size_t bytes)
{
    if (length <= bytes)
    {
        return length;
    }
    while (bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xC0U) == 0x80U)
    {
        --bytes;
    }
    return bytes;
}

} // namespace

void refuse(int32_t code, std::string message)
{
    throw Failure{code, std::move(message)};
}

void fail(Call const& call, int32_t code, std::string const& tried)
{
    std::string const words = call.words();
    std::string message = tried + ": " + (words.empty() ? "it failed without a word" : words);
    throw Failure{call.memory() ? static_cast<int32_t>(VT_MEMORY) : code, std::move(message)};
}

int32_t report(vt_error* error, int32_t code, char const* message) noexcept
{
    if (error != nullptr)
    {
        error->code = code;
        size_t const length = cut(message, std::strlen(message), VT_MESSAGE_BYTES - 1);
        // The library breaks its lines; an error is one.
        std::transform(message, message + length, error->message,
            [](char c) { return static_cast<unsigned char>(c) < ' ' ? ' ' : c; });
        error->message[length] = '\0';
    }
    return code;
}

Call::Call(Logger* logger)
    : m_logger(logger)
    , m_outer(t_call)
{
    if (m_logger != nullptr)
    {
        std::lock_guard<std::mutex> lock(m_logger->m_calls_mutex);
        m_logger->m_calls.push_back(this);
    }
    t_call = this;
}

Call::~Call()
{
    t_call = m_outer;
    if (m_logger != nullptr)
    {
        std::lock_guard<std::mutex> lock(m_logger->m_calls_mutex);
        auto& calls = m_logger->m_calls;
        calls.erase(std::remove(calls.begin(), calls.end(), this), calls.end());
    }
}

void Call::add(char const* line)
{
    std::lock_guard<std::mutex> lock(m_mutex);
    m_memory = m_memory || speaks_of_memory(line);
    size_t const used = m_words.size() + (m_words.empty() ? 0 : 2);
    size_t const length = std::strlen(line);
    // The first line is kept however long it is, cut; a later one whole or not at all.
    if (m_left_out > 0 || (!m_words.empty() && used + length > kWordsBytes))
    {
        ++m_left_out;
        return;
    }
    m_words += m_words.empty() ? "" : "; ";
    m_words.append(line, cut(line, length, kWordsBytes));
}

std::string Call::words() const
{
    std::lock_guard<std::mutex> lock(m_mutex);
    return m_left_out == 0 ? m_words : m_words + " (and " + std::to_string(m_left_out) + " more errors in the log)";
}

bool Call::memory() const
{
    std::lock_guard<std::mutex> lock(m_mutex);
    return m_memory;
}

void Call::forget()
{
    std::lock_guard<std::mutex> lock(m_mutex);
    m_words.clear();
    m_left_out = 0;
    m_memory = false;
}

Logger* Logger::attach(vt_log_fn function, void* user)
{
    static std::mutex mutex;
    // Not destroyed at exit: the library's own destructors may still log.
    static auto& loggers = *new std::deque<std::unique_ptr<Logger>>();
    std::lock_guard<std::mutex> all(mutex);
    for (auto const& logger : loggers)
    {
        std::lock_guard<std::mutex> one(logger->m_mutex);
        if (!logger->m_attached)
        {
            logger->m_attached = true;
            logger->m_function = function;
            logger->m_user = user;
            return logger.get();
        }
    }
    std::unique_ptr<Logger> fresh(new Logger());
    fresh->m_attached = true;
    fresh->m_function = function;
    fresh->m_user = user;
    loggers.push_back(std::move(fresh));
    return loggers.back().get();
}

void Logger::detach()
{
    std::lock_guard<std::mutex> lock(m_mutex);
    m_attached = false;
    m_function = nullptr;
    m_user = nullptr;
}

void Logger::say(int32_t severity, std::string const& line) noexcept
{
    std::lock_guard<std::mutex> lock(m_mutex);
    if (m_function != nullptr)
    {
        m_function(m_user, severity, line.c_str());
    }
}

// Runs inside the library, which does not expect an exception: a line that cannot be kept is lost, not the process.
void Logger::log(Severity severity, char const* line) noexcept
{
    line = line == nullptr ? "" : line;
    if (severity == Severity::kINTERNAL_ERROR || severity == Severity::kERROR)
    {
        try
        {
            if (t_call != nullptr && t_call->m_logger == this)
            {
                t_call->add(line);
            }
            else
            {
                std::lock_guard<std::mutex> lock(m_calls_mutex);
                for (Call* call : m_calls)
                {
                    call->add(line);
                }
            }
        }
        catch (...)
        {
        }
    }
    std::lock_guard<std::mutex> lock(m_mutex);
    if (m_function != nullptr)
    {
        m_function(m_user, static_cast<int32_t>(severity), line);
    }
}
