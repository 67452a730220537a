// Faults by environment, for both doubles.
//
//   VEDETTE_TRT_FAULT="<Class::method or cuFunction>:<nth>[:<kind>]", comma separated. The class may be spelt with
//   NVIDIA's I or V in front. The nth call (from 1) since the variable changed fails; nth 0: every call.
//
// kinds: fail (the default), oom, crash, hang, eat (memory, until there is none), slow (0.2 s a step), nan, wrong, lost
// (of CUDA's functions: an illegal address, and the same answer to all that the process asks of the device from then on).
// VEDETTE_TRT_TRACE=1: every function that can fail says so when it is called.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <unistd.h>
#include <vector>

namespace faults
{

enum class Kind { none, fail, oom, slow, nan, wrong, lost };

struct Fault
{
    std::string name;
    long nth = 0;
    long seen = 0;
    std::string kind;
};

inline std::string bare(std::string name)
{
    bool const prefixed = name.size() > 2 && (name[0] == 'I' || name[0] == 'V') && name[1] >= 'A' && name[1] <= 'Z'
        && name.find("::") != std::string::npos;
    return prefixed ? name.substr(1) : name;
}

// "VBuilder::build:2:oom" -> name, 2, oom. The name may hold "::", the number comes after a single ":".
inline Fault parse(std::string const& text)
{
    Fault fault;
    for (size_t i = 1; i + 1 < text.size(); ++i)
    {
        if (text[i] == ':' && text[i - 1] != ':' && text[i + 1] >= '0' && text[i + 1] <= '9')
        {
            fault.name = bare(text.substr(0, i));
            char* end = nullptr;
            fault.nth = std::strtol(text.c_str() + i + 1, &end, 10);
            fault.kind = *end == ':' ? end + 1 : "fail";
            return fault;
        }
    }
    std::fprintf(stderr, "VEDETTE_TRT_FAULT: '%s' is not <function>:<nth>[:<kind>]\n", text.c_str());
    std::abort();
}

[[noreturn]] inline void eat()
{
    std::vector<char*> kept;
    for (;;)
    {
        size_t const bytes = size_t{16} << 20;
        char* const block = static_cast<char*>(std::malloc(bytes));
        if (block == nullptr)
        {
            std::fprintf(stderr, "fault: memory is eaten, %zu blocks of 16 MiB\n", kept.size());
            std::abort(); // what an allocation that nobody checks comes to
        }
        std::memset(block, 1, bytes);
        kept.push_back(block);
    }
}

// Called where a function of a double can fail. `say(severity, text)` logs. What the caller must do is returned; what
// needs no caller (crash, hang, eat) happens here.
template <typename Say>
Kind at(char const* name, Say&& say)
{
    static std::mutex mutex;
    static std::string current;
    static std::vector<Fault> list;
    std::string kind;
    {
        std::lock_guard<std::mutex> lock(mutex);
        char const* const wanted = std::getenv("VEDETTE_TRT_FAULT");
        if (current != (wanted == nullptr ? "" : wanted))
        {
            current = wanted == nullptr ? "" : wanted;
            list.clear();
            for (size_t from = 0; from < current.size();)
            {
                size_t const to = current.find(',', from);
                list.push_back(parse(current.substr(from, to == std::string::npos ? to : to - from)));
                from = to == std::string::npos ? current.size() : to + 1;
            }
        }
        for (Fault& fault : list)
        {
            if (fault.name == name && (++fault.seen == fault.nth || fault.nth == 0))
            {
                kind = fault.kind;
            }
        }
    }
    if (std::getenv("VEDETTE_TRT_TRACE") != nullptr)
    {
        say(4, std::string("call ") + name);
    }
    if (kind.empty())
    {
        return Kind::none;
    }
    if (kind == "crash")
    {
        std::fprintf(stderr, "fault: %s crashes\n", name);
        std::fflush(stderr);
        *static_cast<volatile int*>(nullptr) = 0;
    }
    if (kind == "hang")
    {
        for (;;)
        {
            pause();
        }
    }
    if (kind == "eat")
    {
        eat();
    }
    if (kind == "slow")
    {
        return Kind::slow;
    }
    if (kind == "nan")
    {
        return Kind::nan;
    }
    if (kind == "wrong")
    {
        return Kind::wrong;
    }
    if (kind == "lost")
    {
        return Kind::lost;
    }
    if (kind == "oom")
    {
        say(1, std::string(name) + ": Error Code 2: OutOfMemory (Requested size was 1073741824 bytes.) [injected fault]");
        return Kind::oom;
    }
    say(1, std::string(name) + ": Error Code 4: Internal Error (injected fault)");
    return Kind::fail;
}

inline bool fails(Kind kind)
{
    return kind == Kind::fail || kind == Kind::oom;
}

} // namespace faults
