// As much of ONNX as the test fixtures need: a reader of its protobuf and an interpreter in float32.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace onnx
{

// ONNX's TensorProto.DataType.
enum Type { FLOAT = 1, UINT8 = 2, INT8 = 3, INT32 = 6, INT64 = 7, FLOAT16 = 10 };

using Shape = std::vector<int64_t>; // -1: open

struct Tensor
{
    int type = FLOAT;
    Shape shape;
    std::vector<float> values; // whatever the type
};

struct Attribute
{
    int64_t i = 0;
    float f = 0;
    std::string s;
    std::vector<int64_t> ints;
};

struct Node
{
    std::string name, op;
    std::vector<std::string> inputs, outputs;
    std::map<std::string, Attribute> attributes;
};

struct Value
{
    std::string name;
    int type = 0;
    Shape shape;
};

struct Graph
{
    std::vector<Node> nodes;
    std::map<std::string, Tensor> initializers;
    std::vector<Value> inputs, outputs;
};

// What is wrong, and with which node (-1: none).
struct Bad : std::runtime_error
{
    Bad(std::string const& what, int node_ = -1)
        : std::runtime_error(what)
        , node(node_)
    {
    }
    int node;
};

Graph read(void const* bytes, size_t size); // throws Bad
bool supports(std::string const& op);

using Values = std::map<std::string, Tensor>;
// Runs what `wanted` needs. `half`: every result is rounded to FP16, as a builder with the FP16 flag may choose.
Values run(Graph const& graph, Values inputs, std::vector<std::string> const& wanted, bool half);
// The shapes of all outputs, found by running with two batches: what differs is open.
std::map<std::string, Shape> shapes(Graph const& graph);

int64_t count(Shape const& shape);
size_t bytes_of(int type);
float round_to_half(float value);
uint16_t to_half(float value);
float from_half(uint16_t bits);

} // namespace onnx
