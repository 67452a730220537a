/* Of the sketch: see NvInfer.h beside it. */
#pragma once

#include "NvInfer.h"

static constexpr int32_t NV_ONNX_PARSER_VERSION = 100;

namespace nvonnxparser
{

class IParserError
{
public:
    virtual char const* desc() const = 0;
    virtual int node() const = 0;
#if SKETCH >= 1001
    virtual char const* nodeName() const = 0;
    virtual char const* nodeOperator() const = 0;
#endif

protected:
    virtual ~IParserError() {}
};

class IParser
{
public:
    virtual bool parse(void const* bytes, size_t size, char const* path = nullptr) noexcept = 0;
    virtual int getNbErrors() const noexcept = 0;
    virtual IParserError const* getError(int index) const noexcept = 0;
    virtual ~IParser() noexcept = default;
};

} // namespace nvonnxparser
