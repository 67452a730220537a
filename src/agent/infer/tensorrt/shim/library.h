// An opened library, and what it makes.
#ifndef VEDETTE_TRT_LIBRARY_H
#define VEDETTE_TRT_LIBRARY_H

#include "words.h"

#include <memory>

// `delete` is right for every object in every family: 8.0 made the destructors public, 10.0 removed destroy().
template <typename T>
using Owned = std::unique_ptr<T>;

struct vt_library
{
    vt_library() = default;
    ~vt_library();
    vt_library(vt_library const&) = delete;
    vt_library& operator=(vt_library const&) = delete;

    Logger* logger = nullptr;
    void* nvinfer = nullptr;
    void* parser = nullptr; // NULL: opened without, cannot build
    int32_t version = 0;
    std::string path;

    void* (*create_runtime)(void* logger, int32_t version) = nullptr;
    void* (*create_builder)(void* logger, int32_t version) = nullptr;
    void* (*create_parser)(void* network, void* logger, int version) = nullptr;

    // Made when the first plan is loaded: a process that only builds needs none.
    Owned<nvinfer1::IRuntime> runtime;
};

struct vt_blob
{
    Owned<nvinfer1::IHostMemory> memory;
};

#endif
