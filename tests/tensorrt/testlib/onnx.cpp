// The reader: protobuf's wire format, and the fields of ONNX that the fixtures use. Whatever it is given, it throws or
// returns a graph whose tensors have as many values as their shapes say.
#include "onnx.h"

#include <cstring>

namespace onnx
{

namespace
{

// One message: a range of bytes that is read field by field.
class Message
{
public:
    Message(uint8_t const* at, uint8_t const* end)
        : m_at(at)
        , m_end(end)
    {
    }

    // The next field; false at the end.
    bool next()
    {
        if (m_at == m_end)
        {
            return false;
        }
        uint64_t const key = varint();
        field = static_cast<uint32_t>(key >> 3);
        wire = static_cast<uint32_t>(key & 7);
        switch (wire)
        {
        case 0: number = varint(); break;
        case 1: take(8); break;
        case 2: take(varint()); break;
        case 5: take(4); break;
        default: throw Bad("Failed to parse ONNX model: wire type " + std::to_string(wire));
        }
        return true;
    }

    Message message() const { return Message(m_data, m_data + m_size); }
    std::string text() const { return std::string(reinterpret_cast<char const*>(m_data), m_size); }
    uint8_t const* data() const { return m_data; }
    size_t size() const { return m_size; }
    float real() const
    {
        float value = 0;
        if (m_size == sizeof(value))
        {
            std::memcpy(&value, m_data, sizeof(value));
        }
        return value;
    }

    // A repeated number, packed or not.
    void append(std::vector<int64_t>& to) const
    {
        if (wire == 0)
        {
            to.push_back(static_cast<int64_t>(number));
            return;
        }
        for (Message packed = message(); packed.m_at != packed.m_end;)
        {
            to.push_back(static_cast<int64_t>(packed.varint()));
        }
    }

    uint32_t field = 0, wire = 0;
    uint64_t number = 0;

private:
    uint64_t varint()
    {
        uint64_t value = 0;
        for (int shift = 0; shift < 64; shift += 7)
        {
            if (m_at == m_end)
            {
                break;
            }
            uint8_t const byte = *m_at++;
            value |= static_cast<uint64_t>(byte & 0x7F) << shift;
            if ((byte & 0x80) == 0)
            {
                return value;
            }
        }
        throw Bad("Failed to parse ONNX model: it is cut off, or no ONNX");
    }

    void take(uint64_t size)
    {
        if (size > static_cast<uint64_t>(m_end - m_at))
        {
            throw Bad("Failed to parse ONNX model: it is cut off, or no ONNX");
        }
        m_data = m_at;
        m_size = static_cast<size_t>(size);
        m_at += size;
    }

    uint8_t const* m_at;
    uint8_t const* m_end;
    uint8_t const* m_data = nullptr;
    size_t m_size = 0;
};

template <typename T>
void raw(Message const& from, std::vector<float>& to)
{
    if (from.size() % sizeof(T) != 0)
    {
        throw Bad("Failed to parse ONNX model: an initializer is cut off");
    }
    for (size_t i = 0; i < from.size(); i += sizeof(T))
    {
        T value;
        std::memcpy(&value, from.data() + i, sizeof(T));
        to.push_back(static_cast<float>(value));
    }
}

void read_tensor(Message message, std::string& name, Tensor& tensor)
{
    Message bytes(nullptr, nullptr);
    bool is_raw = false;
    std::vector<int64_t> numbers;
    tensor.type = 0;
    while (message.next())
    {
        switch (message.field)
        {
        case 1: message.append(tensor.shape); break;
        case 2: tensor.type = static_cast<int>(message.number); break;
        case 4:
            if (message.wire == 2)
            {
                raw<float>(message, tensor.values);
            }
            else
            {
                tensor.values.push_back(message.real());
            }
            break;
        case 5:
        case 7: message.append(numbers); break;
        case 8: name = message.text(); break;
        case 9:
            bytes = message;
            is_raw = true;
            break;
        default: break;
        }
    }
    if (is_raw)
    {
        switch (tensor.type)
        {
        case FLOAT: raw<float>(bytes, tensor.values); break;
        case UINT8: raw<uint8_t>(bytes, tensor.values); break;
        case INT8: raw<int8_t>(bytes, tensor.values); break;
        case INT32: raw<int32_t>(bytes, tensor.values); break;
        case INT64: raw<int64_t>(bytes, tensor.values); break;
        case FLOAT16:
        {
            std::vector<float> bits;
            raw<uint16_t>(bytes, bits);
            for (float b : bits)
            {
                tensor.values.push_back(from_half(static_cast<uint16_t>(b)));
            }
            break;
        }
        default: throw Bad("Failed to parse ONNX model: initializer '" + name + "' has an unsupported type");
        }
    }
    for (int64_t number : numbers)
    {
        tensor.values.push_back(
            tensor.type == FLOAT16 ? from_half(static_cast<uint16_t>(number)) : static_cast<float>(number));
    }
    if (count(tensor.shape) != static_cast<int64_t>(tensor.values.size()))
    {
        throw Bad("Failed to parse ONNX model: initializer '" + name + "' has other values than its shape says");
    }
}

Value read_value(Message message)
{
    Value value;
    while (message.next())
    {
        if (message.field == 1)
        {
            value.name = message.text();
        }
        if (message.field != 2)
        {
            continue;
        }
        for (Message type = message.message(); type.next();)
        {
            if (type.field != 1)
            {
                continue;
            }
            for (Message tensor = type.message(); tensor.next();)
            {
                if (tensor.field == 1)
                {
                    value.type = static_cast<int>(tensor.number);
                }
                if (tensor.field != 2)
                {
                    continue;
                }
                for (Message shape = tensor.message(); shape.next();)
                {
                    int64_t extent = -1;
                    for (Message dim = shape.message(); dim.next();)
                    {
                        extent = dim.field == 1 ? static_cast<int64_t>(dim.number) : extent;
                    }
                    value.shape.push_back(extent);
                }
            }
        }
    }
    return value;
}

Node read_node(Message message)
{
    Node node;
    while (message.next())
    {
        switch (message.field)
        {
        case 1: node.inputs.push_back(message.text()); break;
        case 2: node.outputs.push_back(message.text()); break;
        case 3: node.name = message.text(); break;
        case 4: node.op = message.text(); break;
        case 5:
        {
            std::string name;
            Attribute attribute;
            for (Message part = message.message(); part.next();)
            {
                switch (part.field)
                {
                case 1: name = part.text(); break;
                case 2: attribute.f = part.real(); break;
                case 3: attribute.i = static_cast<int64_t>(part.number); break;
                case 4: attribute.s = part.text(); break;
                case 8: part.append(attribute.ints); break;
                default: break;
                }
            }
            node.attributes[name] = attribute;
            break;
        }
        default: break;
        }
    }
    return node;
}

} // namespace

Graph read(void const* bytes, size_t size)
{
    Graph graph;
    uint8_t const* const begin = static_cast<uint8_t const*>(bytes);
    bool found = false;
    for (Message model(begin, begin + size); model.next();)
    {
        if (model.field != 7 || model.wire != 2)
        {
            continue;
        }
        found = true;
        for (Message part = model.message(); part.next();)
        {
            switch (part.field)
            {
            case 1: graph.nodes.push_back(read_node(part.message())); break;
            case 5:
            {
                std::string name;
                Tensor tensor;
                read_tensor(part.message(), name, tensor);
                graph.initializers[name] = std::move(tensor);
                break;
            }
            case 11: graph.inputs.push_back(read_value(part.message())); break;
            case 12: graph.outputs.push_back(read_value(part.message())); break;
            default: break;
            }
        }
    }
    if (!found || graph.outputs.empty())
    {
        throw Bad("Failed to parse ONNX model: there is no graph in it");
    }
    return graph;
}

int64_t count(Shape const& shape)
{
    int64_t n = 1;
    for (int64_t extent : shape)
    {
        if (extent < 0 || (extent > 0 && n > (int64_t{1} << 32) / extent))
        {
            throw Bad("a tensor of unreasonable size");
        }
        n *= extent;
    }
    return n;
}

size_t bytes_of(int type)
{
    switch (type)
    {
    case UINT8:
    case INT8: return 1;
    case FLOAT16: return 2;
    case INT64: return 8;
    default: return 4;
    }
}

uint16_t to_half(float value)
{
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    uint32_t const sign = bits >> 16 & 0x8000;
    int32_t const exponent = static_cast<int32_t>(bits >> 23 & 0xFF) - 127 + 15;
    uint32_t mantissa = bits & 0x7FFFFF;
    if (exponent == 255 - 127 + 15) // infinity, NaN
    {
        return static_cast<uint16_t>(sign | 0x7C00 | (mantissa != 0 ? 0x200 : 0));
    }
    if (exponent >= 31)
    {
        return static_cast<uint16_t>(sign | 0x7C00);
    }
    uint32_t shift = 13;
    uint32_t base = static_cast<uint32_t>(exponent) << 10;
    if (exponent <= 0) // subnormal
    {
        if (exponent < -10)
        {
            return static_cast<uint16_t>(sign);
        }
        mantissa |= 0x800000;
        shift = static_cast<uint32_t>(14 - exponent);
        base = 0;
    }
    uint32_t const cut = mantissa & ((1U << shift) - 1);
    uint32_t result = base + (mantissa >> shift);
    uint32_t const middle = 1U << (shift - 1);
    result += cut > middle || (cut == middle && (result & 1) != 0) ? 1 : 0; // to the nearest, ties to even
    return static_cast<uint16_t>(sign | result);
}

float from_half(uint16_t half)
{
    uint32_t const sign = static_cast<uint32_t>(half & 0x8000) << 16;
    int32_t exponent = half >> 10 & 0x1F;
    uint32_t mantissa = half & 0x3FF;
    uint32_t bits = sign;
    if (exponent == 31)
    {
        bits |= 0x7F800000 | mantissa << 13;
    }
    else if (exponent != 0 || mantissa != 0)
    {
        if (exponent == 0)
        {
            exponent = 1;
            while ((mantissa & 0x400) == 0)
            {
                mantissa <<= 1;
                --exponent;
            }
            mantissa &= 0x3FF;
        }
        bits |= static_cast<uint32_t>(exponent - 15 + 127) << 23 | mantissa << 13;
    }
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

float round_to_half(float value)
{
    return from_half(to_half(value));
}

} // namespace onnx
