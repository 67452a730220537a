// The interpreter: the operators of the test fixtures, in float32, written to be read. Anything else is refused.
#include "onnx.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

namespace onnx
{

namespace
{

// The inputs of one node while it runs.
struct Call
{
    Node const& node;
    Values const& values;

    bool has(size_t i) const { return i < node.inputs.size() && !node.inputs[i].empty(); }
    Tensor const& in(size_t i) const
    {
        auto const found = has(i) ? values.find(node.inputs[i]) : values.end();
        if (found == values.end())
        {
            throw Bad(node.op + " lacks its input " + std::to_string(i));
        }
        return found->second;
    }
    int64_t integer(char const* name, int64_t otherwise) const
    {
        auto const found = node.attributes.find(name);
        return found == node.attributes.end() ? otherwise : found->second.i;
    }
    float real(char const* name, float otherwise) const
    {
        auto const found = node.attributes.find(name);
        return found == node.attributes.end() ? otherwise : found->second.f;
    }
    std::vector<int64_t> integers(char const* name, std::vector<int64_t> otherwise = {}) const
    {
        auto const found = node.attributes.find(name);
        return found == node.attributes.end() ? otherwise : found->second.ints;
    }
};

void need(bool holds, std::string const& what)
{
    if (!holds)
    {
        throw Bad(what);
    }
}

Tensor make(int type, Shape shape)
{
    Tensor tensor;
    tensor.type = type;
    tensor.values.assign(static_cast<size_t>(count(shape)), 0.0F);
    tensor.shape = std::move(shape);
    return tensor;
}

size_t axis_of(int64_t axis, size_t rank)
{
    int64_t const from_front = axis < 0 ? axis + static_cast<int64_t>(rank) : axis;
    need(from_front >= 0 && from_front < static_cast<int64_t>(rank), "an axis beyond the rank");
    return static_cast<size_t>(from_front);
}

// Axes from an attribute (older opsets) or from an input.
std::set<size_t> axes_of(Call const& call, size_t rank)
{
    std::vector<int64_t> axes = call.integers("axes");
    if (axes.empty() && call.has(1))
    {
        for (float axis : call.in(1).values)
        {
            axes.push_back(static_cast<int64_t>(axis));
        }
    }
    std::set<size_t> result;
    for (int64_t axis : axes)
    {
        result.insert(axis_of(axis, rank));
    }
    return result;
}

std::vector<int64_t> strides(Shape const& shape)
{
    std::vector<int64_t> steps(shape.size(), 1);
    for (size_t i = shape.size(); i-- > 1;)
    {
        steps[i - 1] = steps[i] * shape[i];
    }
    return steps;
}

Tensor elementwise(Call const& call, float (*operation)(float, float))
{
    Tensor const& a = call.in(0);
    Tensor const& b = call.in(1);
    size_t const rank = std::max(a.shape.size(), b.shape.size());
    auto const padded = [&](Shape shape) {
        shape.insert(shape.begin(), rank - shape.size(), 1);
        return shape;
    };
    Shape const sa = padded(a.shape);
    Shape const sb = padded(b.shape);
    Shape out(rank);
    for (size_t i = 0; i < rank; ++i)
    {
        need(sa[i] == sb[i] || sa[i] == 1 || sb[i] == 1, call.node.op + " of shapes that do not match");
        out[i] = sa[i] == 1 ? sb[i] : sa[i];
    }
    Tensor result = make(a.type, out);
    auto const steps = strides(out);
    auto const steps_a = strides(sa);
    auto const steps_b = strides(sb);
    for (size_t k = 0; k < result.values.size(); ++k)
    {
        size_t ia = 0;
        size_t ib = 0;
        for (size_t i = 0; i < rank; ++i)
        {
            int64_t const at = static_cast<int64_t>(k) / steps[i] % out[i];
            ia += static_cast<size_t>(sa[i] == 1 ? 0 : at * steps_a[i]);
            ib += static_cast<size_t>(sb[i] == 1 ? 0 : at * steps_b[i]);
        }
        result.values[k] = operation(a.values[ia], b.values[ib]);
    }
    return result;
}

Tensor cast(Call const& call)
{
    Tensor result = call.in(0);
    result.type = static_cast<int>(call.integer("to", FLOAT));
    need(result.type == FLOAT || result.type == FLOAT16, "Cast to a type that is not supported");
    return result;
}

Tensor transpose(Call const& call)
{
    Tensor const& x = call.in(0);
    size_t const rank = x.shape.size();
    std::vector<int64_t> perm = call.integers("perm");
    if (perm.empty())
    {
        for (size_t i = rank; i-- > 0;)
        {
            perm.push_back(static_cast<int64_t>(i));
        }
    }
    need(perm.size() == rank, "Transpose of another rank");
    Shape out;
    for (int64_t axis : perm)
    {
        out.push_back(x.shape[axis_of(axis, rank)]);
    }
    Tensor result = make(x.type, out);
    need(result.values.size() == x.values.size(), "Transpose that is no permutation");
    auto const from = strides(x.shape);
    auto const to = strides(out);
    for (size_t k = 0; k < result.values.size(); ++k)
    {
        int64_t at = 0;
        for (size_t i = 0; i < rank; ++i)
        {
            at += static_cast<int64_t>(k) / to[i] % out[i] * from[static_cast<size_t>(perm[i])];
        }
        result.values[k] = x.values[static_cast<size_t>(at)];
    }
    return result;
}

Tensor conv(Call const& call)
{
    Tensor const& x = call.in(0);
    Tensor const& w = call.in(1);
    need(x.shape.size() == 4 && w.shape.size() == 4, "Conv of another rank than 4");
    auto const stride = call.integers("strides", {1, 1});
    auto const pad = call.integers("pads", {0, 0, 0, 0});
    auto const dilation = call.integers("dilations", {1, 1});
    int64_t const groups = call.integer("group", 1);
    need(stride.size() == 2 && pad.size() == 4 && dilation.size() == 2 && stride[0] > 0 && stride[1] > 0 && groups > 0
            && w.shape[1] * groups == x.shape[1] && w.shape[0] % groups == 0,
        "Conv whose attributes do not match its weights");
    int64_t const ih = x.shape[2], iw = x.shape[3], kh = w.shape[2], kw = w.shape[3];
    int64_t const reach_h = ih + pad[0] + pad[2] - dilation[0] * (kh - 1) - 1;
    int64_t const reach_w = iw + pad[1] + pad[3] - dilation[1] * (kw - 1) - 1;
    need(reach_h >= 0 && reach_w >= 0, "Conv with a kernel beyond its input");
    Tensor y = make(x.type, {x.shape[0], w.shape[0], reach_h / stride[0] + 1, reach_w / stride[1] + 1});
    if (call.has(2))
    {
        need(call.in(2).values.size() == static_cast<size_t>(w.shape[0]), "Conv with another bias");
    }
    int64_t const per_group = w.shape[0] / groups;
    size_t k = 0;
    for (int64_t n = 0; n < y.shape[0]; ++n)
    {
        for (int64_t m = 0; m < y.shape[1]; ++m)
        {
            for (int64_t r = 0; r < y.shape[2]; ++r)
            {
                for (int64_t s = 0; s < y.shape[3]; ++s)
                {
                    float sum = call.has(2) ? call.in(2).values[static_cast<size_t>(m)] : 0.0F;
                    for (int64_t c = 0; c < w.shape[1]; ++c)
                    {
                        int64_t const channel = m / per_group * w.shape[1] + c;
                        for (int64_t i = 0; i < kh; ++i)
                        {
                            for (int64_t j = 0; j < kw; ++j)
                            {
                                int64_t const yy = r * stride[0] - pad[0] + i * dilation[0];
                                int64_t const xx = s * stride[1] - pad[1] + j * dilation[1];
                                if (yy >= 0 && yy < ih && xx >= 0 && xx < iw)
                                {
                                    sum += x.values[static_cast<size_t>(((n * x.shape[1] + channel) * ih + yy) * iw + xx)]
                                        * w.values[static_cast<size_t>(((m * w.shape[1] + c) * kh + i) * kw + j)];
                                }
                            }
                        }
                    }
                    y.values[k++] = sum;
                }
            }
        }
    }
    return y;
}

Tensor relu(Call const& call)
{
    Tensor result = call.in(0);
    for (float& value : result.values)
    {
        value = std::max(value, 0.0F);
    }
    return result;
}

Tensor reduce_mean(Call const& call)
{
    Tensor const& x = call.in(0);
    std::set<size_t> axes = axes_of(call, x.shape.size());
    bool const keep = call.integer("keepdims", 1) != 0;
    Shape kept, out;
    for (size_t i = 0; i < x.shape.size(); ++i)
    {
        bool const gone = axes.empty() || axes.count(i) != 0;
        kept.push_back(gone ? 1 : x.shape[i]);
        if (!gone || keep)
        {
            out.push_back(kept.back());
        }
    }
    Tensor result = make(x.type, out);
    auto const from = strides(x.shape);
    auto const to = strides(kept);
    for (size_t k = 0; k < x.values.size(); ++k)
    {
        int64_t at = 0;
        for (size_t i = 0; i < kept.size(); ++i)
        {
            at += kept[i] == 1 ? 0 : static_cast<int64_t>(k) / from[i] % x.shape[i] * to[i];
        }
        result.values[static_cast<size_t>(at)] += x.values[k];
    }
    for (float& value : result.values)
    {
        value *= static_cast<float>(result.values.size()) / static_cast<float>(x.values.size());
    }
    return result;
}

float sigmoid(float x)
{
    return 1.0F / (1.0F + std::exp(-x));
}

// One direction, the default activations, no peepholes. Gates in ONNX's order: input, output, forget, cell.
void lstm(Call const& call, std::vector<Tensor>& outputs)
{
    Tensor const& x = call.in(0);
    Tensor const& w = call.in(1);
    Tensor const& r = call.in(2);
    need(x.shape.size() == 3 && w.shape.size() == 3 && r.shape.size() == 3 && w.shape[0] == 1 && r.shape[0] == 1
            && w.shape[1] == 4 * r.shape[2] && r.shape[1] == w.shape[1] && w.shape[2] == x.shape[2],
        "LSTM whose weights do not match");
    need(!call.has(4) && !call.has(5) && !call.has(6) && !call.has(7), "LSTM with lengths, states or peepholes");
    int64_t const steps = x.shape[0], batch = x.shape[1], in = x.shape[2], hidden = r.shape[2];
    need(!call.has(3) || call.in(3).values.size() == static_cast<size_t>(8 * hidden), "LSTM with another bias");
    Tensor y = make(x.type, {steps, 1, batch, hidden});
    Tensor h = make(x.type, {1, batch, hidden});
    Tensor c = make(x.type, {1, batch, hidden});
    std::vector<float> gates(static_cast<size_t>(4 * hidden));
    for (int64_t t = 0; t < steps; ++t)
    {
        for (int64_t b = 0; b < batch; ++b)
        {
            float* const state = &h.values[static_cast<size_t>(b * hidden)];
            float* const cell = &c.values[static_cast<size_t>(b * hidden)];
            for (int64_t g = 0; g < 4 * hidden; ++g)
            {
                float sum = 0;
                if (call.has(3))
                {
                    auto const& bias = call.in(3).values;
                    sum = bias[static_cast<size_t>(g)] + bias[static_cast<size_t>(4 * hidden + g)];
                }
                for (int64_t i = 0; i < in; ++i)
                {
                    sum += x.values[static_cast<size_t>((t * batch + b) * in + i)]
                        * w.values[static_cast<size_t>(g * in + i)];
                }
                for (int64_t i = 0; i < hidden; ++i)
                {
                    sum += state[i] * r.values[static_cast<size_t>(g * hidden + i)];
                }
                gates[static_cast<size_t>(g)] = sum;
            }
            for (int64_t i = 0; i < hidden; ++i)
            {
                auto const gate = [&](int64_t which) { return gates[static_cast<size_t>(which * hidden + i)]; };
                cell[i] = sigmoid(gate(2)) * cell[i] + sigmoid(gate(0)) * std::tanh(gate(3));
                state[i] = sigmoid(gate(1)) * std::tanh(cell[i]);
                y.values[static_cast<size_t>((t * batch + b) * hidden + i)] = state[i];
            }
        }
    }
    outputs = {y, h, c};
}

Tensor squeeze(Call const& call)
{
    Tensor result = call.in(0);
    auto const axes = axes_of(call, result.shape.size());
    Shape out;
    for (size_t i = 0; i < result.shape.size(); ++i)
    {
        bool const gone = axes.empty() ? result.shape[i] == 1 : axes.count(i) != 0;
        need(!gone || result.shape[i] == 1, "Squeeze of a dimension that is not 1");
        if (!gone)
        {
            out.push_back(result.shape[i]);
        }
    }
    result.shape = out;
    return result;
}

Tensor gemm(Call const& call)
{
    Tensor const& a = call.in(0);
    Tensor const& b = call.in(1);
    need(a.shape.size() == 2 && b.shape.size() == 2, "Gemm of another rank than 2");
    bool const ta = call.integer("transA", 0) != 0;
    bool const tb = call.integer("transB", 0) != 0;
    int64_t const m = a.shape[ta ? 1 : 0], k = a.shape[ta ? 0 : 1], n = b.shape[tb ? 0 : 1];
    need(b.shape[tb ? 1 : 0] == k, "Gemm of shapes that do not match");
    Tensor y = make(a.type, {m, n});
    for (int64_t i = 0; i < m; ++i)
    {
        for (int64_t j = 0; j < n; ++j)
        {
            float sum = 0;
            for (int64_t l = 0; l < k; ++l)
            {
                sum += a.values[static_cast<size_t>(ta ? l * m + i : i * k + l)]
                    * b.values[static_cast<size_t>(tb ? j * k + l : l * n + j)];
            }
            y.values[static_cast<size_t>(i * n + j)] = call.real("alpha", 1) * sum;
        }
    }
    if (call.has(2))
    {
        auto const& c = call.in(2).values;
        need(c.size() == static_cast<size_t>(n), "Gemm with another bias");
        for (size_t i = 0; i < y.values.size(); ++i)
        {
            y.values[i] += call.real("beta", 1) * c[i % static_cast<size_t>(n)];
        }
    }
    return y;
}

Tensor softmax(Call const& call)
{
    Tensor result = call.in(0);
    size_t const axis = axis_of(call.integer("axis", -1), result.shape.size());
    int64_t const step = strides(result.shape)[axis];
    int64_t const extent = result.shape[axis];
    for (int64_t k = 0; k < static_cast<int64_t>(result.values.size()); ++k)
    {
        if (k / step % extent != 0)
        {
            continue;
        }
        auto const at = [&](int64_t i) -> float& { return result.values[static_cast<size_t>(k + i * step)]; };
        float most = at(0);
        for (int64_t i = 1; i < extent; ++i)
        {
            most = std::max(most, at(i));
        }
        float sum = 0;
        for (int64_t i = 0; i < extent; ++i)
        {
            at(i) = std::exp(at(i) - most);
            sum += at(i);
        }
        for (int64_t i = 0; i < extent; ++i)
        {
            at(i) /= sum;
        }
    }
    return result;
}

using Single = std::function<Tensor(Call const&)>;

std::map<std::string, Single> const& singles()
{
    static std::map<std::string, Single> const all = {
        {"Cast", cast},
        {"Conv", conv},
        {"Div", [](Call const& call) { return elementwise(call, [](float a, float b) { return a / b; }); }},
        {"Gemm", gemm},
        {"Mul", [](Call const& call) { return elementwise(call, [](float a, float b) { return a * b; }); }},
        {"ReduceMean", reduce_mean},
        {"Relu", relu},
        {"Softmax", softmax},
        {"Squeeze", squeeze},
        {"Transpose", transpose},
    };
    return all;
}

} // namespace

bool supports(std::string const& op)
{
    return op == "LSTM" || singles().count(op) != 0;
}

Values run(Graph const& graph, Values values, std::vector<std::string> const& wanted, bool half)
{
    std::set<std::string> needed(wanted.begin(), wanted.end());
    std::vector<bool> runs(graph.nodes.size(), false);
    for (size_t i = graph.nodes.size(); i-- > 0;)
    {
        for (std::string const& output : graph.nodes[i].outputs)
        {
            runs[i] = runs[i] || (!output.empty() && needed.count(output) != 0);
        }
        if (runs[i])
        {
            needed.insert(graph.nodes[i].inputs.begin(), graph.nodes[i].inputs.end());
        }
    }
    for (auto const& initializer : graph.initializers)
    {
        values.insert(initializer);
    }
    for (size_t i = 0; i < graph.nodes.size(); ++i)
    {
        Node const& node = graph.nodes[i];
        if (!runs[i])
        {
            continue;
        }
        try
        {
            std::vector<Tensor> outputs;
            Call const call{node, values};
            if (node.op == "LSTM")
            {
                lstm(call, outputs);
            }
            else
            {
                outputs.push_back(singles().at(node.op)(call));
            }
            for (size_t k = 0; k < node.outputs.size() && k < outputs.size(); ++k)
            {
                if (half || outputs[k].type == FLOAT16)
                {
                    for (float& value : outputs[k].values)
                    {
                        value = round_to_half(value);
                    }
                }
                values[node.outputs[k]] = std::move(outputs[k]);
            }
        }
        catch (Bad const& bad)
        {
            throw Bad(bad.what(), static_cast<int>(i));
        }
    }
    Values result;
    for (std::string const& name : wanted)
    {
        auto const found = values.find(name);
        need(found != values.end(), "nothing makes the output '" + name + "'");
        result[name] = found->second;
    }
    return result;
}

std::map<std::string, Shape> shapes(Graph const& graph)
{
    std::vector<std::string> wanted;
    for (Value const& output : graph.outputs)
    {
        wanted.push_back(output.name);
    }
    std::map<std::string, Shape> result;
    for (int64_t batch : {1, 2})
    {
        Values inputs;
        for (Value const& input : graph.inputs)
        {
            if (graph.initializers.count(input.name) != 0)
            {
                continue;
            }
            Shape shape = input.shape;
            for (size_t i = 0; i < shape.size(); ++i)
            {
                shape[i] = shape[i] >= 0 ? shape[i] : i == 0 ? batch : 16 * batch;
            }
            inputs[input.name] = make(input.type, shape);
        }
        for (auto const& output : run(graph, inputs, wanted, false))
        {
            Shape const& now = output.second.shape;
            Shape& before = result[output.first];
            if (batch == 1)
            {
                before = now;
            }
            for (size_t i = 0; i < now.size() && i < before.size(); ++i)
            {
                before[i] = before[i] == now[i] ? now[i] : -1;
            }
        }
    }
    return result;
}

} // namespace onnx
