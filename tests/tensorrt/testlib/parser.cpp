// The ONNX parser's double: checks the ONNX, and hands it to the nvinfer double's network. It must outlive the build,
// as NVIDIA's must: the network refers to the parser's copy of the weights.
#include "double.h"

void unexpected(char const* method)
{
    misuse(std::string("unexpected call of ") + method);
}

namespace
{

using nvonnxparser::ErrorCode;

class Error final : public nvonnxparser::StubIParserError
{
public:
    Error(ErrorCode code, std::string words, int node, std::string name, std::string op)
        : m_code(code)
        , m_words(std::move(words))
        , m_node(node)
        , m_name(std::move(name))
        , m_op(std::move(op))
    {
    }
    ErrorCode code() const override { return m_code; }
    char const* desc() const override { return m_words.c_str(); }
    int node() const override { return m_node; }
    char const* nodeName() const override { return m_name.c_str(); }
    char const* nodeOperator() const override { return m_op.c_str(); }

private:
    ErrorCode const m_code;
    std::string const m_words;
    int const m_node;
    std::string const m_name, m_op;
};

class Parser final : public nvonnxparser::StubIParser
{
public:
    Parser(nvinfer1::INetworkDefinition& network, Log log)
        : m_network(network)
        , m_log(log)
    {
    }
    ~Parser() noexcept override
    {
        if (m_weights != nullptr)
        {
            double_abandon(m_weights);
        }
    }

    bool parse(void const* bytes, size_t size, char const* path) noexcept override
    {
        if (path != nullptr)
        {
            unexpected("IParser::parse with a path");
        }
        if (m_log.fails("Parser::parse"))
        {
            return false;
        }
        onnx::Graph graph;
        try
        {
            graph = onnx::read(bytes, size);
            for (size_t i = 0; i < graph.nodes.size(); ++i)
            {
                if (!onnx::supports(graph.nodes[i].op))
                {
                    add(ErrorCode::kUNSUPPORTED_NODE, "No importer registered for op: " + graph.nodes[i].op
                            + ". Attempting to import as plugin.", graph, static_cast<int>(i));
                }
            }
            if (m_errors.empty())
            {
                m_weights = double_adopt(&m_network, bytes, size);
            }
        }
        catch (onnx::Bad const& bad)
        {
            add(bad.node < 0 ? ErrorCode::kMODEL_DESERIALIZE_FAILED : ErrorCode::kINVALID_NODE, bad.what(), graph, bad.node);
        }
        return m_errors.empty();
    }
    int getNbErrors() const noexcept override { return static_cast<int>(m_errors.size()); }
    nvonnxparser::IParserError const* getError(int index) const noexcept override
    {
        return m_errors.at(static_cast<size_t>(index)).get();
    }

private:
    void add(ErrorCode code, std::string const& words, onnx::Graph const& graph, int node)
    {
        bool const known = node >= 0 && static_cast<size_t>(node) < graph.nodes.size();
        m_errors.emplace_back(new Error(code, words, node, known ? graph.nodes[static_cast<size_t>(node)].name : "",
            known ? graph.nodes[static_cast<size_t>(node)].op : ""));
        m_log.error("ModelImporter.cpp: " + words);
    }

    nvinfer1::INetworkDefinition& m_network;
    Log const m_log;
    void* m_weights = nullptr;
    std::vector<std::unique_ptr<Error>> m_errors;
};

} // namespace

extern "C" __attribute__((visibility("default"))) int getNvOnnxParserVersion() noexcept
{
    return NV_ONNX_PARSER_VERSION;
}

extern "C" __attribute__((visibility("default"))) void* createNvOnnxParser_INTERNAL(
    void* network, void* logger, int version) noexcept
{
    Log const log(static_cast<nvinfer1::ILogger*>(logger));
    if (version != NV_ONNX_PARSER_VERSION)
    {
        misuse("a parser is made with headers of " + std::to_string(version));
    }
    if (log.fails("createNvOnnxParser"))
    {
        return nullptr;
    }
    return static_cast<nvonnxparser::IParser*>(new Parser(*static_cast<nvinfer1::INetworkDefinition*>(network), log));
}
